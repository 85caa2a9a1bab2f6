"""The training objective: model and loss in one module."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn, promote_types
from torch import float32 as fp32
from torch.nn import functional as F

LOSSES = ("softmargin", "softmargin_logits", "cross_entropy")


class Objective(nn.Module):
    """Model and loss as one module, so that DDP and torch.compile see the whole step.

    softmargin: MultiLabelSoftMargin on the model's probabilities, as in the released training code. It applies its own
    sigmoid to them, so with a softmax over 29 classes the loss only moves from 0.7093 (uniform) to 0.6800 (perfect).
    softmargin_logits: the same loss on the scores before the model's sigmoid or softmax: binary cross-entropy.
    cross_entropy: softmax cross-entropy per segment on those scores.
    All are means over clips, segments and (softmargin) classes, computed in float32 at least.
    """

    def __init__(self, model: nn.Module, loss: str = "softmargin") -> None:
        super().__init__()
        if loss not in LOSSES:
            raise ValueError(f"loss: expected one of {', '.join(LOSSES)}, got {loss!r}")
        self.model, self.loss = model, loss

    def forward(self, audio: Tensor, visual: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The mean loss () and the predicted classes (B, N) for audio (B, N, 128), visual (B, N, 7, 7, 512) and one-hot
        labels (B, N, C)."""
        score: Any = self.model if self.loss == "softmargin" else self.model.logits
        scores = score(audio, visual)  # (B, N, C)
        scores = scores.to(promote_types(scores.dtype, fp32))
        labels = labels.to(scores.dtype)
        if self.loss == "cross_entropy":
            loss = F.cross_entropy(scores.flatten(0, 1), labels.flatten(0, 1))
        else:
            loss = F.multilabel_soft_margin_loss(scores, labels)
        return loss, scores.detach().argmax(dim=-1)
