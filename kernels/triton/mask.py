"""The dropout mask of :mod:`jca_fast.ops.dropout`, element by element inside the kernels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from jca_fast.ops.dropout import keep_scale, threshold

ALIGNMENT = 32
"""Size of a block of columns in which two columns, 16 apart, share a hash."""


class Dropout(NamedTuple):
    """Dropout as a kernel receives it: seed (none: no dropout), threshold of a hash, 1 / keep."""

    p_seed: Any
    threshold: Any
    keep_scale: Any


def dropout_argument(dropout_p: float, seed: Tensor | None) -> Dropout:
    """The argument that a kernel receives for ``dropout_p``."""
    return Dropout(seed, threshold(dropout_p), keep_scale(dropout_p))


def aligned(firsts: Iterable[int]) -> bool:
    """Whether all ``firsts``, first columns in the mask, allow columns 16 apart to share a hash."""
    return all(first % ALIGNMENT == 0 for first in firsts)


@triton.jit
def mix(h):
    """The 32-bit mixer of :mod:`jca_fast.ops.dropout`."""
    h = (h ^ (h >> 16)) * 0x7FEB352D
    h = (h ^ (h >> 15)) * 0x846CA68B
    return h ^ (h >> 16)


@triton.jit
def sample_key(p_seed, i_modality, i_b):
    """The key of one sample's mask; each modality folds its index into the seed."""
    seed = (
        tl.load(p_seed).to(tl.uint64, bitcast=True)
        + tl.cast(i_modality, tl.uint64) * 0x9E3779B97F4A7C15
    )
    key = mix(mix(seed.to(tl.uint32)) + (seed >> 32).to(tl.uint32))
    return mix(key + tl.cast(i_b, tl.uint32) * 0x9E3779B9)


@triton.jit
def row_keys(key, o_m):
    """The keys of the rows ``o_m`` of the affinity matrix."""
    return mix(key + o_m.to(tl.uint32) * 0x9E3779B1)


@triton.jit
def keep_elements(b_row, b_column, threshold):
    """True where an element is kept; row keys and column indices broadcast against each other.

    The compiler computes one hash for two columns 16 apart if it sees that a thread holds both. A
    caller whose first column is a multiple of 32 therefore writes it as ``first // 32 * 32``.
    """
    o_l = b_column.to(tl.uint32)
    word = (o_l // 32) * 16 + o_l % 16
    h = (b_row ^ (word * 0x85EBCA77)) * 0x7FEB352D
    h = (h ^ (h >> 15)) * 0x846CA68B
    h = h ^ (h >> 16)
    return ((h >> (o_l & 16)) & 0xFFFF) >= threshold


@triton.jit
def pair_mask_columns(start, SIZE: tl.constexpr):
    """SIZE indices from ``start`` in an order for rows of a product that are columns of the mask.

    A thread holds rows r and r + 8 of each 16 of an accumulator. In this order they are columns 16
    apart, which share one hash.
    """
    o_y = tl.arange(0, SIZE)
    return start + (o_y // 32) * 32 + (o_y // 16) % 2 * 8 + (o_y // 8) % 2 * 16 + o_y % 8
