"""Launchers of the visual reduction."""

from __future__ import annotations

import torch
from torch import Tensor

from .launch import launch, pad
from .tiles import Operand, operand
from .visual import visual_backward_kernel, visual_forward_kernel

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
