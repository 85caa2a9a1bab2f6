"""The gated valence and arousal model of praveena2j/Dynamic-CrossAttention.

In place of ``from models.orig_cam import CAM``::

    from jca_fast.compat.dynamic_crossattention import CAM
"""

from __future__ import annotations

from torch import Tensor, nn

from ..modules.lengths import padding_mask
from . import orig_cam
from .gates import gated
from .recurrentjointattentionwithlstms import DCNLayer, DenseCoAttn, NormalSubLayer
from .released import LSTM, BottomUpExtract, PositionAttn

__all__ = [
    "CAM",
    "LSTM",
    "BottomUpExtract",
    "DCNLayer",
    "DenseCoAttn",
    "NormalSubLayer",
    "PositionAttn",
]


class CAM(orig_cam.CAM):
    """:class:`jca_fast.compat.orig_cam.CAM` with a gate between the inputs and their update.

    The gate mixes the features of each modality before and after its two co-attention layers.
    """

    def __init__(
        self,
        num_segments: int = 16,
        audio_dim: int = 512,
        visual_dim: int = 512,
        num_layers: int = 2,
        *,
        hidden_dim: int = 128,
        dropout: float = 0.6,
    ) -> None:
        super().__init__(
            num_segments, audio_dim, visual_dim, num_layers, hidden_dim=hidden_dim, dropout=dropout
        )

    def _add_parts(self, audio_dim: int, visual_dim: int, head: tuple[int, int, float]) -> None:
        super()._add_parts(audio_dim, visual_dim, head)
        self.audio_gating_fc_layer = nn.Linear(audio_dim, 2)
        self.video_gating_fc_layer = nn.Linear(visual_dim, 2)

    def _fuse(self, video: Tensor, audio: Tensor, used: Tensor | None) -> tuple[Tensor, Tensor]:
        attended_video, attended_audio = self.coattn(video, audio, **padding_mask(used))
        return (
            gated(self.video_gating_fc_layer, attended_video, (video, attended_video)),
            gated(self.audio_gating_fc_layer, attended_audio, (audio, attended_audio)),
        )
