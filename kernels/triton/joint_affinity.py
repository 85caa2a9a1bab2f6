"""The affinity matrix, materialised, and its backward from the saved matrix.

    C = tanh(scale * q kᵀ)        dS = dC ∘ (1 - C²) * scale        dq = dS k        dk = dSᵀ q

q (B, M, N), k (B, L, N), C (B, M, L). Memory bandwidth bounds the time, so the number of moves of
an M x L matrix decides it. The forward writes C once. The backward, for s bytes per element of
C, has two variants:

* one pass reads dC and C once, 2 s bytes per element, and sums dq over the columns; dk is written
  as a partial sum for each tile of 64 rows, N / 8 bytes per element to write and to read: with N =
  10, 9.3 bytes in float32 and 5.3 in half;
* two passes, the second with swapped roles, read both matrices twice: 4 s bytes, 16 in float32 and
  8 in half.

Up to 16 segments take one pass: its partial sums are then at most half of C in half precision, a
quarter in float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import table
from .launch import cdiv, launch, pad, tier
from .operands import (
    corner_from,
    load_tile,
    load_transposed,
    operand,
    sample_matrix,
    store_tile,
)
from .sums import launch_sums, partial_sum
from .tiles import add_product, left_operand, product, scores, tanh


@triton.jit
def joint_affinity_forward_kernel(q, k, c, scale, TILE: tl.constexpr):
    """C of one row tile and one span of columns. Axis 0: row tiles of all samples; axis 1: spans.

    The factor comes after the product, as in the formula: q in 16 bits is rounded only once.
    """
    tiles = tl.cdiv(c.rows, TILE.BM)
    i_b = tl.program_id(0) // tiles
    first = (tl.program_id(0) % tiles) * TILE.BM
    o_m = first + tl.arange(0, TILE.BM)
    q = sample_matrix(q, i_b)
    k = sample_matrix(k, i_b)
    c = sample_matrix(c, i_b)
    scale = tl.cast(scale, tl.float32)
    left = left_operand(q, o_m, 1.0, TILE)
    span = tl.cdiv(tl.cdiv(c.columns, TILE.BN), tl.num_programs(1)) * TILE.BN
    start = tl.program_id(1) * span
    for i_l in range(start, tl.minimum(start + span, c.columns), TILE.BN):
        b_s = scores(left, k, i_l + tl.arange(0, TILE.BN), True, TILE)  # (BM, BN)
        b_c = tanh(b_s * scale, TILE.EXACT)
        store_tile(corner_from(c, first, i_l), tl.arange(0, TILE.BM), tl.arange(0, TILE.BN), b_c)


@triton.jit
def joint_affinity_backward_kernel(
    g, c, q, k, dq, dk, batch, scale, WANT_DK: tl.constexpr, TILE: tl.constexpr
):
    """dq of one row tile, and the contribution of its rows to dk.

    Axis 0: row tiles of all samples, and for each of them its blocks of N. g (B, M, L) is the
    gradient of c; dk (row tiles * B, L, N) its partial sums, written only if WANT_DK. Both results
    are computed transposed, (N, rows) = kᵀ dSᵀ and (N, columns) = qᵀ dS, so that the warps share
    the columns of either product. With dS on the left several warps would compute the same dS in
    tiles of 64 x 32, and 64 x 64 spill.
    """
    blocks = tl.cdiv(q.columns, TILE.BO)
    tiles = tl.cdiv(c.rows, TILE.BM)
    o_n = (tl.program_id(0) % blocks) * TILE.BO + tl.arange(0, TILE.BO)
    i_tile = (tl.program_id(0) // blocks) % tiles
    i_b = tl.program_id(0) // blocks // tiles
    first = i_tile * TILE.BM
    o_m = first + tl.arange(0, TILE.BM)
    o_rows = tl.arange(0, TILE.BM)
    o_columns = tl.arange(0, TILE.BN)
    g = sample_matrix(g, i_b)
    c = sample_matrix(c, i_b)
    k = sample_matrix(k, i_b)
    dk = sample_matrix(dk, i_tile * batch + i_b)
    scale = tl.cast(scale, tl.float32)
    b_q = load_transposed(sample_matrix(q, i_b), o_m, o_n)  # (BO, BM)
    b_dq = tl.full((TILE.BO, TILE.BM), 0.0, tl.float32)
    for i_l in range(0, c.columns, TILE.BN):
        o_l = i_l + o_columns
        b_c = load_tile(corner_from(c, first, i_l), o_rows, o_columns).to(tl.float32)  # (BM, BN)
        b_g = load_tile(corner_from(g, first, i_l), o_rows, o_columns).to(tl.float32)
        b_ds = (b_g * (1.0 - b_c * b_c)).to(b_q.dtype)  # (BM, BN), without the factor
        if WANT_DK:  # before dq: after it, the registers would spill
            b_dk = product(b_q, b_ds, TILE.EXACT)  # (BO, BN)
            store_tile(dk, o_l, o_n, tl.trans(b_dk * scale))
        b_k = load_transposed(k, o_l, o_n)  # (BO, BN)
        b_dq = add_product(b_dq, b_k, tl.trans(b_ds), TILE.EXACT)
    store_tile(sample_matrix(dq, i_b), o_m, o_n, tl.trans(b_dq * scale))


def joint_affinity(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """q (B, M, N), k (B, L, N) -> C (B, M, L)."""
    c = q.new_empty((*q.shape[:2], k.shape[1]))
    exact = tier(q.dtype) == "exact"
    rows, columns = table.AFFINITY_TILE
    row_tiles = c.shape[0] * cdiv(c.shape[1], rows)
    spans = min(cdiv(c.shape[2], columns), cdiv(table.AFFINITY_PROGRAMS, max(row_tiles, 1)))
    slots, chunks = table.contraction_blocks(q.shape[2], exact)
    launch(
        joint_affinity_forward_kernel,
        (row_tiles, spans),
        *(operand(x) for x in (q, k, c)),
        scale,
        TILE=table.Tile(BM=rows, BN=columns, BK=slots, CHUNKS=chunks, EXACT=exact),
        num_warps=4,
        num_stages=1,
    )
    return c


def joint_affinity_backward(
    grad_c: Tensor, q: Tensor, k: Tensor, c: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """grad_c and c (B, M, L) -> dq (B, M, N), dk (B, L, N)."""
    dq = q.new_empty(q.shape)
    dk = k.new_empty(k.shape)
    if q.shape[2] > table.AFFINITY_SINGLE_PASS:
        _backward(grad_c, c, q, k, dq, dk, scale, want_dk=False)
        _backward(grad_c.mT, c.mT, k, q, dk, dq, scale, want_dk=False)
        return dq, dk
    tiles = cdiv(q.shape[1], table.AFFINITY_TILE[0])
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
    batch, rows, segments = q.shape
    level = tier(q.dtype)
    exact = level == "exact"
    block = min(pad(segments), table.AFFINITY_SEGMENTS)
    slots, chunks = table.contraction_blocks(segments, exact)
    tile = table.Tile(
        BM=table.AFFINITY_TILE[0],
        BN=table.AFFINITY_BACKWARD_COLUMNS,
        BO=block,
        EXACT=exact,
        BK=slots,
        CHUNKS=chunks,
    )
    launch(
        joint_affinity_backward_kernel,
        (batch * cdiv(rows, tile.BM) * cdiv(segments, block),),
        *(operand(x) for x in (grad_c, c, q, k, dq, dk)),
        batch,
        scale,
        WANT_DK=want_dk,
        TILE=tile,
        num_warps=4,
        num_stages=table.AFFINITY_STAGES[level],
    )
