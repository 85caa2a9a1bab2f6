"""The table that ends a benchmark run: one row for each comparison, at most 100 columns wide.

what, shape     the case
ours .. loop    median milliseconds of jca_fast, of plain PyTorch, of torch.compile of the same
formulas, and
                of the Python loop over the batch, the published code or KeOps
ratio           time of the first baseline over ours: median (20th to 80th percentile of the rounds)
MiB             growth of the peak memory, ours/baseline, each in a separate process
limit           share of the bound of the case (multiply-add rate or memory bandwidth)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

Summary = dict[str, dict[str, float]]
"""For each provider: "ms", and "ratio", "low", "high" of its time over ours."""

COLUMNS = (
    ("what", 24),
    ("shape", 17),
    ("ours", 5),
    ("eager", 6),
    ("compile", 7),
    ("loop", 6),
    ("ratio", 15),
    ("MiB", 7),
    ("limit", 5),
)
BASELINES = ("eager", "published", "loop", "compile")


@dataclasses.dataclass
class Row:
    """One comparison; rows of the same case and shape become one line."""

    what: str
    shape: str
    times: Summary = dataclasses.field(default_factory=dict)
    peak_mib: dict[str, float] = dataclasses.field(default_factory=dict)
    limit: float | None = None

    def update(self, other: Row) -> None:
        """Take over the measurements of another row of the same case."""
        self.times.update(other.times)
        self.peak_mib.update(other.peak_mib)
        self.limit = other.limit if self.limit is None else self.limit

    def baseline(self) -> str | None:
        """The provider that the ratio compares with."""
        return next((name for name in BASELINES if name in self.times), None)


def merged(rows: Sequence[Row]) -> list[Row]:
    """One row for each case and shape, in the order of their first measurement."""
    found: dict[tuple[str, str], Row] = {}
    for row in rows:
        found.setdefault((row.what, row.shape), Row(row.what, row.shape)).update(row)
    return list(found.values())


def short(ratio: float) -> str:
    """A ratio in at most four characters."""
    return f"{ratio:.0f}" if ratio >= 100 else f"{ratio:.1f}" if ratio >= 10 else f"{ratio:.2f}"


def milliseconds(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def cells(row: Row) -> tuple[str, ...]:
    """The text of every column of a row."""
    ms = {name: milliseconds(times["ms"]) for name, times in row.times.items()}
    name, ratio = row.baseline(), ""
    if name:
        found = row.times[name]
        ratio = f"{short(found['ratio'])} ({short(found['low'])}-{short(found['high'])})"
    ours = row.peak_mib.get("jca_fast")
    others = [mib for provider, mib in row.peak_mib.items() if provider != "jca_fast"]
    return (
        row.what,
        row.shape,
        ms.get("jca_fast", ""),
        ms.get("eager", ""),
        ms.get("compile", ms.get("autotune", "")),
        ms.get("loop", ms.get("published", ms.get("keops", ""))),
        ratio,
        f"{ours:.0f}/{others[0]:.0f}" if others and ours is not None else "",
        f"{100 * row.limit:.0f} %" if row.limit is not None else "",
    )


def render(rows: Sequence[Row]) -> list[str]:
    """The lines of the table."""
    lines = [tuple(name for name, _ in COLUMNS), *(cells(row) for row in merged(rows))]
    widths = [width for _, width in COLUMNS]
    text = []
    for line in lines:
        left = "".join(f"{line[i]:<{widths[i]}} " for i in (0, 1))
        right = " ".join(f"{line[i]:>{widths[i]}}" for i in range(2, len(line)))
        text.append((left + right).rstrip())
    return [*text[:1], "-" * (sum(widths) + len(widths) - 1), *text[1:]]


def spreads(rows: Sequence[Row]) -> list[float]:
    """The spread of the ratio of every row that has one, 80th over 20th percentile."""
    pairs = ((row, row.baseline()) for row in rows)
    return [row.times[name]["high"] / row.times[name]["low"] for row, name in pairs if name]
