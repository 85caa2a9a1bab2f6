"""tanh attention: attention over channels with a tanh in place of the softmax.

    out = tanh(scale * q kᵀ) v        q (B, M, N)  k (B, L, N)  v (B or 1, L, D) -> out (B, M, D)

With S = scale * q kᵀ, P = tanh(S), both (B, M, L), and dO the gradient of out:

    dS = (dO vᵀ) ∘ (1 - P²) * scale     dq = dS k     dk = dSᵀ q     dv = Pᵀ dO

A shared v sums dv over the batch. Dropout acts on P (:mod:`jca_fast.ops.dropout`). Only q, k and v
are saved; the backward recomputes P.
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
    check_number,
    check_size,
    check_sizes_positive,
    check_tensor,
    dropout_seed,
)


def tanh_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    *,
    dropout_p: float = 0.0,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """``tanh(scale * q kᵀ) v``, the primitive of both forms of Joint Co-Attention; the (M, L)
    matrix is never stored.

    Paper form: q = Aᵀ, k = (W_ja J)ᵀ, v = W_caᵀ, shared by the batch. Released form: q = Qᵀ, k =
    K_a, v = V_aᵀ.

    Args:
        q: (B, M, N), any strides.
        k: (B, L, N).
        v: (B, L, D), or (1, L, D) shared by the batch.
        scale: factor on q kᵀ; the paper's is 1/sqrt(d).
        dropout_p: probability with which elements of the (M, L) matrix are dropped, quantised to
            1/65536.
        generator: draws the seed of the dropout mask; the device's default generator if None.
        seed: the seed itself (an int or an int64 tensor ()), in place of a generator.
        backend: "auto" or the name of a backend; an explicit one that cannot run raises.

    Returns:
        (B, M, D) in the dtype of the inputs; under autocast, in autocast's dtype.

    Raises:
        TypeError, ValueError: an argument has the wrong type, dtype, device or shape.
        RuntimeError: the requested backend cannot run these inputs.

    Source: Eqs. 3-4 and the attention map of section 3.3 of Duan et al., WACV 2021.
    """
    if not (are_plain(q, k, v) and _fit(q.shape, k.shape, v.shape)):
        q, k, v = _checked(q, k, v)
    check_number("scale", scale)
    seed = dropout_seed(dropout_p, seed, generator, q.device)
    backend = choose("tanh_attention", backend, (q, k, v))
    return _call(backend, q, k, v, float(scale), float(dropout_p), seed)


def _fit(q: Sequence[int], k: Sequence[int], v: Sequence[int]) -> bool:
    """Whether the shapes are (B, M, N), (B, L, N), (B or 1, L, D); only the batch may be empty."""
    if not len(q) == len(k) == len(v) == 3:
        return False
    (batch, m, n), (_, length, d) = q, v
    return tuple(k) == (batch, length, n) and v[0] in (1, batch) and 0 not in (m, n, length, d)


def _checked(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The arguments in autocast's dtype; an error names the first that does not fit."""
    for name, value, layout in (
        ("q", q, "(B, M, N)"),
        ("k", k, "(B, L, N)"),
        ("v", v, "(B or 1, L, D)"),
    ):
        check_tensor(name, value, 3, layout)
    q, k, v = autocast((q, k, v))
    check_alike("qkv", (q, k, v))
    check_size("k", k, (q.shape[0], None, q.shape[2]), "(B, L, N)")
    check_size(
        "v", v, (None if v.shape[0] == 1 else q.shape[0], k.shape[1], None), "(B or 1, L, D)"
    )
    for name, value in zip("qkv", (q, k, v), strict=True):
        check_sizes_positive(name, value)
    return q, k, v


class TanhAttention(torch.autograd.Function):
    """(backend, q, k, v, scale, dropout_p, seed) -> out."""

    @staticmethod
    def forward(backend, *args):
        return run("tanh_attention", backend, *args)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.backend, q, k, v, ctx.scale, ctx.dropout_p, seed = inputs
        ctx.save_for_backward(q, k, v, seed)

    @staticmethod
    def backward(ctx, grad_out):
        q, k, v, seed = ctx.saved_tensors
        options = (ctx.scale, ctx.dropout_p, seed)
        return None, *_call_backward(ctx.backend, grad_out, q, k, v, *options), None, None, None


class TanhAttentionBackward(torch.autograd.Function):
    """(backend, grad_out, q, k, v, scale, dropout_p, seed) -> dq, dk, dv.

    Its derivative is that of the reference.
    """

    @staticmethod
    def forward(backend, *args):
        return run("tanh_attention_backward", backend, *args)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, grad_out, q, k, v, ctx.scale, ctx.dropout_p, seed = inputs
        ctx.save_for_backward(grad_out, q, k, v, seed)

    @staticmethod
    def backward(ctx, *grads):
        *tensors, seed = ctx.saved_tensors

        def formula(grad_out, q, k, v):
            return reference.tanh_attention_backward(
                grad_out, q, k, v, ctx.scale, ctx.dropout_p, seed
            )

        return None, *vjp_of(formula, tensors, grads), None, None, None


def _count(q: Tensor, k: Tensor, v: Tensor, *_: Any, **options: Any) -> int:
    return q.shape[0] * q.shape[1] * k.shape[1] * (q.shape[2] + v.shape[2])


def _count_backward(
    grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any, **options: Any
) -> int:
    return q.shape[0] * q.shape[1] * k.shape[1] * (3 * q.shape[2] + 2 * v.shape[2])


_call = differentiable("tanh_attention", partial(record, TanhAttention), _count)
_call_backward = differentiable(
    "tanh_attention_backward", partial(record, TanhAttentionBackward), _count_backward
)
