"""The modules of haseebaslam95/PKDOT with their constructor defaults: one segment, two classes.

In place of ``from models.orig_cam import CAM`` and of the ``CAM`` of ``models.cam`` and
``models.Jcam_512``::

    from jca_fast.compat.pkdot import CAM
    from jca_fast.compat.pkdot import PaperCAM as CAM
    from jca_fast.compat.pkdot import Jcam_512 as CAM
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..modules.lengths import Lengths, without_padding, zero_padding
from . import orig_cam, released
from .cam import Jcam_512
from .orig_cam import regressor
from .recurrentjointattentionwithlstms import PaperCAM
from .released import LSTM

__all__ = [
    "CAM",
    "LSTM",
    "BottomUpExtract",
    "DCNLayer",
    "DenseCoAttn",
    "Jcam_512",
    "NormalSubLayer",
    "PaperCAM",
    "PositionAttn",
]


class DenseCoAttn(released.DenseCoAttn):
    """:class:`jca_fast.compat.released.DenseCoAttn` with N = 1."""

    default_segments = 1


class NormalSubLayer(released.NormalSubLayer):
    """:class:`jca_fast.compat.released.NormalSubLayer` with N = 1."""

    attention_class = DenseCoAttn


class DCNLayer(released.DCNLayer):
    """:class:`jca_fast.compat.released.DCNLayer` with N = 1."""

    layer_class = NormalSubLayer


class PositionAttn(released.PositionAttn):
    """:class:`jca_fast.compat.released.PositionAttn` with a hidden width of 1.

    The published sizes fit one region of 512 numbers and any other number of regions.
    """

    num_regions = 1


class BottomUpExtract(released.BottomUpExtract):
    """:class:`PositionAttn` under the name ``attn``: video, audio -> (B, N, dim)."""

    attention_class = PositionAttn


class CAM(orig_cam.CAM):
    """:class:`jca_fast.compat.orig_cam.CAM` with one head: (B, N, 512) each -> logits (B, N, 2).

    The arguments and errors are those of that class.
    """

    num_classes = 2

    def __init__(
        self,
        num_segments: int = 1,
        audio_dim: int = 512,
        visual_dim: int = 512,
        num_layers: int = 2,
        **options: Any,
    ) -> None:
        super().__init__(num_segments, audio_dim, visual_dim, num_layers, **options)

    def _reduction(self, audio_dim: int, visual_dim: int) -> nn.Module:
        return BottomUpExtract(audio_dim, visual_dim)

    def _head(self, head: tuple[int, int, float]) -> nn.Module:
        return regressor(*head, outputs=self.num_classes)

    def _add_parts(self, audio_dim: int, visual_dim: int, head: tuple[int, int, float]) -> None:
        """This version has no second head."""

    def forward(  # type: ignore[override]
        self,
        f1_norm: Tensor,
        f2_norm: Tensor,
        lengths: Lengths | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        used, (audio, video) = without_padding(
            lengths, key_padding_mask, f1_norm=f1_norm, f2_norm=f2_norm
        )
        return zero_padding(self.vregressor(self._joint(audio, video, used)).squeeze(2), used)
