"""Builds the model for a data set, and the objective: model and loss in one module."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn, promote_types
from torch import float32 as fp32
from torch.nn import functional as F

from jca_fast.data.ave import AVEDataset
from jca_fast.heads import video_scores
from jca_fast.models import AVELocalizer
from jca_fast.modules.lengths import Lengths, used_segments
from jca_fast.training.config import LOSSES
from jca_fast.training.settings import check_keys


class Objective(nn.Module):
    """Model and loss as one module, so that DDP and torch.compile cover the whole step.

    * softmargin: MultiLabelSoftMargin on the model's probabilities, as in the released training
      code. It applies a sigmoid to them. So with a softmax over 29 classes the loss only ranges
      from 0.7093 (uniform) to 0.6800 (perfect).
    * softmargin_logits: the same loss on the scores before the model's sigmoid or softmax, which is
      binary cross-entropy.
    * cross_entropy: softmax cross-entropy per segment on those scores.
    * auto: softmargin for form="released", softmargin_logits for form="paper", whose sigmoid is
      part of that loss. With softmargin on its sigmoid outputs the paper form gets stuck on the
      plateau where all probabilities are 0 (loss log 2).

    Each loss is a mean over clips, segments and (softmargin) classes, computed in float32 at least.
    With labels by clip (weak supervision) the scores are first averaged over the segments of the
    clip (softmargin: the probabilities; cross_entropy: the softmax, before its logarithm).
    """

    def __init__(self, model: nn.Module, loss: str = "auto") -> None:
        super().__init__()
        if loss not in LOSSES:
            raise ValueError(f"loss: expected one of {', '.join(LOSSES)}, got {loss!r}")
        if loss == "auto":
            released = model.config["form"] == "released"  # type: ignore[index]
            loss = "softmargin" if released else "softmargin_logits"
        self.model, self.loss = model, loss

    def forward(
        self, audio: Tensor, visual: Tensor, labels: Tensor, lengths: Lengths | None = None
    ) -> tuple[Tensor, Tensor]:
        """The mean loss () and the predicted classes.

        audio (B, N, d_a), visual (B, N, 7, 7, d_v), one-hot labels (B, N, C), or (B, C) of whole
        clips; the classes are (B, N) or (B,). lengths (B,), at least 1, counts the segments in use
        of each clip; the padding does not enter the loss.
        """
        scores = self.scores(audio, visual, lengths)
        pooled = scores if labels.ndim == 3 else self._pool(scores, lengths)
        return self.measure(scores, labels, lengths), pooled.detach().argmax(dim=-1)

    def scores(self, audio: Tensor, visual: Tensor, lengths: Lengths | None = None) -> Tensor:
        """The input of the loss (B, N, C): probabilities for softmargin, otherwise logits."""
        score: Any = self.model if self.loss == "softmargin" else self.model.logits
        padded = {} if lengths is None else {"lengths": lengths}
        scores: Tensor = score(audio, visual, **padded)
        return scores.to(promote_types(scores.dtype, fp32))

    def measure(self, scores: Tensor, labels: Tensor, lengths: Lengths | None = None) -> Tensor:
        """The mean loss () of scores (B, N, C) with labels (B, N, C) or (B, C)."""
        labels = labels.to(scores.dtype)
        used = used_segments(lengths, None, scores)
        if labels.ndim == 3 and used is not None:
            scores, labels = (
                x[used[..., 0]][:, None] for x in (scores, labels)
            )  # (segments, 1, C)
        pooled = scores if labels.ndim == 3 else self._pool(scores, lengths)
        if self.loss != "cross_entropy":
            return F.multilabel_soft_margin_loss(pooled, labels)
        if labels.ndim == 3:
            return F.cross_entropy(pooled.flatten(0, 1), labels.flatten(0, 1))
        return -(labels * pooled).sum(dim=-1).mean()

    def probabilities(self, scores: Tensor) -> Tensor:
        """The probability of every class under this loss, (B, N, C), from `scores`.

        cross_entropy: their softmax. softmargin_logits: their sigmoid, separately for each class.
        softmargin: the scores, which are a softmax in the released form.
        """
        if self.loss == "softmargin":
            return scores
        return scores.softmax(-1) if self.loss == "cross_entropy" else scores.sigmoid()

    def _pool(self, scores: Tensor, lengths: Lengths | None = None) -> Tensor:
        """Scores of whole clips (B, C); for cross-entropy the logarithm of the mean softmax."""
        used = used_segments(lengths, None, scores)
        if self.loss != "cross_entropy":
            return video_scores(scores, "mean", lengths)
        logs = scores.log_softmax(dim=-1)
        if used is None:
            return logs.logsumexp(dim=1) - math.log(scores.shape[1])
        return torch.where(used, logs, -math.inf).logsumexp(dim=1) - used.sum(dim=1).log()


def inherited(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a model that hold for other data: all but the sizes of the data."""
    sizes = ("num_segments", "num_classes", "audio_features", "region_features", "num_regions")
    return {name: value for name, value in config.items() if name not in sizes}


def build_model(arguments: dict[str, Any], dataset: AVEDataset) -> AVELocalizer:
    """AVELocalizer(**arguments) with the sizes of the data, and normalize=False unless given.

    Raises ValueError for an unknown argument or one that contradicts the data.
    """
    check_keys(arguments, inspect.signature(AVELocalizer).parameters, "model")
    audio, visual, labels, *_ = dataset[0]  # (N, d_a), (N, ..., d_v), (N, C) or (C,)
    sizes = {
        "num_segments": audio.shape[0],
        "num_classes": labels.shape[-1],
        "audio_features": audio.shape[-1],
        "region_features": visual.shape[-1],
        "num_regions": visual[0, ..., 0].numel(),
    }
    for name, size in sizes.items():
        if arguments.get(name, size) != size:
            raise ValueError(
                f"model: {name} is {arguments[name]}, but the data in {dataset.root} have {size}"
            )
    return AVELocalizer(**({"normalize": False} | arguments | sizes))
