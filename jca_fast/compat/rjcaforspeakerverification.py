"""The modules of praveena2j/RJCAforSpeakerVerification with their constructor defaults.

In place of ``from orig_cam import CAM``::

    from jca_fast.compat.rjcaforspeakerverification import CAM

``FusionModel`` replaces the class of that name in its trainer, which also works unchanged.
"""

from __future__ import annotations

from . import released
from .recursive_joint_co_attention import PredictLayer
from .released import LSTM, BottomUpExtract, PositionAttn
from .speaker import CAM, FusionModel

__all__ = [
    "CAM",
    "LSTM",
    "BottomUpExtract",
    "DCNLayer",
    "DenseCoAttn",
    "FusionModel",
    "NormalSubLayer",
    "PositionAttn",
    "PredictLayer",
]


class DenseCoAttn(released.DenseCoAttn):
    """:class:`jca_fast.compat.released.DenseCoAttn` with N = 8."""

    default_segments = 8


class NormalSubLayer(released.NormalSubLayer):
    """:class:`jca_fast.compat.released.NormalSubLayer` with N = 8."""

    attention_class = DenseCoAttn


class DCNLayer(released.DCNLayer):
    """:class:`jca_fast.compat.released.DCNLayer` with N = 8."""

    layer_class = NormalSubLayer
