"""What the autograd Functions of all ops share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def needs_grad(*tensors: Tensor) -> bool:
    """Whether a call on these tensors has to be recorded."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def vjp_of(
    formula: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], grads: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The vector-Jacobian product of a plain-PyTorch formula, itself differentiable to any order."""
    vjp = torch.func.vjp(lambda *args: tuple(formula(*args)), *inputs)[1]
    return vjp(tuple(grads))
