"""The modules of praveena2j/RJCAforSpeakerVerification with their constructor defaults.

In place of ``from orig_cam import CAM``::

    from jca_fast.compat.rjcaforspeakerverification import CAM

``FusionModel`` replaces the class of that name in its trainer, which also works unchanged.
"""

from __future__ import annotations

from . import released
from .released import LSTM, PredictLayer
from .speaker import CAM, FusionModel

__all__ = [
    "CAM",
    "LSTM",
    "DCNLayer",
    "DenseCoAttn",
    "FusionModel",
    "NormalSubLayer",
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
