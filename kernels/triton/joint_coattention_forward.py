"""A whole paper layer of Joint Co-Attention, for all modalities in one launch.

For each modality X (B, N, d_x) with its joint feature J in parts (the modalities themselves, so
that nothing is concatenated):

    Q = Xᵀ W_j * scale      O = tanh(Q J) W_cᵀ      H = relu(W_x X + Oᵀ)      X' = X + W_hᵀ H

Rows are the channels of X: a program computes Q for its rows, attends to all parts of J and
computes X' in its epilogue. If RESIDUAL is False, X' has no term X. The backward is in
:mod:`.joint_coattention_backward`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .mask import row_keys, sample_key
from .operands import (
    Operand,
    load_tile,
    load_transposed,
    rows_from,
    sample_matrix,
    select_entry,
    store_tile,
)
from .tanh_attention_forward import RowMask, attend
from .tiles import (
    Left,
    add_product,
    contraction_slots,
    dot,
    product,
    round_to_tf32,
    zero_where_infinite,
)


class Modality(NamedTuple):
    """One modality of a layer. Channels are rows: x, out (B, d_x, N), parts of J (B, d_part, N).

    w_j (N, N), w_x and w_h (k, N) and w_c (d, k) are shared by the batch. h (B, d_x, k) is H; it is
    unused unless H is kept.
    """

    x: Operand
    parts: tuple[Operand, ...]
    w_j: Operand
    w_x: Operand
    w_c: Operand
    w_h: Operand
    out: Operand
    h: Operand
    scale: Any


@triton.jit
def joint_coattention_forward_kernel(
    modalities,
    batch,
    dropout,
    ALIKE: tl.constexpr,
    KEEP_MAPS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    TILE: tl.constexpr,
):
    """Axis 0: row tiles of all samples; axis 1: the modalities."""
    if ALIKE:
        m = select_entry(modalities, tl.program_id(1))
        if tl.program_id(0) < batch * tl.cdiv(m.x.rows, TILE.BM):
            layer_rows(m, tl.program_id(1), dropout, KEEP_MAPS, RESIDUAL, TILE)
    else:
        for i in tl.static_range(len(modalities)):
            m = modalities[i]
            if tl.program_id(1) == i and tl.program_id(0) < batch * tl.cdiv(m.x.rows, TILE.BM):
                layer_rows(m, i, dropout, KEEP_MAPS, RESIDUAL, TILE)


@triton.jit
def queries(b_x, b_wj, scale, EXACT: tl.constexpr):
    """Rows of Q = scale * Xᵀ W_j: (BM, BO) float32, from b_x (BM, BO) and b_wj (BO, BO)."""
    return product(b_x, b_wj, EXACT) * tl.cast(scale, tl.float32)


@triton.jit
def repeat_halves(b_q, o_n, o_c, i_product):
    """Q (BM, BO) as left operand (BM, BK) in the exact tier: its low, high and high halves.

    The copies must come from one number: a last bit that differs between two of them can move its
    high half by 2^-11. Products with ones copy exactly.
    """
    b_qh = round_to_tf32(b_q)
    copied = o_n[:, None] == o_c[None, :]  # (BO, BK)
    b_one = tl.where(copied & ((i_product == 1) | (i_product == 2))[None, :], 1.0, 0.0)
    b_low = tl.where(copied & (i_product == 0)[None, :], 1.0, 0.0)
    b_none = tl.zeros((b_q.shape[0], o_c.shape[0]), tl.float32)
    # The sign of an Inf goes into product 2 alone.
    b_sign = tl.where(tl.abs(b_q) == float("inf"), tl.where(b_q > 0.0, 1.0, -1.0), 0.0)
    b_sign = dot(b_sign, tl.where(copied & (i_product == 2)[None, :], 1.0, 0.0), b_none)
    b_halves = dot(zero_where_infinite(b_q, b_qh), b_one, b_none)
    b_halves = dot(zero_where_infinite(b_q, b_q - b_qh), b_low, b_halves)
    return tl.where(b_sign == 0.0, b_halves, b_sign * float("inf"))


@triton.jit
def layer_rows(
    m,
    i_modality,
    dropout,
    KEEP_MAPS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    TILE: tl.constexpr,
):
    """One row tile of one sample of one modality."""
    dtype: tl.constexpr = m.x.p.dtype.element_ty
    tiles = tl.cdiv(m.x.rows, TILE.BM)
    i_b = tl.program_id(0) // tiles
    o_m = (tl.program_id(0) % tiles) * TILE.BM + tl.arange(0, TILE.BM)
    o_n = tl.arange(0, TILE.BO)
    o_k = tl.arange(0, TILE.BD)
    x = sample_matrix(m.x, i_b)
    b_x = load_tile(x, o_m, o_n)  # (BM, BO)
    o_c, i_product = contraction_slots(0, x.columns, TILE.BK, TILE.EXACT)
    b_q = queries(b_x, load_tile(sample_matrix(m.w_j, 0), o_n, o_n), m.scale, TILE.EXACT)
    # An Inf in x times the zeros outside W_j is NaN.
    b_q = tl.where((o_n < x.columns)[None, :], b_q, 0.0)
    if TILE.EXACT:
        b_q = repeat_halves(b_q, o_n, o_c, i_product)  # (BM, BK)
    left = Left(x, o_m, 1.0, b_q.to(dtype), o_c, i_product)
    b_key = o_m
    if TILE.DROPOUT:
        b_key = row_keys(sample_key(dropout.p_seed, i_modality, i_b), o_m)
    b_acc = tl.full((TILE.BM, TILE.BD), 0.0, tl.float32)
    first = 0
    for i in tl.static_range(len(m.parts)):
        part = sample_matrix(m.parts[i], i_b)
        if TILE.DROPOUT and TILE.ALIGNED:
            first = first // 32 * 32  # a multiple of 32, as the compiler now sees
        w_c = rows_from(sample_matrix(m.w_c, 0), first)
        mask = RowMask(b_key, first, dropout.threshold)
        b_acc = attend(b_acc, left, part, w_c, o_k, mask, TILE)
        first += part.rows
    if TILE.DROPOUT:
        b_acc *= dropout.keep_scale
    b_wx = load_transposed(sample_matrix(m.w_x, 0), o_k, o_n)  # (BO, BD)
    b_h = add_product(b_acc, b_x, b_wx, TILE.EXACT)  # (BM, BD)
    b_h = tl.where(b_h < 0.0, 0.0, b_h)  # keeps NaN
    b_h = tl.where((o_k < m.w_x.rows)[None, :], b_h, 0.0)  # again for the zeros outside W_x
    if KEEP_MAPS:
        store_tile(sample_matrix(m.h, i_b), o_m, o_k, b_h)
    b_wh = load_tile(sample_matrix(m.w_h, 0), o_k, o_n)  # (BD, BO)
    b_out = tl.full((TILE.BM, TILE.BO), 0.0, tl.float32)
    if RESIDUAL:
        b_out = b_x.to(tl.float32)
    b_out = add_product(b_out, b_h.to(dtype), b_wh, TILE.EXACT)  # (BM, BO)
    store_tile(sample_matrix(m.out, i_b), o_m, o_n, b_out)
