"""Checks shared by the ops. Each error names the argument, the value given and the value needed."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real

import torch
from torch import Tensor

from .dropout import draw_seed

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def are_plain(*tensors: object) -> bool:
    """Whether all are dense floating-point tensors of one dtype on one device, outside autocast.

    An op that gets such tensors skips the checks below, which take six times as long and know what
    to say of the others.
    """
    first = tensors[0]
    if not isinstance(first, Tensor) or torch._C._is_any_autocast_enabled():
        return False
    device, dtype = first.device, first.dtype
    for tensor in tensors:
        if (
            not isinstance(tensor, Tensor)
            or tensor.dtype is not dtype
            or tensor.layout is not torch.strided
            or tensor.is_nested
            or tensor.device != device
        ):
            return False
    return dtype in FLOATING


def check_tensor(name: str, value: object, ndim: int | None, layout: str) -> None:
    """``value`` must be a floating-point tensor with ``ndim`` dimensions, which the message shows
    as ``layout``.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor {layout}, got {type(value).__name__}")
    check_dense(name, value, layout)
    if ndim is not None and value.ndim != ndim:
        raise ValueError(
            f"{name} must have {ndim} dimensions {layout}, got shape {tuple(value.shape)}"
        )
    if value.dtype not in FLOATING:
        raise TypeError(f"{name} must be float32, float64, bfloat16 or float16, got {value.dtype}")


def check_dense(name: str, value: Tensor, layout: str) -> None:
    """``value`` must be neither nested nor sparse."""
    if value.is_nested or value.layout is not torch.strided:
        got = "a nested tensor" if value.is_nested else str(value.layout)
        raise TypeError(f"{name} must be a dense tensor {layout}, got {got}")


def check_size(name: str, value: Tensor, shape: Sequence[int | None], layout: str) -> None:
    """``value`` must have ``shape``; None leaves a dimension free."""
    for got, needed in zip(value.shape, shape, strict=True):
        if needed is not None and got != needed:
            wanted = ", ".join("*" if n is None else str(n) for n in shape)
            raise ValueError(
                f"{name} must have shape ({wanted}) {layout}, got {tuple(value.shape)}"
            )


def check_number(name: str, value: object) -> None:
    """``value`` must be a real number, because an op has no derivative with respect to it.

    While ``torch.jit.trace`` runs, a number that comes from a size is a tensor; while a compiler
    traces, it is a symbol.
    """
    if isinstance(value, (int, float)):
        return
    if isinstance(value, Tensor):
        if torch._C._get_tracing_state() is None:
            advice = "; multiply an input by it" if name == "scale" else ""
            got = f"a tensor {tuple(value.shape)}"
            raise TypeError(f"{name} must be a number, got {got}{advice}")
    elif not isinstance(value, (Real, torch.SymInt, torch.SymFloat)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")


def check_alike(names: Sequence[str], tensors: Sequence[Tensor]) -> None:
    """All tensors must share the first one's device and dtype."""
    first = tensors[0]
    device, dtype = first.device, first.dtype
    for name, tensor in zip(names[1:], tensors[1:], strict=True):
        if tensor.device != device:
            raise ValueError(
                f"{name} must be on {first.device} like {names[0]}, got {tensor.device}"
            )
        if tensor.dtype != dtype:
            raise TypeError(f"{name} must be {first.dtype} like {names[0]}, got {tensor.dtype}")


def check_sizes_positive(name: str, value: Tensor) -> None:
    """Every dimension but the batch must be at least 1."""
    if 0 in value.shape and 0 in value.shape[1:]:
        raise ValueError(
            f"{name} must have at least 1 element in every dimension but the batch, got "
            f"{tuple(value.shape)}"
        )


def inverse_root(size: int | Tensor) -> float:
    """1/sqrt(size). While ``torch.jit.trace`` runs, sizes are tensors, whose root is a float32."""
    return (int(size) if isinstance(size, Tensor) else size) ** -0.5


def scale_or_inverse_root(scale: float | None, size: int | Tensor) -> float:
    """The factor on the scores: the given number, or 1/sqrt(size)."""
    if scale is None:
        return inverse_root(size)
    check_number("scale", scale)
    return float(scale)


def autocasts(device: str) -> bool:
    """Whether autocast is on for a type of device; meta does not have it.

    Compilers of torch 2.10 and 2.11 cannot trace `torch.amp.is_autocast_available`.
    """
    return device != "meta" and torch.is_autocast_enabled(device)


def autocast(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Under autocast, the tensors in its dtype (float64 is not cast); otherwise unchanged."""
    device = tensors[0].device.type
    if not autocasts(device):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device)
    return [t if t.dtype == torch.float64 else t.to(dtype) for t in tensors]


def dropout_seed(
    dropout_p: float,
    seed: int | Tensor | None,
    generator: torch.Generator | None,
    device: torch.device,
) -> Tensor | None:
    """The int64 seed () of this call's dropout mask: the given seed or a fresh one; None without
    dropout.
    """
    check_number("dropout_p", dropout_p)
    if not 0.0 <= dropout_p <= 1.0:
        raise ValueError(f"dropout_p must be a probability between 0 and 1, got {dropout_p}")
    if seed is not None and generator is not None:
        raise ValueError("give either seed or generator, not both")
    if dropout_p == 0.0:
        return None
    if seed is None:
        return draw_seed(device, generator)
    if isinstance(seed, Tensor):
        if seed.dtype != torch.int64 or seed.ndim != 0:
            raise ValueError(
                f"seed must be an int or an int64 tensor (), got {seed.dtype} {tuple(seed.shape)}"
            )
        return seed.to(device)
    if isinstance(seed, bool) or not isinstance(seed, (Integral, torch.SymInt)):
        raise TypeError(f"seed must be an int or an int64 tensor (), got {type(seed).__name__}")
    if isinstance(seed, Integral) and not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed must fit into int64, got {seed}")
    # The capture of a CUDA graph forbids the copy from the host that torch.tensor makes.
    return torch.full((), seed, dtype=torch.int64, device=device)
