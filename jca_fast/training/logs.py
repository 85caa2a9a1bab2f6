"""What a run tells: lines on the screen, metrics.csv, metrics.json and TensorBoard.

The history of a run (one row per epoch) lives in its checkpoint; the files are written anew from it after every epoch
and at every start. So a run that was killed and resumed has neither a lost nor a doubled row.
"""

from __future__ import annotations

import csv
import inspect
import io
import resource
import statistics
from pathlib import Path
from typing import Any

import torch

from jca_fast.atomic import write_json, write_text

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
    """The log files of one run in the folder out. Only the main process has one."""

    def __init__(self, out: Path, history: list[dict[str, Any]], tensorboard: bool = False) -> None:
        self.out = out
        self.board = _open_board(out / "tensorboard") if tensorboard else None
        for row in history:
            self._to_board(row)

    def write(self, history: list[dict[str, Any]], summary: dict[str, Any]) -> None:
        """Brings all files up to date; the last row of history is new to TensorBoard."""
        self._to_board(history[-1])
        self.rewrite(history, summary)

    def rewrite(self, history: list[dict[str, Any]], summary: dict[str, Any]) -> None:
        """Writes metrics.csv and metrics.json anew."""
        write_text(self.out / "metrics.csv", csv_text(history, COLUMNS))
        write_json(self.out / "metrics.json", {**summary, "history": history})

    def close(self) -> None:
        """Flushes and closes TensorBoard."""
        if self.board is not None:
            self.board.close()

    def _to_board(self, row: dict[str, Any]) -> None:
        if self.board is None:
            return
        for name in COLUMNS[2:-1]:
            if row[name] is not None:
                self.board.add_scalar(name, row[name], row["epoch"], walltime=row["time"])
        self.board.flush()


def epoch_line(row: dict[str, Any], epochs: int, best: bool) -> str:
    """One line on an epoch for the screen."""
    text = f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}"
    text += f"  train {row['train_loss']:.4f} {100 * row['train_accuracy']:5.1f} %"
    if row["val_accuracy"] is not None:
        text += (
            f"  val {row['val_loss']:.4f} {100 * row['val_accuracy']:5.1f} %{'*' if best else ' '}"
        )
    return text + f"  lr {row['lr']:.1e}  {row['seconds']:.1f} s"


def summarize_seeds(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and sample standard deviation over seeds of the scores of the summaries of several runs."""
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
    """The form of the model and the arguments that are not its defaults, on one line."""
    defaults = inspect.signature(type(model)).parameters
    config: dict[str, Any] = model.config  # type: ignore[assignment]
    return ", ".join(
        f"{k}={v}" for k, v in config.items() if k == "form" or v != defaults[k].default
    )


def peak_memory(device: torch.device) -> dict[str, int]:
    """Largest resident memory of this process so far in MiB, and on a GPU the largest memory of its tensors."""
    peak = {"host": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}
    if device.type == "cuda":
        peak["gpu"] = round(torch.cuda.max_memory_allocated(device) / 2**20)
    return peak


def final_line(summary: dict[str, Any]) -> str:
    """The last line of a run."""
    best, test = summary["best"], summary["test"]
    text = f"best     epoch {best['epoch']}: validation {100 * best['val_accuracy']:.2f} %, test "
    return (
        text
        + f"{100 * test['accuracy']:.2f} % of segments ({100 * test['batch_mean_accuracy']:.2f} % as mean of batches)"
    )


def _open_board(folder: Path) -> Any:
    """A TensorBoard writer on an empty folder, or None and one line if TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print(
            "TensorBoard is not installed, so no TensorBoard log is written: pip install tensorboard"
        )
        return None
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("events.out.tfevents.*"):  # the whole history is written again
        old.unlink()
    return SummaryWriter(str(folder))
