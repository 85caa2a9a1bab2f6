"""The two-modality layers of closeatlast/SPIRo with their constructor defaults.

In place of ``from .av_crossatten import DCNLayer``::

    from jca_fast.compat.spiro import DCNLayer

Q is the plain joint feature. ``query_linear`` is in the state_dict, as published, but its output is
never used, so it gets no gradient.
"""

from __future__ import annotations

from . import released
from .released import LSTM

__all__ = ["LSTM", "DCNLayer", "DenseCoAttn", "NormalSubLayer"]


class DenseCoAttn(released.DenseCoAttn):
    """:class:`jca_fast.compat.released.DenseCoAttn` with N = 300 and without a query Linear."""

    default_segments = 300
    default_query = False


class NormalSubLayer(released.NormalSubLayer):
    """:class:`jca_fast.compat.released.NormalSubLayer` around that attention."""

    attention_class = DenseCoAttn


class DCNLayer(released.DCNLayer):
    """:class:`jca_fast.compat.released.DCNLayer` of those layers."""

    layer_class = NormalSubLayer
