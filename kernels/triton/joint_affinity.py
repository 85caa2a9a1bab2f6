"""The affinity matrix, materialised, and its backward from the saved matrix.

    C = tanh(scale * q kᵀ)        dS = dC ∘ (1 - C²) * scale        dq = dS k        dk = dSᵀ q

q (B, M, N), k (B, L, N), C (B, M, L). Bound by memory: what counts is how often a matrix of M x L elements moves. The
forward writes C once. The backward, for s bytes per element of C, has two ways:

* one pass reads dC and C once, 2 s bytes per element, and sums dq over the columns; dk leaves as one partial sum for
  each tile of 64 rows, N / 8 bytes per element to write and to read: with N = 10, 9.3 bytes in float32 and 5.3 in half;
* two passes, the second with swapped roles, read both matrices twice: 4 s bytes, 16 in float32 and 8 in half.

One pass is taken up to 16 segments: its partial sums are then at most half of C in half, a quarter in float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import cdiv, launch, pad, tier
from .table import contraction_blocks
from .tanh_attention import launch_sums, partial_sum
from .tiles import (
    Operand,
    at,
    contraction,
    dot_full,
    gram,
    load_part,
    load_tile,
    load_tile_t,
    operand,
    store_tile,
    tanh,
)

ROWS, COLUMNS = 64, 64
"""Rows and columns of a tile of the forward, with 4 warps: twice as many spill in tier "tf32" where N is large."""
BACKWARD_COLUMNS = 32
"""Columns of a tile of the backward, of as many rows and warps: twice as many spill in tier "exact"."""
STAGES = {"half": 2, "tf32": 1, "exact": 1}
"""Pipeline stages of the backward: tiles in 16 bits are too small to keep the memory busy, float32 in two spills."""
SINGLE_PASS = 16
"""Most segments that the backward takes in one pass: both products over more of them spill in tier "exact"."""
SEGMENTS = 32
"""Segments that a program of two passes sums over at most: twice as many spill in tier "exact"."""
PROGRAMS = 1024
"""Programs that the forward is cut into, where it has as many tiles: two for each place on the largest chips."""


@triton.jit
def corner(x, first_r, first_c):
    """The matrix from a tile's first row and column on. In 64 bits: one C may have 2^31 elements or more."""
    p = x.p + tl.cast(first_r, tl.int64) * x.stride_r + tl.cast(first_c, tl.int64) * x.stride_c
    return Operand(p, 0, x.stride_r, x.stride_c, x.rows - first_r, x.columns - first_c)


