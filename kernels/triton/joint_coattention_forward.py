"""A whole paper layer of Joint Co-Attention, for all modalities in one launch.

For each modality X (B, N, d_x) with its joint feature J in parts (the modalities themselves: no concatenation):

    Q = Xᵀ W_j * scale      O = tanh(Q J) W_cᵀ      H = relu(W_x X + Oᵀ)      X' = X + W_hᵀ H

Rows are the channels of X, so a program computes Q for its rows, attends to all parts of J and finishes X' in its
epilogue. The backward is in :mod:`layer_backward`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .tanh_attention_forward import attend
from .tiles import (
    Operand,
    at,
    below,
    chosen,
    contraction,
    dot,
    dot_full,
    finite,
    high,
    load_tile,
    load_tile_t,
    row_keys,
    sample_key,
    store_tile,
)


class Modality(NamedTuple):
    """One modality of a layer. Channels are rows: x and out are (B, d_x, N), the parts of J (B, d_part, N).

    w_j (N, N), w_x and w_h (k, N) and w_c (d, k) are shared by the batch; h (B, d_x, k) is H, or any operand where it
    is not wanted.
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
def layer_kernel(
    modalities, batch, p_seed, threshold, keep_scale,
    ALIKE: tl.constexpr, EXACT: tl.constexpr, DROPOUT: tl.constexpr, KEEP_MAPS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BO: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Axis 0: row tiles of all samples; axis 1: the modalities."""
    if ALIKE:
        m = chosen(modalities, tl.program_id(1))
        if tl.program_id(0) < batch * tl.cdiv(m.x.rows, BM):
            layer_rows(
                m,
                tl.program_id(1),
                p_seed,
                threshold,
                keep_scale,
                EXACT,
                DROPOUT,
                KEEP_MAPS,
                BM,
                BN,
                BK,
                BO,
                BD,
            )
    else:
        for i in tl.static_range(len(modalities)):
            m = modalities[i]
            if tl.program_id(1) == i and tl.program_id(0) < batch * tl.cdiv(m.x.rows, BM):
                layer_rows(
                    m,
                    i,
                    p_seed,
                    threshold,
                    keep_scale,
                    EXACT,
                    DROPOUT,
                    KEEP_MAPS,
                    BM,
                    BN,
                    BK,
                    BO,
                    BD,
                )


@triton.jit
def queries(b_x, b_wj, scale, EXACT: tl.constexpr):
    """The rows of Q = scale * Xᵀ W_j: (BM, BO) in float32, from b_x (BM, BO) and b_wj (BO, BO)."""
    return dot_full(b_x, b_wj, tl.zeros(b_x.shape, tl.float32), EXACT) * tl.cast(scale, tl.float32)


@triton.jit
def spread(b_q, o_n, o_c, i_part):
    """Q (BM, BO) as the left operand of a contraction in the exact tier: (BM, BK), high, high and low halves.

    The copies must come from one number: a last bit that differs between two of them can move its high half by 2^-11.
    Products with ones copy exactly.
    """
    b_qh = high(b_q)
    copied = o_n[:, None] == o_c[None, :]  # (BO, BK)
    b_one = tl.where(copied & (i_part < 2)[None, :], 1.0, 0.0)
    b_low = tl.where(copied & (i_part == 2)[None, :], 1.0, 0.0)
    b_none = tl.zeros((b_q.shape[0], o_c.shape[0]), tl.float32)
    b_inf = tl.where(tl.abs(b_q) == float("inf"), tl.where(b_q > 0.0, 1.0, -1.0), 0.0)
    b_inf = dot(
        b_inf, tl.where(copied & (i_part == 0)[None, :], 1.0, 0.0), b_none
    )  # its sign, in product 0 alone
    b_spread = dot(finite(b_q, b_qh), b_one, b_none)
    b_spread = dot(finite(b_q, b_q - b_qh), b_low, b_spread)
    return tl.where(b_inf == 0.0, b_spread, b_inf * float("inf"))


@triton.jit
def layer_rows(
    m, i_modality, p_seed, threshold, keep_scale,
    EXACT: tl.constexpr, DROPOUT: tl.constexpr, KEEP_MAPS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BO: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """One row tile of one sample of one modality."""
    dtype: tl.constexpr = m.x.p.dtype.element_ty
    tiles = tl.cdiv(m.x.rows, BM)
    i_b = tl.program_id(0) // tiles
    o_m = (tl.program_id(0) % tiles) * BM + tl.arange(0, BM)
    o_n, o_k = tl.arange(0, BO), tl.arange(0, BD)
    x = at(m.x, i_b)
    b_x = load_tile(x, o_m, o_n)  # (BM, BO)
    o_c, i_part = contraction(0, x.columns, BK, EXACT)
    b_q = queries(b_x, load_tile(at(m.w_j, 0), o_n, o_n), m.scale, EXACT)
    b_q = tl.where(
        (o_n < x.columns)[None, :], b_q, 0.0
    )  # Inf in x times the zeros outside W_j is NaN
    if EXACT:
        b_q = spread(b_q, o_n, o_c, i_part)  # (BM, BK)
    b_q = b_q.to(dtype)
    b_row = o_m
    if DROPOUT:
        b_row = row_keys(sample_key(p_seed, i_modality, i_b), o_m)
    b_acc = tl.zeros((BM, BD), tl.float32)
    first = 0
    for i in tl.static_range(len(m.parts)):
        k = at(m.parts[i], i_b)
        if DROPOUT:
            first = first // DROPOUT * DROPOUT
        b_acc = attend(
            b_acc, b_q, o_c, i_part, x, k, below(at(m.w_c, 0), first), o_m, o_k, 1.0, b_row, first, threshold,
            EXACT, DROPOUT, 1, BN, BK,
        )  # fmt: skip
        first += k.rows
    if DROPOUT:
        b_acc *= keep_scale
    b_h = dot_full(b_x, load_tile_t(at(m.w_x, 0), o_k, o_n), b_acc, EXACT)  # (BM, BD)
    b_h = tl.where(b_h < 0.0, 0.0, b_h)  # a NaN stays
    b_h = tl.where((o_k < m.w_x.rows)[None, :], b_h, 0.0)  # as above, of W_x
    if KEEP_MAPS:
        store_tile(at(m.h, i_b), o_m, o_k, b_h)
    b_out = dot_full(
        b_h.to(dtype), load_tile(at(m.w_h, 0), o_k, o_n), b_x.to(tl.float32), EXACT
    )  # (BM, BO)
    store_tile(at(m.out, i_b), o_m, o_n, b_out)
