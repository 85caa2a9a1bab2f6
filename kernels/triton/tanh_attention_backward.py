"""tanh attention backward in one pass, deterministic, and the sums of its partial results.

With S = scale q kᵀ, P = tanh(S) and g the gradient of out:

    dS = (g vᵀ) ∘ (1 - P²) * scale        dq = dS k        dk = dSᵀ q        dv = Pᵀ g

One program owns a tile of columns for a group of samples. It walks the rows once with the transposed tiles Sᵀ and dPᵀ,
so that dk and dv build up in registers (dv over the whole group where v is shared) and P is computed once. dq leaves as
one partial sum for each column tile; :func:`sum_kernel` adds the partials in a fixed order. No atomics.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .tiles import (
    Operand,
    at,
    chosen,
    contraction,
    dot,
    dot_full,
    gram,
    keep,
    load_part,
    load_tile,
    load_tile_t,
    natural,
    order,
    paired,
    row_keys,
    sample_key,
    store_tile,
    tanh,
)


class Problem(NamedTuple):
    """One backward problem: q (B, M, N), k (B, L, N), v (B or 1, L, D), g (B, M, D) and its results.

    dk (B, L, N); dv (groups, L, D); dq (column tiles * B, M, N), in partial sums; what is not wanted is any operand.
    ``first`` is the number of k's first row in the dropout mask of modality ``modality2 / 2``: doubled, because Triton
    makes an integer 1 a constant, and problems that differ in constants need a piece of code each.
    """

    q: Operand
    k: Operand
    v: Operand
    g: Operand
    dk: Operand
    dv: Operand
    dq: Operand
    scale: Any
    modality2: Any
    first: Any


@triton.jit
def backward_kernel(
    problems, batch, per_group, groups, p_seed, threshold, keep_scale,
    ALIKE: tl.constexpr, EXACT: tl.constexpr, DROPOUT: tl.constexpr, SWAPPED: tl.constexpr,
    WANT_DQ: tl.constexpr, WANT_DV: tl.constexpr, CHUNKS: tl.constexpr, VALUE_CHUNKS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BO: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Axis 0: column tiles, then groups of samples; axis 1: blocks of N and of D; axis 2: the problems."""
    if ALIKE:
        x = chosen(problems, tl.program_id(2))
        if tl.program_id(0) < tl.cdiv(x.k.rows, BN) * groups:
            columns_of(
                x, batch, per_group, p_seed, threshold, keep_scale,
                EXACT, DROPOUT, SWAPPED, WANT_DQ, WANT_DV, CHUNKS, VALUE_CHUNKS, BM, BN, BK, BO, BD,
            )  # fmt: skip
    else:
        for i in tl.static_range(len(problems)):
            x = problems[i]
            if tl.program_id(2) == i and tl.program_id(0) < tl.cdiv(x.k.rows, BN) * groups:
                columns_of(
                    x, batch, per_group, p_seed, threshold, keep_scale,
                    EXACT, DROPOUT, SWAPPED, WANT_DQ, WANT_DV, CHUNKS, VALUE_CHUNKS, BM, BN, BK, BO, BD,
                )  # fmt: skip


