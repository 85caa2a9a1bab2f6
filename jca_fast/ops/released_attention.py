"""The attention of the released form: tanh attention on features that lie segment by segment, and
its activation.

    C = dropout(tanh(scale * keyᵀ query))        (B, d_x, d)
    T = relu(tanh(value C))                      (B, N, d)

with query (B, N, d), key and value (B, N, d_x).

It is tanh attention with q = queryᵀ, k = keyᵀ, v = valueᵀ, whose result is transposed and activated
before it is written. Where T > 0 the slope of the activation is 1 - T², elsewhere 0, so that the
backward needs T and no more.

The fused op never stores C: its backward computes C once more. In long clips the affinity matrix is
no larger than the features, and that product costs more than the memory. On a CPU such a call, if
it is recorded, is two of PyTorch's products with one pass for tanh and dropout behind each.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import reference, tanh_dropout
from .autograd import differentiable, needs_grad, record, run, vjp_of
from .backends import AUTO, choose, find
from .checks import (
    autocast,
    check_alike,
    check_number,
    check_size,
    check_sizes_positive,
    check_tensor,
    dropout_seed,
)

LONG = 192
"""Segments from which C is stored for the backward. On AVX2, a training step of batch 12, d = 384
and d_x = 256 took 0.74 of the fused time with 300 segments, 0.91 with 150 and 1.05 with 100."""


def released_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    *,
    dropout_p: float = 0.0,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """``relu(tanh(value tanh(scale * keyᵀ query)))``, the core of one layer of the released form.

    Args:
        query: (B, N, d), the joint feature after its Linear.
        key: (B, N, d_x), one modality after its Linear over the segments.
        value: (B, N, d_x), the modality after its Linear over the channels.
        scale: factor on keyᵀ query; the released code's is 1/sqrt(d).
        dropout_p: probability with which elements of the (d, d_x) matrix are dropped, quantised to
            1/65536.
        generator: draws the seed of the dropout mask; the device's default generator if None.
        seed: the seed itself (an int or an int64 tensor ()), in place of a generator.
        backend: "auto" or the name of a backend; an explicit one that cannot run raises.

    Returns:
        T (B, N, d) in the dtype of the inputs; under autocast, in autocast's dtype.

    Raises:
        TypeError, ValueError: an argument has the wrong type, dtype, device or shape.
        RuntimeError: the requested backend cannot run these inputs.

    Source: released code of Duan et al., WACV 2021.
    """
    names = ("query", "key", "value")
    for name, tensor in zip(names, (query, key, value), strict=True):
        check_tensor(name, tensor, 3, "(B, N, channels)")
    query, key, value = autocast((query, key, value))
    check_alike(names, (query, key, value))
    check_size("key", key, (*query.shape[:2], None), "(B, N, d_x)")
    check_size("value", value, key.shape, "(B, N, d_x)")
    check_sizes_positive("query", query)
    check_sizes_positive("key", key)
    check_number("scale", scale)
    seed = dropout_seed(dropout_p, seed, generator, query.device)
    backend = choose("released_attention", backend, (query, key, value))
    stored = _is_long(query, backend) and needs_grad(query, key, value)
    function = _with_stored_affinity if stored else _call
    return function(backend, query, key, value, float(scale), float(dropout_p), seed)


def _is_long(query: Tensor, backend: str) -> bool:
    """Whether PyTorch's products are faster than the fused kernel. In half precision they would
    round the scores.
    """
    if query.shape[1] < LONG or query.dtype not in (torch.float32, torch.float64):
        return False
    return backend != AUTO and find(backend).device == "cpu"


def _with_stored_affinity(
    backend: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
) -> Tensor:
    scores = torch.bmm(query.mT, key)  # (B, d, d_x), laid out as the mask of the fused op
    c = tanh_dropout.call(backend, scores, scale, dropout_p, seed)
    return torch.relu(tanh_dropout.call(backend, torch.bmm(value, c.mT), 1.0, 0.0, None))


class ReleasedAttention(torch.autograd.Function):
    """(backend, query, key, value, scale, dropout_p, seed) -> T."""

    @staticmethod
    def forward(backend, *args):
        return run("released_attention", backend, *args)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.backend, query, key, value, ctx.scale, ctx.dropout_p, seed = inputs
        ctx.save_for_backward(output, query, key, value, seed)

    @staticmethod
    def backward(ctx, grad_out):
        *tensors, seed = ctx.saved_tensors
        options = (ctx.scale, ctx.dropout_p, seed)
        return None, *_call_backward(ctx.backend, grad_out, *tensors, *options), None, None, None


class ReleasedAttentionBackward(torch.autograd.Function):
    """(backend, grad_out, T, query, key, value, scale, dropout_p, seed) -> the gradients of
    query, key and value.
    """

    @staticmethod
    def forward(backend, *args):
        return run("released_attention_backward", backend, *args)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, grad_out, _out, query, key, value, ctx.scale, ctx.dropout_p, seed = inputs
        ctx.save_for_backward(grad_out, query, key, value, seed)

    @staticmethod
    def backward(ctx, *grads):
        *tensors, seed = ctx.saved_tensors
        options = (ctx.scale, ctx.dropout_p, seed)

        def formula(grad_out, query, key, value):
            # recomputed so that gradients flow
            out = reference.released_attention(query, key, value, *options)
            return reference.released_attention_backward(grad_out, out, query, key, value, *options)

        grad_out, *rest = vjp_of(formula, tensors, grads)
        return None, grad_out, None, *rest, None, None, None


def _count(query: Tensor, key: Tensor, value: Tensor, *_: Any, **options: Any) -> int:
    return 2 * query.numel() * key.shape[2]


def _count_backward(
    grad_out: Tensor,
    out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *_: Any,
    **options: Any,
) -> int:
    return 5 * query.numel() * key.shape[2]


_call = differentiable("released_attention", partial(record, ReleasedAttention), _count)
_call_backward = differentiable(
    "released_attention_backward", partial(record, ReleasedAttentionBackward), _count_backward
)
