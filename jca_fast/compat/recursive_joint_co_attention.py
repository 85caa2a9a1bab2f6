"""The modules of tuffr5/Recursive-joint-co-attention with their results for a batch of one.

In place of ``from models import DCNWithRCNN``::

    from jca_fast.compat.recursive_joint_co_attention import DCNWithRCNN

As published, the scores lose every axis of size 1, so that a batch of one returns (N, num_classes);
``squeeze=False`` keeps the axis. All else is that of :mod:`jca_fast.compat.released`.
"""

from __future__ import annotations

from typing import Any

from . import released
from .released import (
    GRU,
    LSTM,
    BottomUpExtract,
    DCNLayer,
    DenseCoAttn,
    Normalization,
    NormalSubLayer,
    PositionAttn,
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


class PredictLayer(released.PredictLayer):
    """:class:`jca_fast.compat.released.PredictLayer`, which squeezes."""

    def __init__(
        self, dim1: int, dim2: int, num_ans: int, dropout: float, *, squeeze: bool = True
    ) -> None:
        super().__init__(dim1, dim2, num_ans, dropout, squeeze=squeeze)


class DCNWithRCNN(released.DCNWithRCNN):
    """:class:`jca_fast.compat.released.DCNWithRCNN`, which squeezes."""

    def __init__(self, opt: Any, *, squeeze: bool = True) -> None:
        super().__init__(opt, squeeze=squeeze)
