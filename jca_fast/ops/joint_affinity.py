"""The joint affinity matrix, materialised: for looking at it. The fused ops never store it.

C = tanh(scale * q kᵀ)       q = Xᵀ (B, d_x, N)   k = (W_j J)ᵀ (B, d, N)   ->   C (B, d_x, d)
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from .autograd import needs_grad, record, vjp_of
from .backends import choose
from .checks import autocast, check_alike, check_size, check_sizes_positive, check_tensor
from .library import overload


def joint_affinity(
    x: Tensor,
    joint: Tensor,
    weight: Tensor | None = None,
    *,
    scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """``C = tanh(xᵀ W_j J * scale)``, the affinity of every channel of one modality with every channel of the joint.

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
        RuntimeError: the backend asked for cannot serve these inputs.

    Source: Eqs. 3 and 4 of Duan et al., WACV 2021.
    """
    check_tensor("x", x, 3, "(B, N, d_x)")
    check_tensor("joint", joint, 3, "(B, N, d)")
    check_size("joint", joint, (*x.shape[:2], None), "(B, N, d)")
    for name, value in (("x", x), ("joint", joint)):
        check_sizes_positive(name, value)
    if weight is not None:
        check_tensor("weight", weight, 2, "(N, N)")
        check_size("weight", weight, (x.shape[1], x.shape[1]), "(N, N)")
        x, joint, weight = autocast((x, joint, weight))
        check_alike(("x", "joint", "weight"), (x, joint, weight))
        joint = weight @ joint  # (B, N, d)
    else:
        x, joint = autocast((x, joint))
        check_alike(("x", "joint"), (x, joint))
    q, k = x.mT, joint.mT  # (B, d_x, N), (B, d, N)
    scale = k.shape[1] ** -0.5 if scale is None else float(scale)
    backend = choose("joint_affinity", backend, (q, k))
    if needs_grad(q, k):
        return record(JointAffinity, q, k, scale, backend)
    return overload("joint_affinity", backend)(q, k, scale)


class JointAffinity(torch.autograd.Function):
    """(q, k, scale, backend) -> C."""

    generate_vmap_rule = True

    @staticmethod
    def forward(q, k, scale, backend):
        return overload("joint_affinity", backend)(q, k, scale)

    @staticmethod
    def setup_context(ctx, inputs, output):
        q, k, ctx.scale, ctx.backend = inputs
        ctx.save_for_backward(q, k, output)

    @staticmethod
    def backward(ctx, grad_c):
        args = (grad_c, *ctx.saved_tensors, ctx.scale)
        if torch.is_grad_enabled():
            grads = record(JointAffinityBackward, *args, ctx.backend)
        else:
            grads = overload("joint_affinity_backward", ctx.backend)(*args)
        return *grads, None, None


class JointAffinityBackward(torch.autograd.Function):
    """(grad_c, q, k, c, scale, backend) -> dq, dk; its own derivative runs on the reference."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad_c, q, k, c, scale, backend):
        return overload("joint_affinity_backward", backend)(grad_c, q, k, c, scale)

    @staticmethod
    def setup_context(ctx, inputs, output):
        grad_c, q, k, _, ctx.scale, _ = inputs
        ctx.save_for_backward(grad_c, q, k)

    @staticmethod
    def backward(ctx, *grads):
        def formula(grad_c, q, k):
            c = reference.joint_affinity(
                q, k, ctx.scale
            )  # a function of q and k here, not a constant
            return reference.joint_affinity_backward(grad_c, q, k, c, ctx.scale)

        return *vjp_of(formula, ctx.saved_tensors, grads), None, None, None