@triton.jit
def affinity_kernel(
    q,
    k,
    c,
    scale,
    EXACT: tl.constexpr,
    CHUNKS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """C of one row tile and one span of columns. Axis 0: row tiles of all samples; axis 1: spans.

    The factor comes after the product, as in the formula: q in 16 bits is rounded once only.
    """
    tiles = tl.cdiv(c.rows, BM)
    i_b = tl.program_id(0) // tiles
    first = (tl.program_id(0) % tiles) * BM
    o_m = first + tl.arange(0, BM)
    q, k, c = at(q, i_b), at(k, i_b), at(c, i_b)
    scale = tl.cast(scale, tl.float32)
    o_n, i_part = contraction(0, q.columns, BK, EXACT)
    b_q = load_part(q, o_m, o_n, i_part, 1.0, EXACT)  # (BM, BK)
    span = tl.cdiv(tl.cdiv(c.columns, BN), tl.num_programs(1)) * BN
    start = tl.program_id(1) * span
    for i_l in range(start, tl.minimum(start + span, c.columns), BN):
        o_l = i_l + tl.arange(0, BN)
        b_s = gram(b_q, o_n, i_part, q, k, o_m, o_l, 1.0, True, EXACT, CHUNKS, BK)  # (BM, BN)
        store_tile(
            corner(c, first, i_l), tl.arange(0, BM), tl.arange(0, BN), tanh(b_s * scale, EXACT)
        )


@triton.jit
def affinity_backward_kernel(
    g, c, q, k, dq, dk, batch, scale,
    EXACT: tl.constexpr, WANT_DK: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    """dq of one row tile, and what its rows add to dk. Axis 0: row tiles of all samples, for each its blocks of N.

    g (B, M, L) is the gradient of c; dk (row tiles * B, L, N) its partial sums, written only if WANT_DK. Both results
    are computed transposed, (N, rows) = kᵀ dSᵀ and (N, columns) = qᵀ dS, so that the warps share the columns of either
    product. With dS on the left several warps would compute the same dS in tiles of 64 x 32, and 64 x 64 spill.
    """
    blocks, tiles = tl.cdiv(q.columns, BO), tl.cdiv(c.rows, BM)
    o_n = (tl.program_id(0) % blocks) * BO + tl.arange(0, BO)
    i_tile = (tl.program_id(0) // blocks) % tiles
    i_b = tl.program_id(0) // blocks // tiles
    first = i_tile * BM
    o_m = first + tl.arange(0, BM)
    g, c, k, dk = at(g, i_b), at(c, i_b), at(k, i_b), at(dk, i_tile * batch + i_b)
    scale = tl.cast(scale, tl.float32)
    b_q = load_tile_t(at(q, i_b), o_m, o_n)  # (BO, BM)
    b_dq = tl.zeros((BO, BM), tl.float32)
    for i_l in range(0, c.columns, BN):
        o_l = i_l + tl.arange(0, BN)
        b_c = load_tile(corner(c, first, i_l), tl.arange(0, BM), tl.arange(0, BN)).to(
            tl.float32
        )  # (BM, BN)
        b_g = load_tile(corner(g, first, i_l), tl.arange(0, BM), tl.arange(0, BN)).to(tl.float32)
        b_ds = (b_g * (1.0 - b_c * b_c)).to(b_q.dtype)  # (BM, BN), without the factor
        if WANT_DK:  # first: after dq it would take registers that spill
            b_dk = dot_full(b_q, b_ds, tl.zeros((BO, BN), tl.float32), EXACT)
            store_tile(dk, o_l, o_n, tl.trans(b_dk * scale))
        b_dq = dot_full(load_tile_t(k, o_l, o_n), tl.trans(b_ds), b_dq, EXACT)
    store_tile(at(dq, i_b), o_m, o_n, tl.trans(b_dq * scale))


def joint_affinity(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """q (B, M, N), k (B, L, N) -> C (B, M, L)."""
    c = q.new_empty((*q.shape[:2], k.shape[1]))
    exact = tier(q.dtype) == "exact"
    row_tiles = c.shape[0] * cdiv(c.shape[1], ROWS)
    spans = min(cdiv(c.shape[2], COLUMNS), cdiv(PROGRAMS, max(row_tiles, 1)))
    launch(
        affinity_kernel,
        (row_tiles, spans),
        *(operand(x) for x in (q, k, c)), scale, EXACT=exact,
        **contraction_blocks(q.shape[2], exact), BM=ROWS, BN=COLUMNS, num_warps=4, num_stages=1,
    )  # fmt: skip
    return c


def joint_affinity_backward(
    grad_c: Tensor, q: Tensor, k: Tensor, c: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """grad_c and c (B, M, L) -> dq (B, M, N), dk (B, L, N)."""
    dq, dk = q.new_empty(q.shape), k.new_empty(k.shape)
    if q.shape[2] > SINGLE_PASS:
        _backward(grad_c, c, q, k, dq, dk, scale, want_dk=False)
        _backward(grad_c.mT, c.mT, k, q, dk, dq, scale, want_dk=False)
        return dq, dk
    tiles = cdiv(q.shape[1], ROWS)
    if tiles == 1 or q.shape[0] == 0:
        _backward(grad_c, c, q, k, dq, dk, scale, want_dk=True)
        return dq, dk
    partials = k.new_empty((tiles, *k.shape), dtype=torch.float32)  # (tiles, B, L, N)
    _backward(grad_c, c, q, k, dq, partials.flatten(0, 1), scale, want_dk=True)
    launch_sums([partial_sum(partials, dk)])
    return dq, dk


def _backward(
    grad_c: Tensor,
    c: Tensor,
    q: Tensor,
    k: Tensor,
    dq: Tensor,
    dk: Tensor,
    scale: float,
    want_dk: bool,
) -> None:
    """One pass over grad_c and c (B, M, L)."""
    (batch, rows, segments), level = q.shape, tier(q.dtype)
    block = min(pad(segments), SEGMENTS)
    launch(
        affinity_backward_kernel,
        (batch * cdiv(rows, ROWS) * cdiv(segments, block),),
        *(operand(x) for x in (grad_c, c, q, k, dq, dk)), batch, scale,
        EXACT=level == "exact", WANT_DK=want_dk, BM=ROWS, BN=BACKWARD_COLUMNS, BO=block,
        num_warps=4, num_stages=STAGES[level],
    )  # fmt: skip
