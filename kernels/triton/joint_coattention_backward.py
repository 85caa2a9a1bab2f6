"""The first and last step of a paper layer's backward, for all modalities at once.

With the names of :mod:`.joint_coattention_forward`, and dX' (B, N, d_x) the gradient of X':

    prepare:    Q = Xᵀ W_j * scale      dH = (W_h dX') ∘ (H > 0)      dX0 = dX' + W_xᵀ dH
                (without dX' if RESIDUAL is False)
                dW_x = Σ dH Xᵀ          dW_h = Σ H dX'ᵀ
    attention:  dQ, dJ and dW_c, by :mod:`.tanh_attention_backward` with q = Q, k = J, v = W_cᵀ,
                g = dHᵀ
    finish:     dX = dX0 + W_j dQᵀ + (the parts of dJ that are X)      dW_j = Σ X dQ

Each program writes one partial sum of the sums over the batch: a row tile of one group of samples.
Each kernel reads a sample once. Tensors that only these kernels exchange are contiguous, so that a
program holds few strides in registers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .joint_coattention_forward import queries
from .operands import (
    Operand,
    load_tile,
    load_transposed,
    packed_matrix,
    packed_transpose,
    sample_matrix,
    select_entry,
    store_tile,
)
from .tiles import add_product, product


class Prepare(NamedTuple):
    """One modality of the prepare kernel: x and grad_out (B, d_x, N); pointers are contiguous.

    Reads h (B, k, d_x), w_j (N, N), w_x and w_h (k, N), with k = ``width``. Writes q (B, d_x, N)
    and dh (B, d_x, k), and in float32 dx (B, N, d_x), dw_x and dw_h (programs, k, N).
    """

    x: Operand
    grad_out: Operand
    h: Any
    w_j: Any
    w_x: Any
    w_h: Any
    q: Any
    dh: Any
    dx: Any
    dw_x: Any
    dw_h: Any
    width: Any
    scale: Any


@triton.jit
def joint_coattention_prepare_kernel(
    modalities,
    batch,
    per_group,
    ALIKE: tl.constexpr,
    EXACT: tl.constexpr,
    RESIDUAL: tl.constexpr,
    BM: tl.constexpr,
    BO: tl.constexpr,
    BD: tl.constexpr,
):
    """Axis 0: row tiles; axis 1: groups of samples; axis 2: the modalities."""
    if ALIKE:
        m = select_entry(modalities, tl.program_id(2))
        if tl.program_id(0) * BM < m.x.rows:
            prepare_rows(m, batch, per_group, EXACT, RESIDUAL, BM, BO, BD)
    else:
        for i in tl.static_range(len(modalities)):
            m = modalities[i]
            if tl.program_id(2) == i and tl.program_id(0) * BM < m.x.rows:
                prepare_rows(m, batch, per_group, EXACT, RESIDUAL, BM, BO, BD)


@triton.jit
def prepare_rows(
    m,
    batch,
    per_group,
    EXACT: tl.constexpr,
    RESIDUAL: tl.constexpr,
    BM: tl.constexpr,
    BO: tl.constexpr,
    BD: tl.constexpr,
):
    """One row tile of one modality for one group of samples."""
    dtype: tl.constexpr = m.x.p.dtype.element_ty
    rows = m.x.rows
    segments = m.x.columns
    width = m.width
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)
    o_n = tl.arange(0, BO)
    o_k = tl.arange(0, BD)
    b_wj = load_tile(packed_matrix(m.w_j, 0, segments, segments), o_n, o_n)  # (BO, BO)
    b_wx = load_tile(packed_matrix(m.w_x, 0, width, segments), o_k, o_n)  # (BD, BO)
    b_wh = load_transposed(packed_matrix(m.w_h, 0, width, segments), o_k, o_n)  # (BO, BD)
    b_dwx = tl.zeros((BD, BO), tl.float32)
    b_dwh = tl.zeros((BD, BO), tl.float32)
    first = tl.program_id(1) * per_group
    for i_b in range(first, tl.minimum((tl.program_id(1) + 1) * per_group, batch)):
        b_x = load_tile(sample_matrix(m.x, i_b), o_m, o_n)  # (BM, BO)
        b_g = load_tile(sample_matrix(m.grad_out, i_b), o_m, o_n)  # (BM, BO)
        b_h = load_tile(packed_transpose(m.h, i_b, rows, width, rows), o_m, o_k)  # (BM, BD)
        b_q = queries(b_x, b_wj, m.scale, EXACT)  # (BM, BO)
        store_tile(packed_matrix(m.q, i_b, rows, segments), o_m, o_n, b_q)
        b_dh = product(b_g, b_wh, EXACT, False)  # (BM, BD)
        b_dh = tl.where(b_h <= 0.0, 0.0, b_dh).to(dtype)  # a NaN passes the gradient, as in PyTorch
        store_tile(packed_matrix(m.dh, i_b, rows, width), o_m, o_k, b_dh)
        b_dx = tl.zeros((BM, BO), tl.float32)
        if RESIDUAL:
            b_dx = b_g.to(tl.float32)
        b_dx = add_product(b_dx, b_dh, b_wx, EXACT, False)  # (BM, BO)
        store_tile(packed_transpose(m.dx, i_b, rows, segments, rows), o_m, o_n, b_dx)
        b_dwx = add_product(b_dwx, tl.trans(b_dh), b_x, EXACT, False)  # (BD, BO)
        b_dwh = add_product(b_dwh, tl.trans(b_h), b_g, EXACT, False)  # (BD, BO)
    i_out = tl.program_id(1) * tl.cdiv(rows, BM) + tl.program_id(0)
    store_tile(packed_matrix(m.dw_x, i_out, width, segments), o_k, o_n, b_dwx)
    store_tile(packed_matrix(m.dw_h, i_out, width, segments), o_k, o_n, b_dwh)


class Finish(NamedTuple):
    """One modality of the finish kernel: x (B, d_x, N); pointers are contiguous.

    Reads w_j (N, N), dx0 (B, N, d_x) float32 and dq (tiles * B, d_x, N) float32, partial sums that
    add up to the gradient of Xᵀ W_j divided by ``scale``. ``dj`` points at the float32 gradients of
    the part of J that is X, one for each modality that reads it (none if J is given), in (B, N, d)
    with d = ``joint_width``. Writes dx (B, N, d_x) and dw_j (programs, N, N) float32.
    """

    x: Operand
    w_j: Any
    dx0: Any
    dq: Any
    dj: tuple[Any, ...]
    dx: Any
    dw_j: Any
    tiles: Any
    joint_width: Any
    scale: Any


@triton.jit
def joint_coattention_finish_kernel(
    modalities,
    batch,
    per_group,
    ALIKE: tl.constexpr,
    EXACT: tl.constexpr,
    BM: tl.constexpr,
    BO: tl.constexpr,
):
    """Axis 0: row tiles; axis 1: groups of samples; axis 2: the modalities."""
    if ALIKE:
        m = select_entry(modalities, tl.program_id(2))
        if tl.program_id(0) * BM < m.x.rows:
            finish_rows(m, batch, per_group, EXACT, BM, BO)
    else:
        for i in tl.static_range(len(modalities)):
            m = modalities[i]
            if tl.program_id(2) == i and tl.program_id(0) * BM < m.x.rows:
                finish_rows(m, batch, per_group, EXACT, BM, BO)


@triton.jit
def finish_rows(m, batch, per_group, EXACT: tl.constexpr, BM: tl.constexpr, BO: tl.constexpr):
    """One row tile of one modality for one group of samples."""
    dtype: tl.constexpr = m.x.p.dtype.element_ty
    rows, segments = m.x.rows, m.x.columns
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)
    o_n = tl.arange(0, BO)
    b_wj_t = load_transposed(packed_matrix(m.w_j, 0, segments, segments), o_n, o_n)  # (BO, BO)
    b_dwj = tl.zeros((BO, BO), tl.float32)
    first = tl.program_id(1) * per_group
    for i_b in range(first, tl.minimum((tl.program_id(1) + 1) * per_group, batch)):
        b_dq = tl.zeros((BM, BO), tl.float32)
        for i_tile in range(m.tiles):
            dq = packed_matrix(m.dq, i_tile * batch + i_b, rows, segments)
            b_dq += load_tile(dq, o_m, o_n)
        b_dq = (b_dq * tl.cast(m.scale, tl.float32)).to(dtype)  # now the gradient of Xᵀ W_j
        b_x = load_tile(sample_matrix(m.x, i_b), o_m, o_n)  # (BM, BO)
        b_dx = load_tile(packed_transpose(m.dx0, i_b, rows, segments, rows), o_m, o_n)  # (BM, BO)
        for i in tl.static_range(len(m.dj)):
            dj = packed_transpose(m.dj[i], i_b, rows, segments, m.joint_width)
            b_dx += load_tile(dj, o_m, o_n)
        b_dx = add_product(b_dx, b_dq, b_wj_t, EXACT, False)
        store_tile(packed_transpose(m.dx, i_b, rows, segments, rows), o_m, o_n, b_dx)
        b_dwj = add_product(b_dwj, tl.trans(b_x), b_dq, EXACT, False)  # (BO, BO)
    i_out = tl.program_id(1) * tl.cdiv(rows, BM) + tl.program_id(0)
    store_tile(packed_matrix(m.dw_j, i_out, segments, segments), o_n, o_n, b_dwj)
