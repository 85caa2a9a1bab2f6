"""Classes of segments, of videos with one label each, and of whole utterances."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..modules.checks import check_feature, check_positive
from ..modules.lengths import Lengths, used_segments, zero_padding
from ..modules.linear import call_linear, reset_children, xavier_linear


def segment_loss(logits: Tensor, target: Tensor, lengths: Lengths | None = None) -> Tensor:
    """Softmax cross-entropy, the mean over all segments: ().

    logits (B, N, C); target classes (B, N), or one-hot or soft labels (B, N, C). ``lengths`` (B,)
    counts the segments in use of each clip; the padding after them is ignored. Raises ValueError
    on other shapes.
    """
    if target.shape not in (logits.shape, logits.shape[:-1]):
        needed = f"{tuple(logits.shape[:-1])} or {tuple(logits.shape)}"
        raise ValueError(f"target must have shape {needed}, got {tuple(target.shape)}")
    target = target.to(logits.dtype) if target.ndim == logits.ndim else target
    used = used_segments(lengths, None, logits)
    if used is None:
        return F.cross_entropy(logits.flatten(0, 1), target.flatten(0, 1))
    return F.cross_entropy(logits[used[..., 0]], target[used[..., 0]])


def video_scores(logits: Tensor, pooling: str = "max", lengths: Lengths | None = None) -> Tensor:
    """Scores of whole videos (B, C): the "max" or the "mean" of the segments' scores (B, N, C).

    ``lengths`` (B,), at least 1, counts the segments in use; the padding is ignored.
    """
    if pooling not in ("max", "mean"):
        raise ValueError(f"pooling must be 'max' or 'mean', got {pooling!r}")
    used = used_segments(lengths, None, logits)
    if used is None:
        return logits.amax(dim=1) if pooling == "max" else logits.mean(dim=1)
    if pooling == "max":
        return torch.where(used, logits, -torch.inf).amax(dim=1)
    return zero_padding(logits, used).sum(dim=1) / used.sum(dim=1)


def weak_loss(
    logits: Tensor, target: Tensor, pooling: str = "max", lengths: Lengths | None = None
) -> Tensor:
    """Weak supervision: softmax cross-entropy of the pooled scores with one label per video: ().

    logits (B, N, C) of the segments, which have no labels; target classes (B,), or one-hot labels
    (B, C) of the videos, background included. pooling, lengths: see :func:`video_scores`.

    Source: the weakly supervised setting of Tian et al., ECCV 2018.
    """
    scores = video_scores(logits, pooling, lengths)  # (B, C)
    if target.shape not in (scores.shape, scores.shape[:1]):
        needed = f"{tuple(scores.shape[:1])} or {tuple(scores.shape)}"
        raise ValueError(f"target must have shape {needed}, got {tuple(target.shape)}")
    return F.cross_entropy(scores, target.to(scores.dtype) if target.ndim == 2 else target)


class UtteranceClassifier(nn.Module):
    """One class for a whole utterance: mean over the segments, then a Linear.

    Args:
        dim: width of the segments.
        num_classes: number of classes.
        device: the device of the parameters.
        dtype: the dtype of the parameters.

    Shapes:
        x (B, N, dim), lengths (B,) -> logits (B, num_classes). ``lengths`` counts the segments in
        use of each utterance, at least 1; the padding after them is ignored.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive(dim=dim, num_classes=num_classes)
        self.dim = int(dim)
        self.linear = xavier_linear(self.dim, int(num_classes), device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Initialise all parameters afresh."""
        reset_children(self)

    def forward(self, x: Tensor, lengths: Lengths | None = None) -> Tensor:
        """The logits (B, num_classes)."""
        check_feature("x", x, self.dim)
        used = used_segments(lengths, None, x)
        if used is None:
            return call_linear(self.linear, x.mean(dim=1))
        return call_linear(self.linear, zero_padding(x, used).sum(dim=1) / used.sum(dim=1))
