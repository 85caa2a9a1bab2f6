"""Audio-guided visual reduction: softmax attention of one query over the R regions of its segment.

    a = softmax(K q * scale)        out = Kᵀ a
    g = dA + K dO        δ = a·g        ds = a ∘ (g - δ) * scale        dq = Kᵀ ds        dK = a dOᵀ + ds qᵀ

Bound by memory, so each direction reads K once. A program owns one segment and takes K in chunks of rows: the forward
rescales to a running maximum, the backward uses dq = scale (Kᵀ(a ∘ g) - δ Kᵀa), and dK is written from g alone. Scores
and g stay in memory between the two loops of a program: R numbers, against the R x D of K.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch, pad
from .tiles import Operand, at, load_tile, operand, store_tile


@triton.jit
def row(x, o_d):
    """A vector: the first row of a matrix, zero outside, in float32."""
    return tl.load(x.p + o_d * x.stride_c, mask=o_d < x.columns, other=0.0).to(tl.float32)


@triton.jit
def visual_forward_kernel(
    query: Operand, regions: Operand, out: Operand, scores: Operand, weights: Operand, scale,
    BR: tl.constexpr, BD: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """query (S, 1, D), regions (S, R, D) -> out (S, 1, D), weights (S, 1, R); scores (S, 1, R) float32 is scratch."""
    i_s = tl.program_id(0)
    k, scores, weights = at(regions, i_s), at(scores, i_s), at(weights, i_s)
    o_d = tl.arange(0, BD)
    b_q = row(at(query, i_s), o_d) * tl.cast(scale, tl.float32)  # (BD,)
    b_top = tl.full((), float("-inf"), tl.float32)
    b_sum = tl.zeros((), tl.float32)
    b_out = tl.zeros((BD,), tl.float32)
    for i_chunk in range(tl.cdiv(k.rows, BR)):
        o_r = i_chunk * BR + tl.arange(0, BR)
        b_k = load_tile(k, o_r, o_d).to(tl.float32)  # (BR, BD)
        b_s = tl.where(o_r < k.rows, tl.sum(b_k * b_q[None, :], 1), float("-inf"))  # (BR,)
        tl.store(scores.p + o_r, b_s, mask=o_r < k.rows)
        b_new = tl.maximum(b_top, tl.max(b_s, 0))
        b_base = tl.where(
            b_new == float("-inf"), 0.0, b_new
        )  # no score yet: -inf - -inf would be NaN
        b_p = tl.exp(b_s - b_base)
        b_shrink = tl.exp(b_top - b_base)
        b_sum = b_sum * b_shrink + tl.sum(b_p, 0)
        b_out = b_out * b_shrink + tl.sum(b_k * b_p[:, None], 0)  # (BD,)
        b_top = b_new
    o_one = tl.arange(0, 1)
    store_tile(at(out, i_s), o_one, o_d, (b_out / b_sum)[None, :])
    tl.debug_barrier()  # the scores of all lanes are written
    for i_chunk in range(tl.cdiv(k.rows, BW)):
        o_r = i_chunk * BW + tl.arange(0, BW)
        b_s = tl.load(scores.p + o_r, mask=o_r < k.rows, other=0.0)
        b_w = tl.exp(b_s - b_top) / b_sum
        tl.store(weights.p + o_r, b_w.to(weights.p.dtype.element_ty), mask=o_r < k.rows)


@triton.jit
def visual_backward_kernel(
    grad_out: Operand, grad_weights: Operand, query: Operand, regions: Operand, weights: Operand,
    grads: Operand, grad_query: Operand, grad_regions: Operand | None, scale,
    WANT_REGIONS: tl.constexpr, BR: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Vectors are (S, 1, D) or (S, 1, R), regions (S, R, D); grads (S, 1, R) float32 is scratch for g."""
    i_s = tl.program_id(0)
    k, grads = at(regions, i_s), at(grads, i_s)
    scale = tl.cast(scale, tl.float32)
    o_d = tl.arange(0, BD)
    b_do = row(at(grad_out, i_s), o_d)  # (BD,)
    weights, grad_weights = at(weights, i_s), at(grad_weights, i_s)
    b_delta = tl.zeros((), tl.float32)
    b_ag = tl.zeros((BD,), tl.float32)
    b_a = tl.zeros((BD,), tl.float32)
    for i_chunk in range(tl.cdiv(k.rows, BR)):
        o_r = i_chunk * BR + tl.arange(0, BR)
        b_k = load_tile(k, o_r, o_d).to(tl.float32)  # (BR, BD)
        b_w = row(weights, o_r)  # (BR,)
        b_g = row(grad_weights, o_r) + tl.sum(b_k * b_do[None, :], 1)
        if WANT_REGIONS:
            tl.store(grads.p + o_r, b_g, mask=o_r < k.rows)
        b_delta += tl.sum(b_w * b_g, 0)
        b_ag += tl.sum(b_k * (b_w * b_g)[:, None], 0)  # (BD,)
        b_a += tl.sum(b_k * b_w[:, None], 0)
    store_tile(at(grad_query, i_s), tl.arange(0, 1), o_d, ((b_ag - b_delta * b_a) * scale)[None, :])
    if WANT_REGIONS:
        tl.debug_barrier()  # g of all lanes is written
        b_q = row(at(query, i_s), o_d)
        for i_chunk in range(tl.cdiv(k.rows, BR)):
            o_r = i_chunk * BR + tl.arange(0, BR)
            b_w = row(weights, o_r)
            b_ds = b_w * (row(grads, o_r) - b_delta) * scale  # (BR,)
            b_dk = b_w[:, None] * b_do[None, :] + b_ds[:, None] * b_q[None, :]  # (BR, BD)
            store_tile(at(grad_regions, i_s), o_r, o_d, b_dk)


