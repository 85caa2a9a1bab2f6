"""Reports of a run: lines on the screen, metrics.csv, metrics.json, TensorBoard and curves.

The checkpoint holds the history of a run (one row per epoch). The files are rewritten from it after
every epoch and at every start. So a run that was killed and resumed has no lost or repeated row.
"""

from __future__ import annotations

import csv
import inspect
import io
import resource
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from jca_fast.atomic import naming, write_json, write_text

if TYPE_CHECKING:
    from jca_fast.data.ave import AVEDataset
    from jca_fast.training.config import Config
    from jca_fast.training.distributed import Group
    from jca_fast.training.objective import Objective

COLUMNS = (
    "epoch",
    "step",
    "lr",
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "val_batch_mean_accuracy",
    "seconds",
    "time",
)


def csv_text(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> str:
    """A CSV table with a header line; None is an empty cell."""
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


class RunLog:
    """The log files of one run in the folder out. Only the main process has a RunLog."""

    def __init__(self, out: Path, history: list[dict[str, Any]], tensorboard: bool = False) -> None:
        self.out = out
        self.board = _open_board(out / "tensorboard") if tensorboard else None
        for row in history:
            self._to_board(row)

    def write(self, history: list[dict[str, Any]], summary: dict[str, Any]) -> None:
        """Updates all files; only the last row of history is added to TensorBoard."""
        self._to_board(history[-1])
        self.rewrite(history, summary)

    def rewrite(self, history: list[dict[str, Any]], summary: dict[str, Any]) -> None:
        """Rewrites metrics.csv and metrics.json."""
        write_text(self.out / "metrics.csv", csv_text(history, COLUMNS))
        write_json(self.out / "metrics.json", {**summary, "history": history})

    def draw(self, history: list[dict[str, Any]], baseline: float) -> None:
        """Draws the curves of metrics.csv as curves.png."""
        from jca_fast.visualize.scores import draw_curves

        draw_curves(history, baseline, self.out / "curves.png")

    def close(self) -> None:
        """Flushes and closes TensorBoard."""
        if self.board is not None:
            self.board.close()

    def _to_board(self, row: dict[str, Any]) -> None:
        if self.board is None:
            return
        with naming(self.out / "tensorboard"):
            for name in COLUMNS[2:-1]:
                if row[name] is not None:
                    self.board.add_scalar(name, row[name], row["epoch"], walltime=row["time"])
            self.board.flush()


class Progress:
    """One bar for the whole run with the time left; without a terminal, a line now and then."""

    def __init__(self, total: int, done: int, show: bool | None) -> None:
        """total and done count batches; show: True, False, or None for "on a terminal"."""
        from tqdm import tqdm

        self.total = total
        self.done = done
        self.first = done
        self.quiet = show is False
        self.bar = tqdm(
            total=total,
            initial=done,
            disable=None if show is None else not show,
            unit="batch",
            leave=False,
            dynamic_ncols=True,
        )
        self.start = self.last_line = time.monotonic()

    def skip(self, count: int) -> None:
        """Counts batches of an earlier run, which do not enter the estimate of the time left."""
        self.done += count
        self.first += count
        if not self.bar.disable:
            self.bar.initial += count
            self.bar.update(count)

    def name(self, text: str) -> None:
        """Sets the text before the bar."""
        self.bar.set_description(text)

    def step(self, where: str) -> None:
        """Counts a batch; where is the place in the run, for the lines without a terminal."""
        self.done += 1
        self.bar.update()
        now = time.monotonic()
        if self.bar.disable and not self.quiet and now - self.last_line >= QUIET_SECONDS:
            self.last_line = now
            left = (now - self.start) / (self.done - self.first) * (self.total - self.done)
            print(f"{where}, {duration(left)} left", flush=True)

    def say(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        if self.bar.disable:
            print(text, flush=True)
        else:
            self.bar.write(text)
        self.last_line = time.monotonic()

    def close(self) -> None:
        """Removes the bar."""
        self.bar.close()
        self.bar.disable = True


QUIET_SECONDS = 60
"""The time between two lines without a terminal."""


def duration(seconds: float) -> str:
    """A duration as text, like 40 s, 12 min or 3 h 5 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def start_lines(
    config: Config,
    train_set: AVEDataset,
    val_set: AVEDataset,
    objective: Objective,
    group: Group,
    backends: list[str],
    baseline: float,
) -> list[str]:
    """The lines at the start of a run: data, model, loss, device, backends, baseline, hints."""
    segments, classes = val_set.labels.shape[1:]
    sizes = f"{len(train_set)} training and {len(val_set)} validation clips"
    threads = torch.get_num_threads()
    count = sum(parameter.numel() for parameter in objective.model.parameters())
    processes = f"{group.world} process{'es' * (group.world > 1)}"
    labels = ", labels by clip" if train_set.weak else ""
    lines = [
        f"data     {config.data}: {sizes}, {segments} segments, {classes} classes{labels}",
        f"model    {count / 1e6:.2f} million parameters, {describe(objective.model)}",
        f"loss     {objective.loss}, {config.precision}",
        f"device   {group.device}, {processes}, {threads} thread{'s' * (threads > 1)} each",
        f"backend  {'; '.join(backends) or 'none: this model calls no op of the library'}",
        f"baseline {100 * baseline:.1f} % of the validation segments have the most frequent class",
    ]
    if "float64" in train_set.storage:
        advice = f"`jca-fast data prepare {config.data}` makes a cache that reads faster"
        lines.append(f"hint     {train_set.storage}: {advice}")
    return lines


def epoch_line(row: dict[str, Any], epochs: int, best: bool, baseline: float) -> str:
    """One line on an epoch; it ends in "(baseline)" if the validation accuracy is no better."""
    text = f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}"
    text += f"  train {row['train_loss']:.4f} {100 * row['train_accuracy']:5.1f} %"
    if row["val_accuracy"] is not None:
        loss = "not finite" if row["val_loss"] is None else f"{row['val_loss']:.4f}"
        text += f"  val {loss} {100 * row['val_accuracy']:5.1f} %{'*' if best else ' '}"
    text += f"  lr {row['lr']:.1e}  {row['seconds']:.1f} s"
    return text + ("  (baseline)" if on_baseline(row["val_accuracy"], baseline) else "")


def on_baseline(accuracy: float | None, baseline: float) -> bool:
    """Whether an accuracy is less than half a point above that of the most frequent class."""
    return accuracy is not None and accuracy <= baseline + 0.005


def summarize_seeds(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and sample standard deviation of the scores of several runs over their seeds.

    results: the summaries of the runs.
    """
    runs = [
        {
            "seed": result["config"]["seed"],
            "best_epoch": result["best"]["epoch"],
            "val_accuracy": result["best"]["val_accuracy"],
            "test_accuracy": result["test"]["accuracy"],
            "test_batch_mean_accuracy": result["test"]["batch_mean_accuracy"],
        }
        for result in results
    ]
    names = ("val_accuracy", "test_accuracy", "test_batch_mean_accuracy")
    values = {name: [run[name] for run in runs] for name in names}
    scores = {
        name: {"mean": statistics.mean(v), "sd": statistics.stdev(v)} for name, v in values.items()
    }
    return {"seeds": len(runs), "scores": scores, "runs": runs}


def describe(model: torch.nn.Module) -> str:
    """One line with the form of the model and its arguments that differ from the defaults."""
    defaults = inspect.signature(type(model)).parameters
    config: dict[str, Any] = model.config  # type: ignore[assignment]
    return ", ".join(
        f"{k}={v}" for k, v in config.items() if k == "form" or v != defaults[k].default
    )


def peak_memory(device: torch.device) -> dict[str, int]:
    """Peak resident memory of this process in MiB, and on a GPU the peak memory of its tensors."""
    peak = {"host": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}
    if device.type == "cuda":
        peak["gpu"] = round(torch.cuda.max_memory_allocated(device) / 2**20)
    return peak


def final_lines(summary: dict[str, Any]) -> list[str]:
    """The last lines of a run."""
    best, test = summary["best"], summary["test"]
    text = f"best     epoch {best['epoch']}: validation {100 * best['val_accuracy']:.2f} %, "
    text += f"test {100 * test['accuracy']:.2f} % of segments "
    text += f"({100 * test['batch_mean_accuracy']:.2f} % as mean of batches)"
    if not on_baseline(best["val_accuracy"], summary["val_majority_baseline"]):
        return [text]
    advice = "more epochs, another lr (--find-lr) or another --recipe may help"
    return [text, f"warning  the model does not beat the most frequent class; {advice}"]


def _open_board(folder: Path) -> Any:
    """A TensorBoard writer on an empty folder. Without TensorBoard it prints a line; None."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print(
            "TensorBoard is not installed, so no TensorBoard log is written: "
            "pip install tensorboard"
        )
        return None
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("events.out.tfevents.*"):  # the whole history is rewritten
        old.unlink()
    return SummaryWriter(str(folder))
