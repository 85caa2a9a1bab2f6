"""Clips longer than N: cut into windows of N segments, and joined after the fusion.

>>> windows = [cut_windows(x, 10, 5) for x in (audio, visual)]  # (B, W, 10, d_i) each
>>> fused = fusion(*(x.flatten(0, 1) for x in windows))  # (B W, 10, d_i) each
>>> audio = join_windows(fused[0].unflatten(0, (B, W)), segments=T, step=5)  # (B, T, d_a)
"""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_positive
from .lengths import Lengths, as_counts


def window_starts(segments: int, size: int, step: int | None = None) -> list[int]:
    """First segments of the windows over a clip of ``segments``: every ``step`` segments from 0.

    ``step`` is ``size`` if None, so that windows do not overlap. The last window ends with the
    clip, so its overlap may be larger. A clip of at most ``size`` segments has one window.
    """
    check_positive(segments=segments, size=size, step=size if step is None else step)
    step = size if step is None else step
    if segments <= size:
        return [0]
    if step > size:
        raise ValueError(f"step must be at most size = {size}, or segments are lost; got {step}")
    return [*range(0, segments - size, step), segments - size]


def cut_windows(x: Tensor, size: int, step: int | None = None) -> Tensor:
    """The windows of x (B, T, ...): (B, W, min(size, T), ...); see :func:`window_starts`."""
    _check_axes("x", x, 2, "(B, T, ...)")
    starts = window_starts(x.shape[1], size, step)
    return torch.stack([x[:, start : start + size] for start in starts], dim=1)


def window_lengths(lengths: Lengths, segments: int, size: int, step: int | None = None) -> Tensor:
    """The number of segments in use of every window, (B, W), for clips of ``lengths`` (B,)."""
    counts = as_counts(lengths)
    starts = torch.tensor(window_starts(segments, size, step), device=counts.device)  # (W,)
    return (counts[:, None] - starts).clamp(0, min(size, segments))


def join_windows(y: Tensor, segments: int, step: int | None = None) -> Tensor:
    """The inverse of :func:`cut_windows`: (B, W, size, ...) -> (B, segments, ...).

    A segment in several windows gets the mean of their results, summed in float32 at least.
    ``step`` is the step of the cut; None means the size of a window.
    """
    _check_axes("y", y, 3, "(B, W, size, ...)")
    batch, count, size = y.shape[:3]
    starts = window_starts(segments, size, step)
    if count != len(starts):
        raise ValueError(
            f"y must have {len(starts)} windows (B, W, {size}, ...) for {segments} segments, "
            f"got {tuple(y.shape)}"
        )
    dtype = torch.promote_types(y.dtype, torch.float32)
    total = y.new_zeros(batch, segments, *y.shape[3:], dtype=dtype)
    times = y.new_zeros(segments, *(1 for _ in y.shape[3:]), dtype=dtype)
    for i, start in enumerate(starts):
        total[:, start : start + size] += y[:, i]
        times[start : start + size] += 1
    mean = total / times
    return mean.to(y.dtype) if y.is_floating_point() else mean


def _check_axes(name: str, x: Tensor, axes: int, layout: str) -> None:
    """``x`` must be a tensor with at least ``axes`` dimensions."""
    if not isinstance(x, Tensor) or x.ndim < axes:
        got = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name} must be a tensor {layout}, got {got}")
