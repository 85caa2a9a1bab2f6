"""Metrics of audio-visual event localization, as plain functions of predicted and true classes.

There are two kinds of accuracy. The exact one divides all correct segments by all segments. The
published training code instead averages the means of batches, so the clips of a short last batch
weigh more; this number is only for comparison with published results. Counts (`confusion_matrix`,
`PointingGame`) of several processes can be added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

UNDEFINED = -1
"""The predicted class of a segment whose scores are not finite; it counts as wrong."""


def segment_accuracy(predicted: Tensor, target: Tensor) -> float:
    """Exact accuracy: correct segments / all segments.

    predicted, target: classes (n, N), any integer dtype. Raises ValueError if the shapes differ or
    there is no segment.
    """
    _check(predicted, target)
    return float((predicted == target).double().mean())


def batch_mean_accuracy(
    predicted: Tensor, target: Tensor, batch_size: int = 64, used: Tensor | None = None
) -> float:
    """Mean over batches of their accuracy, for batches of clips in the given order.

    This is the accuracy of the published evaluation code (batches of 64); with 402 clips the last
    18 weigh 1/7.

    predicted, target: classes (n, N). used: bool (n, N), False in the padding. Raises ValueError
    if the shapes differ, there is no segment or batch_size < 1.
    """
    _check(predicted, target)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    used = torch.ones_like(target, dtype=torch.bool) if used is None else used
    right = (predicted == target) & used
    per_clip = right.sum(dim=1).double() / used.sum(dim=1)  # (n,)
    return float(torch.stack([batch.mean() for batch in per_clip.split(batch_size)]).mean())


def confusion_matrix(predicted: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Counts (num_classes, num_classes), int64: row = true class, column = predicted class.

    predicted, target: classes of any equal shape. Matrices of parts of a set add up to that of the
    whole. Raises ValueError if the shapes differ or a class lies outside 0 .. num_classes - 1.
    """
    _check(predicted, target, allow_empty=True)
    for name, classes in (("predicted", predicted), ("target", target)):
        if classes.numel() and not 0 <= int(classes.min()) <= int(classes.max()) < num_classes:
            raise ValueError(
                f"{name} must hold classes 0 .. {num_classes - 1}, "
                f"got {int(classes.min())} .. {int(classes.max())}"
            )
    cells = target.flatten().long() * num_classes + predicted.flatten().long()  # (n * N,)
    return torch.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def per_class_accuracy(confusion: Tensor, total: list[int] | None = None) -> list[float | None]:
    """Accuracy on the segments of each true class; None for a class without segments.

    confusion: counts (C, C) of `confusion_matrix`. total: the segments of each class, by default
    those in confusion, which lacks segments without a prediction.
    """
    right, total = confusion.diagonal().tolist(), total or confusion.sum(dim=1).tolist()
    return [r / t if t else None for r, t in zip(right, total, strict=True)]


def majority_baseline(target: Tensor, reference: Tensor | None = None) -> float:
    """Accuracy on target of always predicting the most frequent class of reference (default: of
    target itself).

    target (n, N), reference (m, N): classes. With the training labels as reference the baseline
    does not use the labels that it is scored on.
    """
    majority = torch.bincount(
        (target if reference is None else reference).flatten().long()
    ).argmax()
    return float((target == majority).double().mean())


def event_f1(
    predicted: Tensor, target: Tensor, background: int, min_iou: float = 0.5
) -> float | None:
    """F1 of whole events; None if there is neither a predicted nor a true event.

    An event is a longest run of segments of one class other than background. A predicted event is
    correct if a true event of the same class, not yet matched, overlaps it with intersection /
    union of at least min_iou.

    predicted, target: classes (n, N).
    """
    _check(predicted, target)
    found = right = wanted = 0
    for predicted_row, target_row in zip(predicted.tolist(), target.tolist(), strict=True):
        guesses, truths = (
            find_events(predicted_row, background),
            find_events(target_row, background),
        )
        found, wanted = found + len(guesses), wanted + len(truths)
        for guess in guesses:
            match = next((truth for truth in truths if _iou(guess, truth) >= min_iou), None)
            if match is not None:
                truths.remove(match)
                right += 1
    return 2 * right / (found + wanted) if found + wanted else None


def summarize(
    predicted: Tensor,
    target: Tensor,
    num_classes: int,
    *,
    background: int | None = None,
    used: Tensor | None = None,
) -> dict[str, Any]:
    """All segment metrics of one split as plain numbers, ready for JSON.

    predicted, target: classes (n, N) in the order of the split. background: index of the background
    class, by default the last one. used: bool (n, N), False in the padding, which does not count.

    Keys: accuracy, batch_mean_accuracy, event_f1, background_share, per_class_accuracy,
    class_segments (by true class), confusion (rows = true class; without the segments whose class
    is undefined), num_clips, num_segments.
    """
    background = num_classes - 1 if background is None else background
    used = torch.ones_like(target, dtype=torch.bool) if used is None else used
    defined = used & (predicted != UNDEFINED)
    guesses = predicted.masked_fill(~used, background)
    truths = target.masked_fill(~used, background)
    confusion = confusion_matrix(predicted[defined], target[defined], num_classes)
    total = torch.bincount(target[used].flatten().long(), minlength=num_classes).tolist()
    return {
        "accuracy": segment_accuracy(predicted[used], target[used]),
        "batch_mean_accuracy": batch_mean_accuracy(predicted, target, used=used),
        "event_f1": event_f1(guesses, truths, background),
        "background_share": float((target[used] == background).double().mean()),
        "num_clips": target.shape[0],
        "num_segments": int(used.sum()),
        "per_class_accuracy": per_class_accuracy(confusion, total),
        "class_segments": total,
        "confusion": confusion.tolist(),
    }


