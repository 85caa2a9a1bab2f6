"""The modules of tuffr5/Recursive-joint-co-attention, all of :mod:`jca_fast.compat.released`.

In place of ``from models import DCNWithRCNN``::

    from jca_fast.compat.recursive_joint_co_attention import DCNWithRCNN
"""

from __future__ import annotations

from .released import (
    GRU,
    LSTM,
    BottomUpExtract,
    DCNLayer,
    DCNWithRCNN,
    DenseCoAttn,
    Normalization,
    NormalSubLayer,
    PositionAttn,
    PredictLayer,
)

__all__ = [
    "GRU",
    "LSTM",
    "BottomUpExtract",
    "DCNLayer",
    "DCNWithRCNN",
    "DenseCoAttn",
    "NormalSubLayer",
    "Normalization",
    "PositionAttn",
    "PredictLayer",
]
