"""The modules of praveena2j/Joint-Cross-Attention-for-Audio-Visual-Fusion with their defaults.

In place of ``from models.orig_cam import CAM``, whose class its ``main.py`` trains, and of the
``CAM`` of ``models.cam`` (the paper's formula) and ``models.Jcam_512``::

    from jca_fast.compat.joint_cross_attention_for_audio_visual_fusion import CAM
    from jca_fast.compat.joint_cross_attention_for_audio_visual_fusion import PaperCAM as CAM
    from jca_fast.compat.joint_cross_attention_for_audio_visual_fusion import Jcam_512 as CAM
"""

from __future__ import annotations

from typing import Any

from . import orig_cam
from .cam import Jcam_512
from .recurrentjointattentionwithlstms import DCNLayer, DenseCoAttn, NormalSubLayer, PaperCAM
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


class CAM(orig_cam.CAM):
    """:class:`jca_fast.compat.orig_cam.CAM` without the LSTM blocks of audio and video."""

    def __init__(self, num_segments: int = 16, **options: Any) -> None:
        super().__init__(num_segments, **{"unimodal_rnn": False, **options})