ELEMENTS = 4096
"""Elements of K in registers per warp: 8 rows of 512. Twice as many spill."""


def chunk(width: int) -> dict[str, int]:
    """Rows of a chunk, padded channels and warps: one warp up to 1024 channels, more where a row needs them."""
    block = pad(width, 32)
    warps = max(1, block // 1024)
    return {
        "BR": max(1, min(16, ELEMENTS * warps // block)),
        "BD": block,
        "num_warps": warps,
        "num_stages": 3,
    }


def vectors(x: Tensor) -> Operand:
    """(S, n) as one row for each segment."""
    return operand(x[:, None])


def visual_reduction(query: Tensor, regions: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """query (S, D), regions (S, R, D) -> out (S, D), weights (S, R)."""
    segments, count, width = regions.shape
    out, weights = query.new_empty((segments, width)), query.new_empty((segments, count))
    scores = (
        weights
        if weights.dtype == torch.float32
        else torch.empty_like(weights, dtype=torch.float32)
    )
    launch(
        visual_forward_kernel,
        (segments,),
        vectors(query), operand(regions), vectors(out), vectors(scores), vectors(weights), scale,
        BW=min(pad(count), 128), **chunk(width),
    )  # fmt: skip
    return out, weights


def visual_reduction_backward(
    grad_out: Tensor, grad_weights: Tensor, query: Tensor, regions: Tensor, weights: Tensor, scale: float,
    need_regions: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """-> dq (S, D), dK (S, R, D), or an empty dK where it is not wanted."""
    grad_query = query.new_empty(query.shape)
    grad_regions = regions.new_empty(regions.shape if need_regions else (0,))
    launch(
        visual_backward_kernel,
        (regions.shape[0],),
        *(vectors(x) for x in (grad_out, grad_weights, query)), operand(regions), vectors(weights),
        vectors(torch.empty_like(weights, dtype=torch.float32, memory_format=torch.contiguous_format)),
        vectors(grad_query), operand(grad_regions) if need_regions else None, scale,
        WANT_REGIONS=need_regions, **chunk(regions.shape[2]),
    )  # fmt: skip
    return grad_query, grad_regions
