"""tanh attention forward: ``out = tanh(scale * q kᵀ) v`` by tiles, and the released form.

The (M, L) matrix exists in registers only, one tile at a time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .mask import keep_elements, row_keys, sample_key
from .operands import load_tile, sample_matrix, store_tile
from .tiles import (
    add_outside,
    dot,
    left_operand,
    mma_column_order,
    round_to_tf32,
    scores,
    tanh,
    undo_column_order,
    zero_where_infinite,
)


class RowMask(NamedTuple):
    """The dropout mask of a row tile: keys of its rows, k's first row in the mask, threshold."""

    b_key: Any
    first: Any
    threshold: Any


@triton.jit
def attend(b_acc, left, k, v, o_d, mask, TILE: tl.constexpr):
    """``b_acc`` (BM, BD) plus the attention of the rows of ``left`` to all rows of k and v."""
    for i_l in range(k.rows // TILE.BN):
        b_acc = attend_tile(b_acc, left, k, v, i_l * TILE.BN, o_d, mask, False, TILE)
    if k.rows % TILE.BN != 0:
        last = (k.rows // TILE.BN) * TILE.BN
        b_acc = attend_tile(b_acc, left, k, v, last, o_d, mask, True, TILE)
    return b_acc


@triton.jit
def attend_tile(b_acc, left, k, v, start, o_d, mask, EDGE: tl.constexpr, TILE: tl.constexpr):
    """:func:`attend` for BN rows of k and v from ``start``; EDGE: some of them do not exist."""
    dtype: tl.constexpr = v.p.dtype.element_ty
    o_l = mma_column_order(start, TILE.BN, dtype)
    b_c = tanh(scores(left, k, o_l, EDGE, TILE), TILE.EXACT)  # (BM, BN)
    if EDGE:
        # An Inf in q times the zeros outside k is NaN.
        b_c = tl.where((o_l < k.rows)[None, :], b_c, 0.0)
    if TILE.DROPOUT:
        b_keep = keep_elements(mask.b_key[:, None], (mask.first + o_l)[None, :], mask.threshold)
        b_c = tl.where(b_keep, b_c, 0.0)
    b_c = undo_column_order(b_c, dtype)
    b_v = load_tile(v, start + tl.arange(0, TILE.BN), o_d, EDGE)  # (BN, BD)
    if TILE.EXACT:  # like add_product, but C is finite and needs no guard
        b_ch = round_to_tf32(b_c)
        b_vh = round_to_tf32(b_v)
        b_o = tl.zeros(b_acc.shape, tl.float32)
        b_o = dot(b_ch, zero_where_infinite(b_v, b_v - b_vh), b_o)
        b_o = dot(b_c - b_ch, zero_where_infinite(b_v, b_vh), b_o)
        return add_outside(b_acc, dot(b_ch, b_vh, b_o))
    else:
        return dot(b_c.to(dtype), b_v, b_acc)


@triton.jit
def tanh_attention_forward_kernel(
    q, k, v, out, dropout, scale, ACTIVATE: tl.constexpr, TILE: tl.constexpr
):
    """One row tile of one sample and one block of value columns.

    q (M, N), k (L, N), v (L, D), out (M, D). ACTIVATE: out = relu(tanh(.)), the released form.
    """
    tiles = tl.cdiv(q.rows, TILE.BM)
    i_b = tl.program_id(0) // tiles
    o_m = (tl.program_id(0) % tiles) * TILE.BM + tl.arange(0, TILE.BM)
    o_d = tl.program_id(1) * TILE.BD + tl.arange(0, TILE.BD)
    k, v = sample_matrix(k, i_b), sample_matrix(v, i_b)
    left = left_operand(sample_matrix(q, i_b), o_m, tl.cast(scale, tl.float32), TILE)
    b_key = o_m
    if TILE.DROPOUT:
        b_key = row_keys(sample_key(dropout.p_seed, 0, i_b), o_m)
    b_acc = tl.full((TILE.BM, TILE.BD), 0.0, tl.float32)
    b_acc = attend(b_acc, left, k, v, o_d, RowMask(b_key, 0, dropout.threshold), TILE)
    if TILE.DROPOUT:
        b_acc *= dropout.keep_scale
    if ACTIVATE:
        b_acc = tanh(b_acc, TILE.EXACT)
        b_acc = tl.where(b_acc < 0.0, 0.0, b_acc)  # keeps NaN
    store_tile(sample_matrix(out, i_b), o_m, o_d, b_acc)