@triton.jit
def columns_of(
    x, batch, per_group, p_seed, threshold, keep_scale,
    EXACT: tl.constexpr, DROPOUT: tl.constexpr, SWAPPED: tl.constexpr, WANT_DQ: tl.constexpr, WANT_DV: tl.constexpr,
    CHUNKS: tl.constexpr, VALUE_CHUNKS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BO: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """One column tile of one problem, for one group of samples and one block of N and of D.

    SWAPPED is the second pass of a large N: q and k, v and g have changed places, and dk is the gradient of q.
    """
    tiles = tl.cdiv(x.k.rows, BN)
    i_tile = tl.program_id(0) % tiles
    i_group = tl.program_id(0) // tiles
    o_l = i_tile * BN + tl.arange(0, BN)
    first = x.first
    if DROPOUT:
        first = first // DROPOUT * DROPOUT
        if DROPOUT % 32 == 0 and BN % 32 == 0 and not SWAPPED:
            o_l = paired(i_tile * BN, BN)
    o_out = tl.program_id(1) * BO + tl.arange(0, BO)  # block of N that dk and dq are computed for
    i_d = 0
    if VALUE_CHUNKS > 1:
        i_d = tl.program_id(1)
    o_d = i_d * BD + tl.arange(0, BD)  # block of D that dv is computed for
    scale = tl.cast(x.scale, tl.float32)
    grad_scale = scale  # of dS: what is kept of dP is enlarged
    if DROPOUT:
        grad_scale *= keep_scale
    b_dv = tl.zeros((BN, BD), tl.float32)
    for i_b in range(i_group * per_group, tl.minimum((i_group + 1) * per_group, batch)):
        q, k, v, g = at(x.q, i_b), at(x.k, i_b), at(x.v, i_b), at(x.g, i_b)
        dq = at(x.dq, i_tile * batch + i_b)
        o_n, i_part = contraction(0, q.columns, BK, EXACT)
        b_k = load_part(k, o_l, o_n, i_part, scale, EXACT)  # (BN, BK)
        b_ko = load_tile(k, o_l, o_out)  # (BN, BO)
        b_ko = (b_ko.to(tl.float32) * grad_scale).to(b_ko.dtype)
        b_v = load_tile(v, o_l, tl.arange(0, BD))  # (BN, BD), all of D where it is one block
        key = tl.cast(0, tl.uint32)
        if DROPOUT:
            key = sample_key(p_seed, x.modality2 // 2, i_b)
        b_dk = tl.zeros((BN, BO), tl.float32)
        inner = 0  # row tiles with neither a row nor a column outside
        if (i_tile + 1) * BN <= k.rows:
            inner = q.rows // BM
        for i_m in range(inner):
            b_dk, b_dv = row_tile(
                b_dk, b_dv, b_k, o_n, i_part, b_ko, b_v, q, k, v, g, dq, i_m * BM,
                o_l, o_out, o_d, scale, key, first, threshold,
                False, EXACT, DROPOUT, SWAPPED, WANT_DQ, WANT_DV, CHUNKS, VALUE_CHUNKS, BM, BK, BD,
            )  # fmt: skip
        for i_m in range(inner, tl.cdiv(q.rows, BM)):
            b_dk, b_dv = row_tile(
                b_dk, b_dv, b_k, o_n, i_part, b_ko, b_v, q, k, v, g, dq, i_m * BM,
                o_l, o_out, o_d, scale, key, first, threshold,
                True, EXACT, DROPOUT, SWAPPED, WANT_DQ, WANT_DV, CHUNKS, VALUE_CHUNKS, BM, BK, BD,
            )  # fmt: skip
        store_tile(at(x.dk, i_b), o_l, o_out, b_dk * grad_scale)
    if WANT_DV:
        if DROPOUT:
            b_dv *= keep_scale
        if tl.program_id(1) == i_d:  # where D is one block, one program writes it
            store_tile(at(x.dv, i_group), o_l, o_d, b_dv)


@triton.jit
def row_tile(
    b_dk, b_dv, b_k, o_n, i_part, b_ko, b_v, q, k, v, g, dq, start, o_l, o_out, o_d, scale,
    key, first, threshold,
    EDGE: tl.constexpr, EXACT: tl.constexpr, DROPOUT: tl.constexpr, SWAPPED: tl.constexpr,
    WANT_DQ: tl.constexpr, WANT_DV: tl.constexpr, CHUNKS: tl.constexpr, VALUE_CHUNKS: tl.constexpr,
    BM: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """dk and dv with BM rows from ``start`` added; writes these rows of the partial dq."""
    dtype: tl.constexpr = q.p.dtype.element_ty
    ONE_LOAD: tl.constexpr = (
        dtype != tl.float32 and CHUNKS == 1 and VALUE_CHUNKS == 1 and o_out.shape[0] == BK
    )
    o_m = order(start, BM, dtype)
    o_r = start + tl.arange(0, BM)
    b_q = load_tile(q, o_r, o_out, EDGE)  # (BM, BO)
    b_g = load_tile(g, o_r, o_d, EDGE)  # (BM, BD)
    b_s = tl.zeros((o_l.shape[0], BM), tl.float32)
    if ONE_LOAD:
        b_c = tanh(dot(b_k, tl.trans(b_q), b_s), EXACT)  # (BN, BM)
        b_ds = dot(b_v, tl.trans(b_g), b_s)
    else:
        b_c = tanh(gram(b_k, o_n, i_part, k, q, o_l, o_m, scale, EDGE, EXACT, CHUNKS, BK), EXACT)
        b_ds = b_s
        if VALUE_CHUNKS == 1:
            b_ds = dot_full(b_v, load_tile_t(g, o_m, o_d, EDGE), b_ds, EXACT, False)
        else:
            for i_d in range(VALUE_CHUNKS):
                o_x = i_d * BD + tl.arange(0, BD)
                b_ds = dot_full(
                    load_tile(v, o_l, o_x), load_tile_t(g, o_m, o_x, EDGE), b_ds, EXACT, False
                )
    b_ds *= 1.0 - b_c * b_c
    if EDGE:  # Inf times the zeros outside is NaN
        inside = (o_l < k.rows)[:, None] & (o_m < q.rows)[None, :]
        b_c = tl.where(inside, b_c, 0.0)
        b_ds = tl.where(inside, b_ds, 0.0)
    if DROPOUT:
        if SWAPPED:
            b_keep = keep(row_keys(key, o_l)[:, None], (first + o_m)[None, :], threshold)
        else:
            b_keep = keep(row_keys(key, o_m)[None, :], (first + o_l)[:, None], threshold)
        b_c = tl.where(b_keep, b_c, 0.0)
        b_ds = tl.where(b_keep, b_ds, 0.0)
    if WANT_DV:
        b_dv = dot_full(natural(b_c, dtype).to(dtype), b_g, b_dv, EXACT, False)
    b_ds = b_ds.to(dtype)
    b_dk = dot_full(natural(b_ds, dtype), b_q, b_dk, EXACT, False)
    if WANT_DQ:
        b_dq = dot_full(
            tl.trans(b_ds), b_ko, tl.zeros((BM, o_out.shape[0]), tl.float32), EXACT, False
        )
        store_tile(dq, o_m, o_out, b_dq, EDGE)
    return b_dk, b_dv


class Sum(NamedTuple):
    """``out`` (size,) = the sum of ``count`` rows of ``partials`` (count, size) float32.

    Count and size are doubled: Triton makes an integer 1 a constant, and then sums were compiled differently.
    """

    partials: Any
    out: Any
    count2: Any
    size2: Any


@triton.jit
def sum_kernel(sums, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Axis 0: blocks of the result; axis 1: the sums.

    ROWS partials are read at a time, each into a sum of its own, because small weights leave hundreds of partials of a
    few hundred elements: one after the other they would wait for memory hundreds of times. The order is fixed.
    """
    x = chosen(sums, tl.program_id(1))
    count, size = x.count2 // 2, x.size2 // 2
    o_x = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    if tl.program_id(0) * BLOCK < size:
        b_sum = tl.zeros((ROWS, BLOCK), tl.float32)
        for first in range(0, count, ROWS):
            o_r = first + tl.arange(0, ROWS)
            inside = (o_r < count)[:, None] & (o_x < size)[None, :]
            b_sum += tl.load(
                x.partials + o_r[:, None].to(tl.int64) * size + o_x[None, :], mask=inside, other=0.0
            )
        tl.store(x.out + o_x, tl.sum(b_sum, 0).to(x.out.dtype.element_ty), mask=o_x < size)
