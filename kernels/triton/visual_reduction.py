"""Audio-guided visual reduction: softmax attention of one query over the R regions of its segment.

    a = softmax(K q * scale)        out = Kᵀ a
    g = dA + K dO        δ = a·g        ds = a ∘ (g - δ) * scale        dq = Kᵀ ds
    dK = a dOᵀ + ds qᵀ

Memory bandwidth bounds the time, so each direction reads K once. A program owns one segment and
takes K in chunks of rows: the forward rescales to a running maximum, the backward uses dq = scale
(Kᵀ(a ∘ g) - δ Kᵀa), and dK is written from g alone. Scores and g stay in memory between the two
loops of a program: R numbers, against the R x D of K.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import table
from .launch import launch, pad
from .operands import Operand, load_row, load_tile, operand, sample_matrix, store_tile


@triton.jit
def visual_reduction_forward_kernel(
    query,
    regions,
    out,
    scores,
    weights,
    scale,
    BR: tl.constexpr,
    BD: tl.constexpr,
    BW: tl.constexpr,
):
    """query (S, 1, D), regions (S, R, D) -> out (S, 1, D), weights (S, 1, R).

    scores (S, 1, R) float32 is scratch.
    """
    i_s = tl.program_id(0)
    k = sample_matrix(regions, i_s)
    scores, weights = sample_matrix(scores, i_s), sample_matrix(weights, i_s)
    o_d = tl.arange(0, BD)
    b_q = load_row(sample_matrix(query, i_s), o_d) * tl.cast(scale, tl.float32)  # (BD,)
    running_maximum = tl.full((), float("-inf"), tl.float32)
    running_sum = tl.zeros((), tl.float32)
    b_out = tl.zeros((BD,), tl.float32)
    for i_chunk in range(tl.cdiv(k.rows, BR)):
        o_r = i_chunk * BR + tl.arange(0, BR)
        b_k = load_tile(k, o_r, o_d).to(tl.float32)  # (BR, BD)
        b_s = tl.where(o_r < k.rows, tl.sum(b_k * b_q[None, :], 1), float("-inf"))  # (BR,)
        tl.store(scores.p + o_r, b_s, mask=o_r < k.rows)
        maximum = tl.maximum(running_maximum, tl.max(b_s, 0))
        # Before the first finite score, -inf - -inf would be NaN.
        base = tl.where(maximum == float("-inf"), 0.0, maximum)
        b_p = tl.exp(b_s - base)
        shrink = tl.exp(running_maximum - base)
        running_sum = running_sum * shrink + tl.sum(b_p, 0)
        b_out = b_out * shrink + tl.sum(b_k * b_p[:, None], 0)  # (BD,)
        running_maximum = maximum
    o_one = tl.arange(0, 1)
    store_tile(sample_matrix(out, i_s), o_one, o_d, (b_out / running_sum)[None, :])
    tl.debug_barrier()  # all lanes have written their scores
    for i_chunk in range(tl.cdiv(k.rows, BW)):
        o_r = i_chunk * BW + tl.arange(0, BW)
        b_s = tl.load(scores.p + o_r, mask=o_r < k.rows, other=0.0)
        b_w = tl.exp(b_s - running_maximum) / running_sum
        tl.store(weights.p + o_r, b_w.to(weights.p.dtype.element_ty), mask=o_r < k.rows)


@triton.jit
def visual_reduction_backward_kernel(
    grad_out,
    grad_weights,
    query,
    regions,
    weights,
    grads,
    grad_query,
    grad_regions,
    scale,
    WANT_REGIONS: tl.constexpr,
    BR: tl.constexpr,
    BD: tl.constexpr,
):
    """Vectors are (S, 1, D) or (S, 1, R), regions (S, R, D); grads (S, 1, R) float32 holds g."""
    i_s = tl.program_id(0)
    k, grads = sample_matrix(regions, i_s), sample_matrix(grads, i_s)
    scale = tl.cast(scale, tl.float32)
    o_d = tl.arange(0, BD)
    b_do = load_row(sample_matrix(grad_out, i_s), o_d)  # (BD,)
    weights, grad_weights = sample_matrix(weights, i_s), sample_matrix(grad_weights, i_s)
    delta = tl.zeros((), tl.float32)
    b_ag = tl.zeros((BD,), tl.float32)
    b_a = tl.zeros((BD,), tl.float32)
    for i_chunk in range(tl.cdiv(k.rows, BR)):
        o_r = i_chunk * BR + tl.arange(0, BR)
        b_k = load_tile(k, o_r, o_d).to(tl.float32)  # (BR, BD)
        b_w = load_row(weights, o_r)  # (BR,)
        b_g = load_row(grad_weights, o_r) + tl.sum(b_k * b_do[None, :], 1)
        if WANT_REGIONS:
            tl.store(grads.p + o_r, b_g, mask=o_r < k.rows)
        delta += tl.sum(b_w * b_g, 0)
        b_ag += tl.sum(b_k * (b_w * b_g)[:, None], 0)  # (BD,)
        b_a += tl.sum(b_k * b_w[:, None], 0)
    b_dq = (b_ag - delta * b_a) * scale  # (BD,)
    store_tile(sample_matrix(grad_query, i_s), tl.arange(0, 1), o_d, b_dq[None, :])
    if WANT_REGIONS:
        tl.debug_barrier()  # all lanes have written their g
        b_q = load_row(sample_matrix(query, i_s), o_d)
        for i_chunk in range(tl.cdiv(k.rows, BR)):
            o_r = i_chunk * BR + tl.arange(0, BR)
            b_w = load_row(weights, o_r)
            b_ds = b_w * (load_row(grads, o_r) - delta) * scale  # (BR,)
            b_dk = b_w[:, None] * b_do[None, :] + b_ds[:, None] * b_q[None, :]  # (BR, BD)
            store_tile(sample_matrix(grad_regions, i_s), o_r, o_d, b_dk)


def row_vectors(x: Tensor) -> Operand:
    """``x`` (S, n) as one row per segment."""
    return operand(x[:, None])


def visual_reduction(query: Tensor, regions: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """query (S, D), regions (S, R, D) -> out (S, D), weights (S, R)."""
    segments, count, width = regions.shape
    out = query.new_empty((segments, width))
    weights = query.new_empty((segments, count))
    # Scores need separate memory: in that of the weights, lanes would overwrite unread scores.
    scores = torch.empty(weights.shape, dtype=torch.float32, device=weights.device)
    launch(
        visual_reduction_forward_kernel,
        (segments,),
        row_vectors(query),
        operand(regions),
        *(row_vectors(x) for x in (out, scores, weights)),
        scale,
        BW=min(pad(count), table.VISUAL_SCORES),
        **table.region_chunk(width),
    )
    return out, weights


def visual_reduction_backward(
    grad_out: Tensor,
    grad_weights: Tensor,
    query: Tensor,
    regions: Tensor,
    weights: Tensor,
    scale: float,
    need_regions: bool,
) -> tuple[Tensor, Tensor]:
    """-> dq (S, D), dK (S, R, D), or an empty dK where the caller does not need it."""
    grad_query = query.new_empty(query.shape)
    grad_regions = regions.new_empty(regions.shape if need_regions else (0,))
    grads = torch.empty(weights.shape, dtype=torch.float32, device=weights.device)
    launch(
        visual_reduction_backward_kernel,
        (regions.shape[0],),
        *(row_vectors(x) for x in (grad_out, grad_weights, query)),
        operand(regions),
        *(row_vectors(x) for x in (weights, grads, grad_query)),
        operand(grad_regions) if need_regions else None,
        scale,
        WANT_REGIONS=need_regions,
        **table.region_chunk(regions.shape[2]),
    )
    return grad_query, grad_regions
