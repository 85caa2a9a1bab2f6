"""tanh attention backward, deterministic, without atomics.

With S = scale q kᵀ, P = tanh(S) and g the gradient of out:

    dS = (g vᵀ) ∘ (1 - P²) * scale        dq = dS k        dk = dSᵀ q        dv = Pᵀ g

One program owns a tile of columns for a group of samples. It walks the rows once with the
transposed tiles Sᵀ and dPᵀ, so that dk and dv build up in registers (dv over the whole group where
v is shared) and P is computed once. dq is written as one partial sum per column tile, which
:mod:`.sums` adds in a fixed order, or it takes a second pass with the roles of rows and columns
swapped.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .mask import keep_elements, pair_mask_columns, row_keys, sample_key
from .operands import (
    Operand,
    load_tile,
    load_transposed,
    sample_matrix,
    select_entry,
    store_tile,
)
from .tiles import (
    add_product,
    dot,
    left_operand,
    mma_column_order,
    product,
    scores,
    tanh,
    undo_column_order,
)


class Problem(NamedTuple):
    """One backward problem: q (B, M, N), k (B, L, N), v (B or 1, L, D), g (B, M, D), its results.

    dk (B, L, N), dv (groups, L, D) and dq (column tiles * B, M, N) are partial sums; a pass does
    not read the operands of results that it does not compute. dq lacks the factor of dS, ``scale``
    times that of the kept elements: a product in each tile would cost more than one with the sum,
    and the factor times k may overflow. ``first`` is the number of k's first row in the mask of
    modality ``modality2 / 2``. It is doubled because Triton makes an integer 1 a constant, and
    problems with different constants are compiled separately.
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


class Pass(NamedTuple):
    """Which gradients a pass computes. SWAPPED: q and k, v and g have changed places."""

    SWAPPED: bool
    WANT_DQ: bool
    WANT_DV: bool


ONE_PASS = Pass(SWAPPED=False, WANT_DQ=True, WANT_DV=True)
"""All gradients; dq as partial sums."""
COLUMN_PASS = Pass(SWAPPED=False, WANT_DQ=False, WANT_DV=True)
"""dk and dv, the first of two passes."""
ROW_PASS = Pass(SWAPPED=True, WANT_DQ=False, WANT_DV=False)
"""dq, the second of two passes: with the roles swapped it is called dk."""


class Samples(NamedTuple):
    """Number of samples, samples in a group, and number of groups."""

    batch: Any
    per_group: Any
    groups: Any


class Columns(NamedTuple):
    """The values that a column tile keeps for all row tiles of one sample.

    ``o_l`` its columns, ``o_out`` the block of N of dk and dq, ``o_d`` the block of D of dv;
    ``left`` scale * k as operand of the scores; ``b_k`` (BN, BO) and ``b_v`` (BN, BD) k and v.
    """

    o_l: Any
    o_out: Any
    o_d: Any
    left: Any
    b_k: Any
    b_v: Any


class Sample(NamedTuple):
    """The matrices of one sample that a column tile reads row by row, and its dropout mask."""

    q: Any
    v: Any
    g: Any
    dq: Any
    key: Any
    first: Any
    threshold: Any


@triton.jit
def tanh_attention_backward_kernel(
    problems, samples, dropout, ALIKE: tl.constexpr, PASS: tl.constexpr, TILE: tl.constexpr
):
    """Axis 0: column tiles of all groups of samples; 1: blocks of N and of D; 2: problems."""
    groups = samples.groups
    if ALIKE:
        x = select_entry(problems, tl.program_id(2))
        if tl.program_id(0) < tl.cdiv(x.k.rows, TILE.BN) * groups:
            column_tile(x, samples, dropout, PASS, TILE)
    else:
        for i in tl.static_range(len(problems)):
            x = problems[i]
            if tl.program_id(2) == i and tl.program_id(0) < tl.cdiv(x.k.rows, TILE.BN) * groups:
                column_tile(x, samples, dropout, PASS, TILE)


