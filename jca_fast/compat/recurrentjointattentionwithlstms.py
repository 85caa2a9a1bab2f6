"""The modules of praveena2j/RecurrentJointAttentionwithLSTMs with their constructor defaults.

In place of ``from models.orig_cam import CAM``, and of the ``CAM`` of ``models.cam`` and
``models.Jcam_512``::

    from jca_fast.compat.recurrentjointattentionwithlstms import CAM
    from jca_fast.compat.recurrentjointattentionwithlstms import PaperCAM as CAM
    from jca_fast.compat.recurrentjointattentionwithlstms import Jcam_512 as CAM
"""

from __future__ import annotations

from typing import Any

from . import cam, released
from .cam import Jcam_512
from .orig_cam import CAM
from .released import LSTM, BottomUpExtract, PositionAttn

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
    """:class:`jca_fast.compat.released.DenseCoAttn` with N = 16."""

    default_segments = 16


class NormalSubLayer(released.NormalSubLayer):
    """:class:`jca_fast.compat.released.NormalSubLayer` with N = 16."""

    attention_class = DenseCoAttn


class DCNLayer(released.DCNLayer):
    """:class:`jca_fast.compat.released.DCNLayer` with N = 16."""

    layer_class = NormalSubLayer


class PaperCAM(cam.CAM):
    """The ``CAM`` of ``models.cam``: N = 16, valence and arousal from [visual; attended visual]."""

    def __init__(self, num_segments: int = 16, **options: Any) -> None:
        super().__init__(num_segments, **options)
