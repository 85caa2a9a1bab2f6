"""What the autograd Functions of all ops share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def needs_grad(*tensors: Tensor) -> bool:
    """Whether a call on these tensors has to be recorded."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def record(function: type[torch.autograd.Function], *args: Any) -> Any:
    """``function.apply(*args)`` without its look at the signature of ``forward``, which costs 15 microseconds a call.

    Under a compiler or a functorch transform it is ``apply`` itself.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return function.apply(*args)
    return super(torch.autograd.Function, function).apply(*args)  # type: ignore[misc]


def vjp_of(
    formula: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], grads: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The vector-Jacobian product of a plain-PyTorch formula, itself differentiable to any order."""
    vjp = torch.func.vjp(lambda *args: tuple(formula(*args)), *inputs)[1]
    return vjp(tuple(grads))
