"""Cuts a video of any length into clips of N segments, and joins their results."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Window:
    """Segments start .. start + length - 1 of a video; the rest of the N segments is padding."""

    start: int
    length: int


def cut(num_segments: int, size: int, hop: int) -> list[Window]:
    """Windows of `size` segments, `hop` apart, that cover a video of `num_segments`.

    The last one may be shorter and is then padded. Raises ValueError unless 1 <= hop <= size.
    """
    if size < 1 or not 1 <= hop <= size:
        raise ValueError(f"hop is {hop} for windows of {size} segments; needed: 1 to {size}")
    count = max(1, -(-(num_segments - size) // hop) + 1)
    return [Window(i * hop, min(size, num_segments - i * hop)) for i in range(count)]


def pad(values: np.ndarray, size: int) -> np.ndarray:
    """Values (length, ...) with zeros at the end, (size, ...)."""
    widths = [(0, size - len(values))] + [(0, 0)] * (values.ndim - 1)
    return np.pad(values, widths)


def average(values: np.ndarray, windows: list[Window], num_segments: int) -> np.ndarray:
    """The means over all windows that hold a segment: (windows, N, ...) -> (num_segments, ...).

    Padding does not count.
    """
    total = np.zeros((num_segments, *values.shape[2:]), np.float64)
    counts = np.zeros(num_segments)
    for window, scores in zip(windows, values, strict=True):
        span = slice(window.start, window.start + window.length)
        total[span] += scores[: window.length]
        counts[span] += 1
    return total / counts.reshape(-1, *[1] * (values.ndim - 2))
