"""The joint affinity matrix, materialised for inspection. The fused ops never store it.

C = tanh(scale * q kᵀ)       q = Xᵀ (B, d_x, N)   k = (W_j J)ᵀ (B, d, N)   ->   C (B, d_x, d)
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
    check_sizes_positive,
    check_tensor,
    scale_or_inverse_root,
)


def joint_affinity(
    x: Tensor,
    joint: Tensor,
    weight: Tensor | None = None,
    *,
    scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """``C = tanh(xᵀ W_j J * scale)``, the affinity of every channel of one modality with every
    channel of the joint feature.

    Args:
        x: (B, N, d_x), the modality.
        joint: (B, N, d), the joint feature J, or any key that shares the N segments.
        weight: W_j (N, N); None where ``joint`` already is the key.
        scale: factor before the tanh; 1/sqrt(d) if None.
        backend: "auto" or the name of a backend.

    Returns:
        C (B, d_x, d), in [-1, 1].

    Raises:
        TypeError, ValueError: an argument has the wrong type, dtype, device or shape.
        RuntimeError: the requested backend cannot run these inputs.

    Source: Eqs. 3 and 4 of Duan et al., WACV 2021.
    """
    given = (x, joint) if weight is None else (x, joint, weight)
    if not (are_plain(*given) and _fit(*[t.shape for t in given])):
        x, joint, weight = _checked(x, joint, weight)
    if weight is not None:
        joint = torch.matmul(weight, joint)  # (B, N, d)
    q, k = x.mT, joint.mT  # (B, d_x, N), (B, d, N)
    scale = scale_or_inverse_root(scale, k.shape[1])
    backend = choose("joint_affinity", backend, (q, k))
    return _call(backend, q, k, scale)


def _fit(x: Sequence[int], joint: Sequence[int], weight: Sequence[int] | None = None) -> bool:
    """Whether the shapes are (B, N, d_x), (B, N, d), (N, N); only the batch may be empty."""
    if not len(x) == len(joint) == 3:
        return False
    if tuple(x[:2]) != tuple(joint[:2]) or weight not in (None, (x[1], x[1])):
        return False
    return 0 not in x[1:] and joint[2] != 0


def _checked(
    x: Tensor, joint: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The arguments in autocast's dtype; an error names the first that does not fit."""
    check_tensor("x", x, 3, "(B, N, d_x)")
    check_tensor("joint", joint, 3, "(B, N, d)")
    check_size("joint", joint, (*x.shape[:2], None), "(B, N, d)")
    for name, value in (("x", x), ("joint", joint)):
        check_sizes_positive(name, value)
    if weight is None:
        x, joint = autocast((x, joint))
        check_alike(("x", "joint"), (x, joint))
    else:
        check_tensor("weight", weight, 2, "(N, N)")
        check_size("weight", weight, (x.shape[1], x.shape[1]), "(N, N)")
        x, joint, weight = autocast((x, joint, weight))
        check_alike(("x", "joint", "weight"), (x, joint, weight))
    return x, joint, weight


class JointAffinity(torch.autograd.Function):
    """(backend, q, k, scale) -> C."""

    @staticmethod
    def forward(backend, *args):
        return run("joint_affinity", backend, *args)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.backend, q, k, ctx.scale = inputs
        ctx.save_for_backward(q, k, output)

    @staticmethod
    def backward(ctx, grad_c):
        return None, *_call_backward(ctx.backend, grad_c, *ctx.saved_tensors, ctx.scale), None


class JointAffinityBackward(torch.autograd.Function):
    """(backend, grad_c, q, k, c, scale) -> dq, dk. Its derivative is that of the reference."""

    @staticmethod
    def forward(backend, *args):
        return run("joint_affinity_backward", backend, *args)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, grad_c, q, k, _c, ctx.scale = inputs
        ctx.save_for_backward(grad_c, q, k)

    @staticmethod
    def backward(ctx, *grads):
        def formula(grad_c, q, k):
            # recomputed so that gradients flow
            c = reference.joint_affinity(q, k, ctx.scale)
            return reference.joint_affinity_backward(grad_c, q, k, c, ctx.scale)

        grad_c, grad_q, grad_k = vjp_of(formula, ctx.saved_tensors, grads)
        return None, grad_c, grad_q, grad_k, None, None


def _count(q: Tensor, k: Tensor, *_: Any, **options: Any) -> int:
    return q.numel() * k.shape[1]


def _count_backward(grad_c: Tensor, q: Tensor, k: Tensor, *_: Any, **options: Any) -> int:
    return 2 * q.numel() * k.shape[1]


_call = differentiable("joint_affinity", partial(record, JointAffinity), _count)
_call_backward = differentiable(
    "joint_affinity_backward", partial(record, JointAffinityBackward), _count_backward
)
