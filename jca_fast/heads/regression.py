"""Continuous targets such as valence and arousal: the concordance correlation coefficient (CCC)."""

from __future__ import annotations

import torch
from torch import Tensor


def concordance(prediction: Tensor, target: Tensor, dim: int | None = None) -> Tensor:
    """Concordance correlation coefficient, in [-1, 1]; 1 only if both arguments are equal.

        CCC = 2 cov(x, y) / (var(x) + var(y) + (mean(x) - mean(y))²)

    Moments divide by n. ``dim=None`` takes all elements as one sequence and returns (); otherwise
    that axis is reduced. The result is 0 if both arguments are constant. Raises ValueError if the
    shapes differ, which broadcasting would hide.

    Source: Lin, Biometrics 1989.
    """
    if prediction.shape != target.shape:
        shapes = f"{tuple(prediction.shape)} and {tuple(target.shape)}"
        raise ValueError(f"prediction and target must have one shape, got {shapes}")
    x, y = (prediction, target) if dim is not None else (prediction.flatten(), target.flatten())
    axis = 0 if dim is None else dim
    mean_x, mean_y = x.mean(axis, keepdim=True), y.mean(axis, keepdim=True)
    covariance = ((x - mean_x) * (y - mean_y)).mean(axis)
    spread = ((x - mean_x) ** 2 + (y - mean_y) ** 2).mean(axis)
    spread = spread + ((mean_x - mean_y) ** 2).mean(axis)
    return 2 * covariance / spread.clamp_min(torch.finfo(spread.dtype).tiny)


def ccc_loss(prediction: Tensor, target: Tensor, dim: int | None = None) -> Tensor:
    """1 - CCC, averaged over the axes that remain: (), in [0, 2]; see :func:`concordance`."""
    return 1 - concordance(prediction, target, dim).mean()
