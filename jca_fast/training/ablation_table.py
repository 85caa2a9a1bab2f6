"""The table of an ablation beside the paper's: Markdown, CSV and a plot with error bars.

The paper's ordering of two rows holds if the mean accuracies differ in the same direction by more
than twice the standard error of the difference. It is contradicted if they differ by as much in the
other direction. The standard deviation is pooled over the rows, because three seeds of one row
estimate it poorly.
"""

from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jca_fast.atomic import write_text
from jca_fast.models.tables import Row
from jca_fast.training.logs import csv_text

if TYPE_CHECKING:
    from jca_fast.training.ablation_config import Ablation

HOLDS = "holds"
CONTRADICTED = "contradicted"
OPEN = "not told apart"
COLUMNS = (
    "row",
    "paper_accuracy",
    "seeds",
    "accuracy",
    "accuracy_sd",
    "batch_mean_accuracy",
    "batch_mean_accuracy_sd",
    "paper_parameters_millions",
    "parameters",
    "fused_seconds",
    "reference_seconds",
    "fused_mib",
    "reference_mib",
)


@dataclass
class RowResult:
    """A row of the paper, metrics.json of its finished trainings, and the cost of a step."""

    row: Row
    runs: list[dict[str, Any]] = field(default_factory=list)
    cost: dict[str, dict[str, float]] = field(default_factory=dict)

    def scores(self, name: str = "accuracy") -> list[float]:
        """A metric of the test split in percent, by seed."""
        return [100 * run["test"][name] for run in self.runs]

    def record(self) -> dict[str, Any]:
        """The values of the row by ``COLUMNS``; None for a value that is not measured."""
        seconds, mib = self.cost.get("seconds", {}), self.cost.get("mib", {})
        values: list[Any] = [self.row.label, self.row.accuracy, len(self.runs)]
        for name in ("accuracy", "batch_mean_accuracy"):
            scores = self.scores(name)
            values.append(round(statistics.mean(scores), 3) if scores else None)
            values.append(round(statistics.stdev(scores), 3) if len(scores) > 1 else None)
        values.append(self.row.parameters or None)
        values.append(self.runs[0]["num_parameters"] if self.runs else None)
        values += [seconds.get("fused"), seconds.get("reference")]
        values += [mib.get("fused"), mib.get("reference")]
        return dict(zip(COLUMNS, values, strict=True))


@dataclass
class Ordering:
    """Two rows with different accuracies in the paper, the better first, and our measurement."""

    better: str
    worse: str
    paper: float
    difference: float
    error: float

    @property
    def verdict(self) -> str:
        """Whether the paper's ordering holds."""
        if abs(self.difference) <= 2 * self.error or not self.difference:
            return OPEN
        return HOLDS if self.difference > 0 else CONTRADICTED

    def __str__(self) -> str:
        measured = f"{self.difference:+.1f} ± {self.error:.1f} points"
        return f"{self.better} over {self.worse}: {measured} (paper {self.paper:+.1f})"


def orderings(rows: list[RowResult]) -> list[Ordering]:
    """All pairs of rows with different accuracies in the paper and two seeds or more each."""
    known = [row for row in rows if len(row.runs) > 1]
    freedom = sum(len(row.runs) - 1 for row in known)
    if not freedom:
        return []
    variance = sum((len(r.runs) - 1) * statistics.variance(r.scores()) for r in known) / freedom
    found = []
    for pair in itertools.combinations(known, 2):
        better, worse = sorted(pair, key=lambda row: -row.row.accuracy)
        if better.row.accuracy == worse.row.accuracy:
            continue
        means = [statistics.mean(row.scores()) for row in (better, worse)]
        error = math.sqrt(variance * (1 / len(better.runs) + 1 / len(worse.runs)))
        paper = better.row.accuracy - worse.row.accuracy
        labels = better.row.label, worse.row.label
        found.append(Ordering(*labels, paper, means[0] - means[1], error))
    return found


def write_table(out: Path, ablation: Ablation, rows: list[RowResult]) -> Path:
    """Writes `table<n>.csv` and `table<n>.md`; returns the path of the latter."""
    path = out / f"table{ablation.table}.md"
    records = [row.record() for row in rows]
    write_text(path.with_suffix(".csv"), csv_text(records, COLUMNS))
    write_text(path, markdown(ablation, rows, path.with_suffix(".png").name))
    return path


def markdown(ablation: Ablation, rows: list[RowResult], picture: str) -> str:
    """The whole page."""
    lines = [f"# Table {ablation.table} of the paper{'' if ablation.data else ' on Planted AVE'}"]
    lines += ["", *_introduction(ablation, rows), ""]
    lines += [*_cells(rows), "", *_verdicts(ablation, rows), "", f"![Accuracy]({picture})", ""]
    return "\n".join(lines)


