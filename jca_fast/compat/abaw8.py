"""The gated, iterated models of praveena2j/ABAW8.

In place of ``from .GRJCA import GRJCA_cam`` and ``from .HGRJCA import HGRJCA_cam``::

    from jca_fast.compat.abaw8 import GRJCA_cam, HGRJCA_cam

``DCNLayer`` returns every iteration, as published: ``([video 1, video 2], [audio 1, audio 2])``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..modules.lengths import Lengths, padding_mask, without_padding
from . import released
from .gates import gated
from .layers import PublishedModel
from .orig_cam import regressor
from .released import LSTM

__all__ = ["LSTM", "DCNLayer", "DenseCoAttn", "GRJCA_cam", "HGRJCA_cam", "NormalSubLayer"]


class DenseCoAttn(released.DenseCoAttn):
    """:class:`jca_fast.compat.released.DenseCoAttn` with N = 300."""

    default_segments = 300


class NormalSubLayer(released.NormalSubLayer):
    """:class:`jca_fast.compat.released.NormalSubLayer` with N = 300."""

    attention_class = DenseCoAttn


class DCNLayer(released.DCNLayer):
    """:class:`jca_fast.compat.released.DCNLayer` with N = 300, which returns every iteration."""

    layer_class = NormalSubLayer
    default_return_all = True


class GRJCA_cam(PublishedModel):  # noqa: N801 (the published name)
    """Gated recursive fusion: each modality is a mix of its input and its last two iterations.

    ``Joint``, the two regressors and the text gate are in the published state_dict but are not
    used; they get no gradient.

    Args:
        num_segments: N.
        video_dim: width of the video features.
        audio_dim: width of the audio features.
        num_layers: co-attention layers, at least 2.

    Shapes:
        video (B, N, video_dim), audio (B, N, audio_dim) -> (B, N, video_dim + audio_dim).
        New: ``lengths`` (B,) or ``key_padding_mask`` (B, N), as in
        :class:`jca_fast.modules.JointCoAttention`, for clips that end before N.

    Raises:
        ValueError: an argument is out of its range, or an input has the wrong shape.
    """

    def __init__(
        self,
        num_segments: int = 300,
        video_dim: int = 256,
        audio_dim: int = 128,
        num_layers: int = 2,
    ) -> None:
        super().__init__()
        if num_layers < 2:
            raise ValueError(f"num_layers must be at least 2, got {num_layers}")
        self.coattn = DCNLayer(video_dim, audio_dim, num_layers, 0.6, num_segments)
        self.vregressor = regressor(512, 128, 0.6)
        self.Joint = LSTM(1024, 512, 2, dropout=0.0)
        self.aregressor = regressor(512, 128, 0.6)
        self._add_gates(video_dim, audio_dim)
        self.init_weights()

    def _add_gates(self, video_dim: int, audio_dim: int) -> None:
        self.audio_gating_fc_layer = nn.Linear(audio_dim, 3)
        self.video_gating_fc_layer = nn.Linear(video_dim, 3)
        self.text_gating_fc_layer = nn.Linear(128, 3)

    def forward(
        self,
        f1_norm: Tensor,
        f2_norm: Tensor,
        lengths: Lengths | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        used, inputs = without_padding(lengths, key_padding_mask, f1_norm=f1_norm, f2_norm=f2_norm)
        video, audio = (F.normalize(x, dim=-1) for x in inputs)
        videos, audios = self.coattn(video, audio, **padding_mask(used))
        mixed = self._mix("video", video, videos), self._mix("audio", audio, audios)
        return torch.cat(mixed, dim=-1)

    def _mix(self, name: str, x: Tensor, iterations: list[Tensor]) -> Tensor:
        """The mix (B, N, d) of a modality x (B, N, d) and its iterations."""
        gate = getattr(self, f"{name}_gating_fc_layer")
        return gated(gate, iterations[-1], (x, *iterations[-2:]))


class HGRJCA_cam(GRJCA_cam):  # noqa: N801 (the published name)
    """Hierarchical gates: one after the first iteration, one after the second, one over both.

    The arguments, shapes, errors and unused parts are those of :class:`GRJCA_cam`.
    """

    def _add_gates(self, video_dim: int, audio_dim: int) -> None:
        widths = {"video": video_dim, "text": 128, "audio": audio_dim}
        for name in ("audio", "video", "text"):
            self.add_module(f"{name}_gating_fc_layer_stage2", nn.Linear(widths[name], 3))
        for stage in ("stage1", "stage"):
            for name, width in widths.items():
                self.add_module(f"{name}_gating_fc_layer_{stage}", nn.Linear(width, 2))

    def _mix(self, name: str, x: Tensor, iterations: list[Tensor]) -> Tensor:
        gates = [
            getattr(self, f"{name}_gating_fc_layer_{s}") for s in ("stage1", "stage2", "stage")
        ]
        before, last = iterations[-2:]
        first = gated(gates[0], before, (x, before))
        second = gated(gates[1], last, (x, before, last))
        return gated(gates[2], last, (first, second))
