"""The three-modality layers of praveena2j/RJCMA, with the results of its current code.

In place of ``from .av_crossatten import DCNLayer``::

    from jca_fast.compat.rjcma import DCNLayer

Every modality attends to the plain concatenation of all three. ``query_linear`` is in the
state_dict, as published, but its output is never used, so it gets no gradient.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..modules.lengths import Lengths
from .layers import PublishedCoAttention, PublishedLayer, PublishedStack
from .released import LSTM

__all__ = ["LSTM", "DCNLayer", "DenseCoAttn", "NormalSubLayer"]


class DenseCoAttn(PublishedCoAttention):
    """Joint co-attention of three modalities.

    (B, N, dim1), (B, N, dim2), (B, N, dim3) -> three features (B, N, dim1 + dim2 + dim3).
    """

    def __init__(
        self, dim1: int, dim2: int, dim3: int, dropout: float, num_segments: int = 300
    ) -> None:
        super().__init__((dim1, dim2, dim3), dropout, num_segments, use_query=False)

    def forward(
        self,
        value1: Tensor,
        value2: Tensor | None = None,
        value3: Tensor | None = None,
        *,
        lengths: Lengths | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        return self._attend((value1, value2, value3), lengths, key_padding_mask)


class NormalSubLayer(PublishedLayer):
    """One layer with its residual update: three features -> the same shapes."""

    def __init__(
        self, dim1: int, dim2: int, dim3: int, dropout: float, num_segments: int = 300
    ) -> None:
        super().__init__(DenseCoAttn(dim1, dim2, dim3, dropout, num_segments), dropout)

    def forward(
        self,
        data1: Tensor,
        data2: Tensor | None = None,
        data3: Tensor | None = None,
        *,
        lengths: Lengths | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        return self._update((data1, data2, data3), lengths, key_padding_mask)


class DCNLayer(PublishedStack):
    """``num_seq`` layers, each with its own weights: three features -> the same shapes.

    With ``return_all=True``, set at construction or in a call, it returns a list for each modality
    with every iteration.
    """

    def __init__(
        self,
        dim1: int,
        dim2: int,
        dim3: int,
        num_seq: int,
        dropout: float,
        num_segments: int = 300,
        *,
        return_all: bool = False,
    ) -> None:
        sizes = (dim1, dim2, dim3, dropout, num_segments)
        super().__init__([NormalSubLayer(*sizes) for _ in range(num_seq)], return_all)

    def forward(
        self,
        data1: Tensor,
        data2: Tensor | None = None,
        data3: Tensor | None = None,
        *,
        return_all: bool | None = None,
        lengths: Lengths | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> tuple[Any, ...]:
        return self._run((data1, data2, data3), return_all, lengths, key_padding_mask)
