"""Errors against a float64 oracle, bounded by those of plain PyTorch in the same dtype."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def error(value: Tensor, oracle: Tensor) -> float:
    """Largest absolute error over the largest oracle value; 0 for empty tensors."""
    assert value.shape == oracle.shape, (
        f"shape {tuple(value.shape)}, expected {tuple(oracle.shape)}"
    )
    if not value.numel():
        return 0.0
    return ((value.double() - oracle).abs().max() / oracle.abs().max().clamp_min(1e-300)).item()


def assert_as_good_as_torch(
    names: Sequence[str],
    values: Sequence[Tensor],
    plain: Sequence[Tensor],
    oracle: Sequence[Tensor],
    factor: float,
) -> None:
    """Each value's error must be at most ``factor`` times plain PyTorch's, plus two units in the
    last place.

    In float64 plain PyTorch is the oracle itself, so there the bound is 64 units in the last place.
    """
    for name, ours, theirs, exact in zip(names, values, plain, oracle, strict=True):
        units = 64 if ours.dtype == torch.float64 else 2
        allowed = factor * error(theirs, exact) + units * torch.finfo(ours.dtype).eps
        assert error(ours, exact) <= allowed, (
            f"{name}: error {error(ours, exact):.2e}, allowed {allowed:.2e}"
        )


def value_and_grads(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor
) -> list[Tensor]:
    """The output of ``function`` and the gradient of every input for the cotangent ``grad``."""
    leaves = [t.detach().requires_grad_() for t in inputs]
    out = function(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad.to(out.dtype))]


def assert_bitwise(first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
    """Equal to the last bit; the message says where the first difference is."""
    for index, (a, b) in enumerate(zip(first, second, strict=True)):
        if not torch.equal(a, b):
            where = (a != b).nonzero()[0].tolist()
            raise AssertionError(
                f"tensor {index} differs at {where}: {a[tuple(where)]} and {b[tuple(where)]}"
            )