@triton.jit
def column_tile(x, samples, dropout, PASS: tl.constexpr, TILE: tl.constexpr):
    """One column tile of one problem, for one group of samples and one block of N and of D."""
    tiles = tl.cdiv(x.k.rows, TILE.BN)
    i_tile = tl.program_id(0) % tiles
    i_group = tl.program_id(0) // tiles
    o_l = i_tile * TILE.BN + tl.arange(0, TILE.BN)
    first = x.first
    if TILE.DROPOUT and TILE.ALIGNED:
        first = first // 32 * 32  # a multiple of 32, as the compiler now sees
        if TILE.BN % 32 == 0 and not PASS.SWAPPED:
            o_l = pair_mask_columns(i_tile * TILE.BN, TILE.BN)
    o_out = tl.program_id(1) * TILE.BO + tl.arange(0, TILE.BO)
    i_d = 0
    if TILE.VALUE_CHUNKS > 1:
        i_d = tl.program_id(1)
    o_d = i_d * TILE.BD + tl.arange(0, TILE.BD)
    scale = tl.cast(x.scale, tl.float32)
    grad_scale = scale  # the factor of dS, with that of the kept elements
    if TILE.DROPOUT:
        grad_scale *= dropout.keep_scale
    b_dv = tl.full((TILE.BN, TILE.BD), 0.0, tl.float32)
    last = tl.minimum((i_group + 1) * samples.per_group, samples.batch)
    for i_b in range(i_group * samples.per_group, last):
        q, k = sample_matrix(x.q, i_b), sample_matrix(x.k, i_b)
        v, g = sample_matrix(x.v, i_b), sample_matrix(x.g, i_b)
        dq = sample_matrix(x.dq, i_tile * samples.batch + i_b)
        left = left_operand(k, o_l, scale, TILE)
        b_k = load_tile(k, o_l, o_out)  # (BN, BO)
        b_v = load_tile(v, o_l, tl.arange(0, TILE.BD))  # (BN, BD), all of D where it is one block
        key = tl.cast(0, tl.uint32)
        if TILE.DROPOUT:
            key = sample_key(dropout.p_seed, x.modality2 // 2, i_b)
        columns = Columns(o_l, o_out, o_d, left, b_k, b_v)
        sample = Sample(q, v, g, dq, key, first, dropout.threshold)
        b_dk = tl.full((TILE.BN, TILE.BO), 0.0, tl.float32)
        inner = 0  # row tiles whose rows and columns all exist
        if (i_tile + 1) * TILE.BN <= k.rows:
            inner = q.rows // TILE.BM
        for i_m in range(inner):
            b_dk, b_dv = row_tile(b_dk, b_dv, columns, sample, i_m, False, PASS, TILE)
        for i_m in range(inner, tl.cdiv(q.rows, TILE.BM)):
            b_dk, b_dv = row_tile(b_dk, b_dv, columns, sample, i_m, True, PASS, TILE)
        store_tile(sample_matrix(x.dk, i_b), o_l, o_out, b_dk * grad_scale)
    if PASS.WANT_DV:
        if TILE.DROPOUT:
            b_dv *= dropout.keep_scale
        if tl.program_id(1) == i_d:  # one program writes each block of D
            store_tile(sample_matrix(x.dv, i_group), o_l, o_d, b_dv)


@triton.jit
def row_tile(
    b_dk,
    b_dv,
    columns,
    sample,
    i_m,
    EDGE: tl.constexpr,
    PASS: tl.constexpr,
    TILE: tl.constexpr,
):
    """dk and dv plus the contributions of row tile ``i_m``; writes these rows of the partial dq."""
    q, g = sample.q, sample.g
    o_l, k_rows = columns.o_l, columns.left.x.rows
    dtype: tl.constexpr = q.p.dtype.element_ty
    ONE_LOAD: tl.constexpr = (
        dtype != tl.float32 and TILE.CHUNKS == 1 and TILE.VALUE_CHUNKS == 1 and TILE.BO == TILE.BK
    )
    start = i_m * TILE.BM
    o_m = mma_column_order(start, TILE.BM, dtype)
    o_r = start + tl.arange(0, TILE.BM)
    b_q = load_tile(q, o_r, columns.o_out, EDGE)  # (BM, BO)
    b_g = load_tile(g, o_r, columns.o_d, EDGE)  # (BM, BD)
    if ONE_LOAD:
        b_zero = tl.full((TILE.BN, TILE.BM), 0.0, tl.float32)
        b_c = tanh(dot(columns.left.b_x, tl.trans(b_q), b_zero), TILE.EXACT)  # (BN, BM)
        b_ds = dot(columns.b_v, tl.trans(b_g), b_zero)
    else:
        b_c = tanh(scores(columns.left, q, o_m, EDGE, TILE), TILE.EXACT)
        b_ds = value_products(columns, sample, o_m, EDGE, TILE)
    b_ds *= 1.0 - b_c * b_c
    if EDGE:  # an Inf times the zeros outside is NaN
        inside = (o_l < k_rows)[:, None] & (o_m < q.rows)[None, :]
        b_c = tl.where(inside, b_c, 0.0)
        b_ds = tl.where(inside, b_ds, 0.0)
    if TILE.DROPOUT:
        b_keep = kept(columns, sample, o_m, PASS)
        b_c = tl.where(b_keep, b_c, 0.0)
        b_ds = tl.where(b_keep, b_ds, 0.0)
    if PASS.WANT_DV:
        b_dv = add_product(b_dv, undo_column_order(b_c, dtype).to(dtype), b_g, TILE.EXACT, False)
    b_ds = b_ds.to(dtype)
    b_dk = add_product(b_dk, undo_column_order(b_ds, dtype), b_q, TILE.EXACT, False)
    if PASS.WANT_DQ:
        b_dq = product(tl.trans(b_ds), columns.b_k, TILE.EXACT, False)  # (BM, BO)
        store_tile(sample.dq, o_m, columns.o_out, b_dq, EDGE)
    return b_dk, b_dv


@triton.jit
def value_products(columns, sample, o_m, EDGE: tl.constexpr, TILE: tl.constexpr):
    """v gᵀ: (BN, BM), the transposed gradient of P."""
    if TILE.VALUE_CHUNKS == 1:
        b_g = load_transposed(sample.g, o_m, columns.o_d, EDGE)  # (BD, BM)
        return product(columns.b_v, b_g, TILE.EXACT, False)
    else:
        b_dp = tl.full((TILE.BN, TILE.BM), 0.0, tl.float32)
        for i_d in range(TILE.VALUE_CHUNKS):
            o_d = i_d * TILE.BD + tl.arange(0, TILE.BD)
            b_v = load_tile(sample.v, columns.o_l, o_d)  # (BN, BD)
            b_g = load_transposed(sample.g, o_m, o_d, EDGE)  # (BD, BM)
            b_dp = add_product(b_dp, b_v, b_g, TILE.EXACT, False)
        return b_dp


@triton.jit
def kept(columns, sample, o_m, PASS: tl.constexpr):
    """Which elements of the transposed tile (BN, BM) the dropout mask keeps."""
    if PASS.SWAPPED:
        b_key = row_keys(sample.key, columns.o_l)[:, None]
        return keep_elements(b_key, (sample.first + o_m)[None, :], sample.threshold)
    else:
        b_key = row_keys(sample.key, o_m)[None, :]
        return keep_elements(b_key, (sample.first + columns.o_l)[:, None], sample.threshold)