def calibration(confidence: Tensor, right: Tensor, num_bins: int = 15) -> dict[str, Any]:
    """Expected calibration error, and the reliability of the confidence in bins of equal width.

    ECE = sum over bins of (segments in bin / all segments) * |accuracy - mean confidence|, after
    Guo et al. (ICML 2017). confidence: probability of the predicted class, any shape; right:
    whether that class is the true one, the same shape. Segments whose confidence is not finite are
    ignored. Keys: ece (None without a segment), reliability: a list of {low, high, segments,
    confidence, accuracy} of the bins that have a segment.
    """
    finite = confidence.isfinite()
    confidence, right = confidence[finite].double().flatten(), right[finite].double().flatten()
    bins = (confidence * num_bins).ceil().long().sub(1).clamp(0, num_bins - 1)
    reliability = []
    for i in bins.unique().tolist():
        inside = bins == i
        reliability.append(
            {
                "low": i / num_bins,
                "high": (i + 1) / num_bins,
                "segments": int(inside.sum()),
                "confidence": float(confidence[inside].mean()),
                "accuracy": float(right[inside].mean()),
            }
        )
    gaps = [
        entry["segments"] * abs(entry["accuracy"] - entry["confidence"]) for entry in reliability
    ]
    return {"ece": sum(gaps) / len(bins) if len(bins) else None, "reliability": reliability}


@dataclass(frozen=True)
class PointingGame:
    """Score of the pointing game: does the most attended region lie on the sounding object?

    hits and segments are counts. area is the sum of the object's share of the regions over these
    segments, so that area / segments is the expected score of a random region. Scores of parts of a
    set can be added.
    """

    hits: int = 0
    segments: int = 0
    area: float = 0.0

    def __add__(self, other: PointingGame) -> PointingGame:
        return PointingGame(
            self.hits + other.hits, self.segments + other.segments, self.area + other.area
        )

    @property
    def accuracy(self) -> float | None:
        """hits / segments; None if no segment counts."""
        return self.hits / self.segments if self.segments else None

    @property
    def chance(self) -> float | None:
        """Expected accuracy of a random region; None if no segment counts."""
        return self.area / self.segments if self.segments else None


def pointing_game(
    attention: Tensor, position: Tensor, counts: Tensor | None = None
) -> PointingGame:
    """Pointing game of one batch: a hit is a segment whose most attended region shows the object.

    attention (B, N, R): weights of the regions, any floating dtype; of equal largest weights the
    first is taken. position (B, N, R): non-zero where the object is. counts (B, N): non-zero for
    the segments to count (object visible and audible); default all. Segments without an object are
    never counted. Raises ValueError if the shapes differ.
    """
    if attention.shape != position.shape:
        shapes = f"{tuple(attention.shape)} and {tuple(position.shape)}"
        raise ValueError(f"attention and position must have one shape (B, N, R), got {shapes}")
    occupied = position > 0  # (B, N, R)
    valid = occupied.any(dim=-1)  # (B, N)
    if counts is not None:
        if counts.shape != valid.shape:
            raise ValueError(
                f"counts must have shape {tuple(valid.shape)}, got {tuple(counts.shape)}"
            )
        valid = valid & (counts > 0)
    hit = occupied.gather(-1, attention.argmax(dim=-1, keepdim=True)).squeeze(-1)  # (B, N)
    area = occupied.double().mean(dim=-1)  # (B, N)
    return PointingGame(int((hit & valid).sum()), int(valid.sum()), float(area[valid].sum()))


def _check(predicted: Tensor, target: Tensor, allow_empty: bool = False) -> None:
    if predicted.shape != target.shape:
        raise ValueError(
            "predicted and target must have one shape, "
            f"got {tuple(predicted.shape)} and {tuple(target.shape)}"
        )
    if not allow_empty and not target.numel():
        raise ValueError(f"target must hold at least one segment, got shape {tuple(target.shape)}")


def find_events(classes: list[int], background: int) -> list[tuple[int, int, int]]:
    """(class, first segment, one past the last) of every event: a longest run of one class."""
    starts = [i for i in range(len(classes)) if i == 0 or classes[i] != classes[i - 1]]
    runs = zip(starts, [*starts[1:], len(classes)], strict=True)
    return [
        (classes[start], start, stop)
        for start, stop in runs
        if classes[start] not in (background, UNDEFINED)
    ]


def _iou(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
    if a[0] != b[0]:
        return 0.0
    shared = min(a[2], b[2]) - max(a[1], b[1])
    return shared / (max(a[2], b[2]) - min(a[1], b[1])) if shared > 0 else 0.0
