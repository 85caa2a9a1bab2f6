"""The affinity of scores that a matrix product has made: tanh and dropout in one pass.

    C = dropout(tanh(scale * S))       S (B, M, L)   ->   C (B, M, L)

The mask is that of the fused ops (:mod:`jca_fast.ops.dropout`), which never store C. The backward
needs C alone: a kept element is tanh times a known factor.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import reference
from .autograd import differentiable, record, run, vjp_of
from .backends import choose
from .checks import (
    autocast,
    check_alike,
    check_number,
    check_sizes_positive,
    check_tensor,
    dropout_seed,
)


def tanh_dropout(
    scores: Tensor,
    scale: float,
    *,
    dropout_p: float = 0.0,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """``dropout(tanh(scale * scores))``.

    Args:
        scores: (B, M, L), the products of the channels of two features.
        scale: factor on the scores before the tanh.
        dropout_p: probability with which elements are dropped, quantised to 1/65536.
        generator: draws the seed of the dropout mask; the device's default generator if None.
        seed: the seed itself (an int or an int64 tensor ()), in place of a generator.
        backend: "auto" or the name of a backend; an explicit one that cannot run raises.

    Returns:
        C (B, M, L) in the dtype of the scores; under autocast, in autocast's dtype.

    Raises:
        TypeError, ValueError: an argument has the wrong type, dtype, device or shape.
        RuntimeError: the requested backend cannot run these inputs.
    """
    check_tensor("scores", scores, 3, "(B, M, L)")
    (scores,) = autocast((scores,))
    check_alike(("scores",), (scores,))
    check_sizes_positive("scores", scores)
    check_number("scale", scale)
    seed = dropout_seed(dropout_p, seed, generator, scores.device)
    backend = choose("tanh_dropout", backend, (scores,))
    return call(backend, scores, float(scale), float(dropout_p), seed)


class TanhDropout(torch.autograd.Function):
    """(backend, scores, scale, dropout_p, seed) -> C."""

    @staticmethod
    def forward(backend, *args):
        return run("tanh_dropout", backend, *args)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.backend, _scores, ctx.scale, ctx.dropout_p, seed = inputs
        ctx.save_for_backward(output, seed)

    @staticmethod
    def backward(ctx, grad_out):
        out, seed = ctx.saved_tensors
        options = (ctx.scale, ctx.dropout_p, seed)
        return None, _call_backward(ctx.backend, grad_out, out, *options), None, None, None


class TanhDropoutBackward(torch.autograd.Function):
    """(backend, grad_out, C, scale, dropout_p, seed) -> the gradient of the scores. Its derivative
    is that of the reference.
    """

    @staticmethod
    def forward(backend, *args):
        return run("tanh_dropout_backward", backend, *args)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, grad_out, out, ctx.scale, ctx.dropout_p, seed = inputs
        ctx.save_for_backward(grad_out, out, seed)

    @staticmethod
    def backward(ctx, grad):
        *tensors, seed = ctx.saved_tensors
        options = (ctx.scale, ctx.dropout_p, seed)

        def formula(grad_out, out):
            return (reference.tanh_dropout_backward(grad_out, out, *options),)

        return None, *vjp_of(formula, tensors, (grad,)), None, None, None


def _count(*_: Any, **options: Any) -> int:
    return 0  # there is no matrix product


call = differentiable("tanh_dropout", partial(record, TanhDropout), _count)
"""``call(backend, scores, scale, dropout_p, seed)`` for an op that has checked its arguments."""
_call_backward = differentiable(
    "tanh_dropout_backward", partial(record, TanhDropoutBackward), _count
)
