"""What is trained: the model that fits the data, and the objective, model and loss in one module."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn, promote_types
from torch import float32 as fp32
from torch.nn import functional as F

from jca_fast.data.ave import AVEDataset
from jca_fast.models import AVELocalizer
from jca_fast.training.settings import check_keys

LOSSES = ("auto", "softmargin", "softmargin_logits", "cross_entropy")


class Objective(nn.Module):
    """Model and loss as one module, so that DDP and torch.compile see the whole step.

    softmargin: MultiLabelSoftMargin on the model's probabilities, as in the released training code. It applies its own
    sigmoid to them, so with a softmax over 29 classes the loss only moves from 0.7093 (uniform) to 0.6800 (perfect).
    softmargin_logits: the same loss on the scores before the model's sigmoid or softmax: binary cross-entropy.
    cross_entropy: softmax cross-entropy per segment on those scores.
    auto: softmargin for form="released", softmargin_logits for form="paper", whose sigmoid is then the loss's own. With
    softmargin on its sigmoid outputs the paper form falls into the plateau of all probabilities 0 (loss log 2).
    All are means over clips, segments and (softmargin) classes, computed in float32 at least.
    """

    def __init__(self, model: nn.Module, loss: str = "auto") -> None:
        super().__init__()
        if loss not in LOSSES:
            raise ValueError(f"loss: expected one of {', '.join(LOSSES)}, got {loss!r}")
        if loss == "auto":
            loss = "softmargin" if model.config["form"] == "released" else "softmargin_logits"  # type: ignore[index]
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


def build_model(arguments: dict[str, Any], dataset: AVEDataset) -> AVELocalizer:
    """AVELocalizer(**arguments) with the sizes of the data; ValueError for an unknown or contradicting argument."""
    check_keys(arguments, inspect.signature(AVELocalizer).parameters, "model")
    audio, visual, labels = dataset[
        0
    ]  # (N, d_audio), (N, 7, 7, d_visual) or (N, R, d_visual), (N, C)
    sizes = {
        "num_segments": labels.shape[0],
        "num_classes": labels.shape[1],
        "audio_features": audio.shape[-1],
        "region_features": visual.shape[-1],
        "num_regions": visual[0, ..., 0].numel(),
    }
    for name, size in sizes.items():
        if arguments.get(name, size) != size:
            raise ValueError(
                f"model: {name} is {arguments[name]}, but the data in {dataset.root} have {size}"
            )
    return AVELocalizer(**(arguments | sizes))