def _introduction(ablation: Ablation, rows: list[RowResult]) -> list[str]:
    """The text above the table: command, machine, missing trainings, and the data set."""
    from jca_fast.bench.pairs import machine

    settings = {**ablation.shared(), "seeds": ablation.seeds}
    if ablation.data:
        settings.pop("clips")
    flags = (f"--{n.replace('_', '-')} {v}" for n, v in settings.items() if v)
    facts = machine()
    text = [
        f"`jca-fast ablate --table {ablation.table} {' '.join(flags)}` on {facts['processor']}, "
        f"torch {facts['torch']}, threads: {facts['threads']}, kernels: {facts['kernels']}."
    ]
    missing = sum(ablation.seeds - len(row.runs) for row in rows if row.row.arguments is not None)
    if missing:
        text += [
            "",
            f"**Not finished:** {missing} trainings are missing; the same command continues.",
        ]
    if not ablation.data:
        text += [
            "",
            "**Planted AVE is not AVE.** Its clips are drawn from a seed, in the layout and scale "
            "of the real features, and its difficulty was chosen so that the rows can differ. A "
            "row's accuracy cannot be compared with the paper's; only the order of the rows can. "
            f"The models have d_a and d_v divided by {ablation.scale}.",
        ]
    return text


def _cells(rows: list[RowResult]) -> list[str]:
    """The table: accuracy on all test segments, and as the published mean of batches of 64."""
    head = (
        "row",
        "paper, %",
        "accuracy, %",
        "mean of batches, %",
        "parameters (paper), M",
        "s/step fused",
        "reference",
        "MiB fused",
        "reference",
    )
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for row in rows:
        record = row.record()
        printed = f" ({row.row.parameters})" if row.row.parameters else ""
        count = record["parameters"]
        cells = (
            row.row.label,
            f"{row.row.accuracy:.1f}",
            _mean(record, "accuracy"),
            _mean(record, "batch_mean_accuracy"),
            "" if count is None else f"{count / 1e6:.3f}{printed}",
            *(_number(record[name]) for name in COLUMNS[-4:]),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _mean(record: dict[str, Any], name: str) -> str:
    """A mean with its standard deviation over the seeds."""
    if record[name] is None:
        return ""
    spread = record[name + "_sd"]
    return f"{record[name]:.1f}" + ("" if spread is None else f" ± {spread:.1f}")


def _number(value: float | None) -> str:
    """A number with three significant digits; empty for None."""
    return "" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _verdicts(ablation: Ablation, rows: list[RowResult]) -> list[str]:
    """The list of the paper's orderings by verdict."""
    found = orderings(rows)
    if not found:
        return ["At least two seeds are needed to decide which orderings of the paper hold."]
    lines = [
        f"{verdict_counts(found)} A difference counts if it exceeds twice its standard error over "
        "seeds (sd pooled over the rows). All rows are scored on the same test clips, so the error "
        "does not include the variation between test sets.",
    ]
    for verdict in (CONTRADICTED, HOLDS, OPEN):
        chosen = [ordering for ordering in found if ordering.verdict == verdict]
        if chosen:
            lines += ["", f"{verdict.capitalize()}:", "", *(f"* {text}" for text in chosen)]
    return lines


def verdict_counts(found: list[Ordering]) -> str:
    """One sentence on all orderings."""
    counts = {v: sum(o.verdict == v for o in found) for v in (HOLDS, CONTRADICTED, OPEN)}
    return (
        f"Of the {len(found)} orderings that the paper prints between these rows, "
        f"{counts[HOLDS]} hold, {counts[CONTRADICTED]} are contradicted and {counts[OPEN]} cannot "
        "be told apart."
    )


def draw(path: Path, ablation: Ablation, rows: list[RowResult]) -> Path:
    """Accuracy by row: mean, standard deviation and every seed, beside the paper's figure."""
    from matplotlib import rc_context

    from jca_fast.visualize.style import EVENT, INK, STYLE, WRONG, new_figure, save

    with rc_context(STYLE):
        figure = new_figure(7.5, 1.3 + 0.34 * len(rows), layout="constrained")
        axes = figure.subplots()
        for place, row in enumerate(rows):
            scores = row.scores()
            axes.plot(row.row.accuracy, place, "D", color=WRONG, markersize=5)
            if not scores:
                continue
            spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
            axes.plot(scores, [place] * len(scores), ".", color=INK, markersize=4, alpha=0.5)
            style: dict[str, Any] = {"fmt": "o", "color": EVENT, "markersize": 5, "capsize": 3}
            axes.errorbar(statistics.mean(scores), place, xerr=spread, **style)
        axes.plot([], [], "D", color=WRONG, label="paper, AVE")
        where = "features given" if ablation.data else "Planted AVE"
        axes.plot([], [], "o-", color=EVENT, label=f"measured, {where} (mean ± sd)")
        axes.plot([], [], ".", color=INK, alpha=0.5, label="one seed")
        axes.set_yticks(range(len(rows)), [row.row.label for row in rows])
        axes.invert_yaxis()
        axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel("accuracy, % of test segments")
        figure.legend(frameon=False, loc="outside lower center", ncols=3)
    return save(figure, path, 150)
