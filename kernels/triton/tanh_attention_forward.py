"""tanh attention forward: ``out = tanh(scale * q kᵀ) v`` by tiles; the (M, L) matrix lives in registers only."""

from __future__ import annotations

import triton
import triton.language as tl

from .tiles import (
    at,
    contraction,
    dot,
    finite,
    gram,
    high,
    keep,
    load_part,
    load_tile,
    natural,
    order,
    row_keys,
    sample_key,
    store_tile,
    tanh,
)


@triton.jit
def attend(
    b_acc, b_q, o_n, i_part, q, k, v, o_m, o_d, scale, b_row, first, threshold,
    EXACT: tl.constexpr, DROPOUT: tl.constexpr, CHUNKS: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """``b_acc`` (BM, BD) plus what the rows ``o_m`` of q get from all rows of k and v.

    ``b_q`` is the left operand of :func:`gram`; ``first`` is the number of k's first row in the dropout mask.
    """
    for i_l in range(k.rows // BN):
        b_acc = attend_tile(
            b_acc, b_q, o_n, i_part, q, k, v, o_m, i_l * BN, o_d, scale, b_row, first, threshold,
            False, EXACT, DROPOUT, CHUNKS, BN, BK,
        )  # fmt: skip
    if k.rows % BN != 0:
        b_acc = attend_tile(
            b_acc, b_q, o_n, i_part, q, k, v, o_m, (k.rows // BN) * BN, o_d, scale, b_row, first, threshold,
            True, EXACT, DROPOUT, CHUNKS, BN, BK,
        )  # fmt: skip
    return b_acc


@triton.jit
def attend_tile(
    b_acc, b_q, o_n, i_part, q, k, v, o_m, start, o_d, scale, b_row, first, threshold,
    EDGE: tl.constexpr, EXACT: tl.constexpr, DROPOUT: tl.constexpr, CHUNKS: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """:func:`attend` for BN rows of k and v from ``start``; EDGE: some of them are outside."""
    dtype: tl.constexpr = v.p.dtype.element_ty
    o_l = order(start, BN, dtype)
    b_c = tanh(
        gram(b_q, o_n, i_part, q, k, o_m, o_l, scale, EDGE, EXACT, CHUNKS, BK), EXACT
    )  # (BM, BN)
    if EDGE:
        b_c = tl.where(
            (o_l < k.rows)[None, :], b_c, 0.0
        )  # Inf in q times the zeros outside k is NaN
    if DROPOUT:
        b_c = tl.where(keep(b_row[:, None], (first + o_l)[None, :], threshold), b_c, 0.0)
    b_c = natural(b_c, dtype)
    b_v = load_tile(v, start + tl.arange(0, BN), o_d, EDGE)  # (BN, BD)
    if EXACT:
        b_ch, b_vh = high(b_c), high(b_v)
        b_acc = dot(b_ch, b_vh, b_acc)
        b_acc = dot(b_ch, finite(b_v, b_v - b_vh), b_acc)
        return dot(b_c - b_ch, finite(b_v, b_vh), b_acc)
    else:
        return dot(b_c.to(dtype), b_v, b_acc)


@triton.jit
def forward_kernel(
    q, k, v, out, p_seed, scale, threshold, keep_scale,
    EXACT: tl.constexpr, DROPOUT: tl.constexpr, ACTIVATE: tl.constexpr, CHUNKS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """One row tile of one sample and one block of value columns; q (M, N), k (L, N), v (L, D), out (M, D).

    DROPOUT: 0 for none, else a number of which every ``first`` column is a multiple: 32 or 1, see :func:`tiles.keep`.
    ACTIVATE: out = relu(tanh(.)), the released form.
    """
    tiles = tl.cdiv(q.rows, BM)
    i_b = tl.program_id(0) // tiles
    o_m = (tl.program_id(0) % tiles) * BM + tl.arange(0, BM)
    o_d = tl.program_id(1) * BD + tl.arange(0, BD)
    q, k, v = at(q, i_b), at(k, i_b), at(v, i_b)
    scale = tl.cast(scale, tl.float32)
    o_n, i_part = contraction(0, q.columns, BK, EXACT)
    b_q = load_part(q, o_m, o_n, i_part, scale, EXACT)  # (BM, BK)
    b_row = o_m
    if DROPOUT:
        b_row = row_keys(sample_key(p_seed, 0, i_b), o_m)
    b_acc = tl.zeros((BM, BD), tl.float32)
    b_acc = attend(
        b_acc,
        b_q,
        o_n,
        i_part,
        q,
        k,
        v,
        o_m,
        o_d,
        scale,
        b_row,
        0,
        threshold,
        EXACT,
        DROPOUT,
        CHUNKS,
        BN,
        BK,
    )
    if DROPOUT:
        b_acc *= keep_scale
    if ACTIVATE:
        b_acc = tanh(b_acc, EXACT)
        b_acc = tl.where(b_acc < 0.0, 0.0, b_acc)  # a NaN stays
    store_tile(at(out, i_b), o_m, o_d, b_acc)
