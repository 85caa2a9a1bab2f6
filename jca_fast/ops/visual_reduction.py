"""Audio-guided visual reduction: the R regions of each segment become one vector by scaled
dot-product attention.

    a = softmax(K q * scale)     out = Kᵀ a        q (S, D)  K (S, R, D) -> out (S, D), a (S, R)

With dO, dA the gradients of out and a:

    g = dA + K dO     ds = a ∘ (g - a·g) * scale     dq = Kᵀ ds     dK = a dOᵀ + ds qᵀ

The op is bound by memory: the forward and the backward read K once each, and dK is written only
where it is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import reference
from .autograd import differentiable, record, run, vjp_of
from .backends import choose
from .checks import (
    are_plain,
    autocast,
    check_alike,
    check_size,
    check_tensor,
    scale_or_inverse_root,
)


def visual_reduction(
    query: Tensor,
    regions: Tensor,
    scale: float | None = None,
    return_weights: bool = False,
    *,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """``softmax(query regionsᵀ * scale) regions``: each segment's regions weighted by its audio
    query.

    Args:
        query: (..., D), one query for each segment.
        regions: (..., R, D), the same leading sizes; R = 49 regions of a 7 x 7 map in the paper.
        scale: factor on the scores; 1/sqrt(D) if None.
        return_weights: also return the attention over the regions.
        backend: "auto" or the name of a backend; an explicit one that cannot run raises.

    Returns:
        out (..., D), and with ``return_weights`` the weights (..., R), whose sum over R is 1.

    Raises:
        TypeError, ValueError: an argument has the wrong type, dtype, device or shape.
        RuntimeError: the requested backend cannot run these inputs.

    Source: section 3.2 ("scaled dot-product of audio feature and visual feature") of Duan et al.,
    WACV 2021.
    """
    if not (are_plain(query, regions) and _fit(query.shape, regions.shape)):
        query, regions = _checked(query, regions)
    scale = scale_or_inverse_root(scale, query.shape[-1])
    lead, (count, width) = query.shape[:-1], regions.shape[-2:]
    q, r = query.reshape(-1, width), regions.reshape(-1, count, width)  # (S, D), (S, R, D)
    backend = choose("visual_reduction", backend, (q, r))
    out, weights = _call(backend, q, r, scale)
    out = out.reshape(*lead, width)
    return (out, weights.reshape(*lead, count)) if return_weights else out


def _fit(query: Sequence[int], regions: Sequence[int]) -> bool:
    """Whether the shapes are (..., D) and (..., R, D), with at least one region and channel."""
    if len(query) < 1 or len(regions) != len(query) + 1:
        return False
    return (*regions[:-2], regions[-1]) == tuple(query) and 0 not in regions[-2:]


def _checked(query: Tensor, regions: Tensor) -> Sequence[Tensor]:
    """The arguments in autocast's dtype; an error names the first that does not fit."""
    check_tensor("query", query, None, "(..., D)")
    check_tensor("regions", regions, None, "(..., R, D)")
    if query.ndim < 1 or regions.ndim != query.ndim + 1:
        raise ValueError(
            f"regions must be (..., R, D) for a query (..., D), got {tuple(regions.shape)} "
            f"for {tuple(query.shape)}"
        )
    check_size("regions", regions, (*query.shape[:-1], None, query.shape[-1]), "(..., R, D)")
    if 0 in regions.shape[-2:]:
        raise ValueError(
            f"regions must have at least one region and one channel, got {tuple(regions.shape)}"
        )
    query, regions = autocast((query, regions))
    check_alike(("query", "regions"), (query, regions))
    return query, regions


class VisualReduction(torch.autograd.Function):
    """(backend, query, regions, scale) -> out, weights."""

    @staticmethod
    def forward(backend, *args):
        return run("visual_reduction", backend, *args)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.backend, query, regions, ctx.scale = inputs
        ctx.save_for_backward(query, regions, output[1])

    @staticmethod
    def backward(ctx, grad_out, grad_weights):
        wanted = ctx.needs_input_grad[2]
        args = (grad_out, grad_weights, *ctx.saved_tensors, ctx.scale, wanted)
        grad_query, grad_regions = _call_backward(ctx.backend, *args)
        return None, grad_query, grad_regions if wanted else None, None


class VisualReductionBackward(torch.autograd.Function):
    """(backend, grad_out, grad_weights, query, regions, weights, scale, need_regions) -> dq, dK.

    dK is empty where it is not needed.
    """

    @staticmethod
    def forward(backend, *args):
        return run("visual_reduction_backward", backend, *args)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, *tensors, _weights, ctx.scale, ctx.need_regions = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, *grads):
        def formula(grad_out, grad_weights, query, regions):
            # recomputed so that gradients flow
            _, weights = reference.visual_reduction(query, regions, ctx.scale)
            args = (grad_out, grad_weights, query, regions, weights, ctx.scale, ctx.need_regions)
            return reference.visual_reduction_backward(*args)

        return None, *vjp_of(formula, ctx.saved_tensors, grads), None, None, None


def _count(query: Tensor, regions: Tensor, *_: Any, **options: Any) -> int:
    return 2 * regions.numel()


def _count_backward(
    grad_out: Tensor, grad_weights: Tensor, query: Tensor, regions: Tensor, *_: Any, **options: Any
) -> int:
    return 2 * regions.numel()


_call = differentiable("visual_reduction", partial(record, VisualReduction), _count)
_call_backward = differentiable(
    "visual_reduction_backward", partial(record, VisualReductionBackward), _count_backward
)
