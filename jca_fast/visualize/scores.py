"""Pictures of the scores of a run: curves over the epochs, confusion, classes, reliability."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from jca_fast.reading import user_path

from .style import STYLE, new_figure, save

DPI = 150


def draw_curves(history: list[dict[str, Any]], baseline: float, path: Path) -> Path:
    """Loss, accuracy and learning rate over the epochs; history: the rows of metrics.csv."""
    epochs = [row["epoch"] for row in history]
    with rc_context(STYLE):
        figure = new_figure(10, 3, layout="constrained")
        loss, accuracy, rate = figure.subplots(1, 3)
        for split in ("train", "val"):
            for axes, metric, scale in ((loss, "loss", 1.0), (accuracy, "accuracy", 100.0)):
                values = [row[f"{split}_{metric}"] for row in history]
                known = [scale * value if value is not None else np.nan for value in values]
                label = {"train": "training", "val": "validation"}[split]
                if not np.isnan(known).all():
                    axes.plot(epochs, known, label=label, marker=".", markersize=3)
        accuracy.axhline(100 * baseline, color="0.5", linestyle=":", label="most frequent class")
        rate.semilogy(epochs, [max(row["lr"], 1e-12) for row in history], color="0.3")
        for axes, name in (
            (loss, "loss"),
            (accuracy, "accuracy, % of segments"),
            (rate, "learning rate"),
        ):
            axes.set_xlabel("epoch")
            axes.set_ylabel(name)
        loss.legend(frameon=False)
        accuracy.legend(frameon=False)
    return save(figure, path, DPI)


def draw_scores(result: dict[str, Any], folder: str | Path) -> list[Path]:
    """confusion.png, classes.png and reliability.png of a result of `evaluate_checkpoint`.

    The folder is made if missing. Returns the paths.
    """
    folder = user_path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    title = f"{result['split']} split, {result['num_segments']} segments"
    pictures = {
        "confusion.png": _confusion(result, title),
        "classes.png": _classes(result, title),
        "reliability.png": _reliability(result, title),
    }
    return [save(figure, folder / name, DPI) for name, figure in pictures.items()]


def _confusion(result: dict[str, Any], title: str) -> Figure:
    """Share of the segments of each true class (row) that got each predicted class (column)."""
    counts, names = np.array(result["confusion"], dtype=float), result["classes"]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 3 + 0.24 * len(names)
    with rc_context(STYLE):
        figure = new_figure(size + 0.8, size, layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        axes.set_title(f"Confusion, {title}")
        figure.colorbar(image, ax=axes, shrink=0.7, label="share of the segments of the true class")
    return figure


def _classes(result: dict[str, Any], title: str) -> Figure:
    """Accuracy of every class that has segments."""
    rows = [
        (f"{name} ({count})", 100 * accuracy)
        for name, count, accuracy in zip(
            result["classes"], result["class_segments"], result["per_class_accuracy"], strict=True
        )
        if accuracy is not None
    ][::-1]
    with rc_context(STYLE):
        figure = new_figure(7, 1.4 + 0.22 * len(rows), layout="constrained")
        axes = figure.subplots()
        axes.barh([name for name, _ in rows], [accuracy for _, accuracy in rows], color="#4477aa")
        axes.axvline(100 * result["accuracy"], color="0.3", linestyle=":", label="all segments")
        axes.tick_params(axis="y", labelsize=7)
        axes.set_xlim(0, 100)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel("accuracy, % of the segments of the class (their number in brackets)")
        axes.set_title(f"Accuracy by class, {title}")
        axes.legend(frameon=False, loc="lower right", fontsize=8)
    return figure


def _reliability(result: dict[str, Any], title: str) -> Figure:
    """Accuracy against confidence, and the number of segments by confidence."""
    bins = result["reliability"]
    with rc_context(STYLE):
        figure = new_figure(4.2, 4.6, layout="constrained")
        upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
        width = [entry["high"] - entry["low"] for entry in bins]
        left = [entry["low"] for entry in bins]
        heights = [entry["accuracy"] for entry in bins]
        upper.bar(left, heights, width, align="edge", color="#4477aa", label="accuracy")
        upper.plot([0, 1], [0, 1], color="0.3", linestyle=":", label="perfect calibration")
        upper.plot(
            [entry["confidence"] for entry in bins],
            heights,
            "o",
            color="#cc6677",
            label="mean confidence of the bin",
        )
        lower.bar(left, [entry["segments"] for entry in bins], width, align="edge", color="0.6")
        upper.set_ylabel("accuracy")
        lower.set_ylabel("segments")
        lower.set_xlabel("probability of the predicted class")
        lower.set_xlim(0, 1)
        upper.set_ylim(0, 1)
        ece = "" if result["ece"] is None else f", ECE {100 * result['ece']:.1f} %"
        upper.set_title(f"Reliability, {title}{ece}", fontsize=9)
        upper.legend(frameon=False, fontsize=8)
    return figure
