"""Classes of segments, of videos known by one label only, and of whole utterances."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ..modules.linear import xavier_linear


def segment_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Softmax cross-entropy, the mean over all segments: ().

    logits (B, N, C); target classes (B, N), or one-hot or soft labels (B, N, C). Raises ValueError on other shapes.
    """
    if target.shape not in (logits.shape, logits.shape[:-1]):
        needed = f"{tuple(logits.shape[:-1])} or {tuple(logits.shape)}"
        raise ValueError(f"target must have shape {needed}, got {tuple(target.shape)}")
    target = target.to(logits.dtype) if target.ndim == logits.ndim else target
    return F.cross_entropy(logits.flatten(0, 1), target.flatten(0, 1))


def video_scores(logits: Tensor, pooling: str = "max") -> Tensor:
    """Scores of whole videos (B, C) from those of their segments (B, N, C): the "max" or the "mean" over time."""
    if pooling not in ("max", "mean"):
        raise ValueError(f"pooling must be 'max' or 'mean', got {pooling!r}")
    return logits.amax(dim=1) if pooling == "max" else logits.mean(dim=1)


def weak_loss(logits: Tensor, target: Tensor, pooling: str = "max") -> Tensor:
    """Weak supervision: softmax cross-entropy of the pooled scores with one label for each video: ().

    logits (B, N, C) of the segments, which learn without labels of their own; target classes (B,), or one-hot labels
    (B, C) of the videos, background included. pooling: see :func:`video_scores`.

    Source: the weakly supervised setting of Tian et al., ECCV 2018.
    """
    scores = video_scores(logits, pooling)  # (B, C)
    if target.shape not in (scores.shape, scores.shape[:1]):
        needed = f"{tuple(scores.shape[:1])} or {tuple(scores.shape)}"
        raise ValueError(f"target must have shape {needed}, got {tuple(target.shape)}")
    return F.cross_entropy(scores, target.to(scores.dtype) if target.ndim == 2 else target)


class UtteranceClassifier(nn.Module):
    """One class for a whole utterance: mean over the segments, then a Linear. x (B, N, dim) -> logits (B, num_classes).

    ``lengths`` (B,) counts the segments in use of each utterance, at least 1; the padding behind them is left out.
    """

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.linear = xavier_linear(dim, num_classes)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if lengths is None:
            return self.linear(x.mean(dim=1))
        steps = lengths.new_ones(x.shape[1]).cumsum(0)  # (N,) 1, 2, ...
        used = (steps <= lengths[:, None])[..., None]  # (B, N, 1)
        return self.linear(x.masked_fill(~used, 0).sum(dim=1) / lengths[:, None])
