"""From tensors to launches: precision tiers, sizes, and the one function that starts a kernel."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from jca_fast.ops.tiers import architecture_class, device_class
from jca_fast.ops.tiers import kernel_tier as tier

from .operands import Operand

__all__ = [
    "OPTIONS",
    "TARGETS",
    "Target",
    "alike",
    "architecture",
    "architecture_class",
    "cdiv",
    "launch",
    "leaves",
    "pad",
    "tier",
]


class Target(NamedTuple):
    """A substitute for the device: an architecture class, and a function that takes each launch."""

    architecture: str
    take: Callable[..., Any]


OPTIONS = {"enable_fp_fusion": True}
"""Options of every launch: newer versions of Triton do not fuse products and sums by default."""
TARGETS: list[Target] = []
"""The last entry, if any, takes every launch. The audit uses it to compile for other chips."""


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **meta: Any) -> None:
    """Start ``kernel`` on the device of its first tensor; an empty grid starts nothing."""
    if 0 in grid:
        return
    meta = OPTIONS | meta
    if TARGETS:
        TARGETS[-1].take(kernel, grid, *args, **meta)
        return
    first = args[0]
    while isinstance(first, tuple):
        first = first[0]
    device = first.device
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            kernel[grid](*args, **meta)
    else:
        kernel[grid](*args, **meta)


def leaves(value: Any) -> Any:
    """The entries of nested tuples."""
    if isinstance(value, tuple):
        for entry in value:
            yield from leaves(entry)
    else:
        yield value


def constants(meta: dict[str, Any]) -> dict[str, Any]:
    """The constants of a launch by name; a structure like ``Tile`` gives one constant per field."""
    found: dict[str, Any] = {}
    for name, value in meta.items():
        found |= value._asdict() if hasattr(value, "_asdict") else {name: value}
    return found


def alike(entries: Sequence[tuple[Any, ...]]) -> bool:
    """Whether structures of one type share compiled code: Triton makes an integer 1 a constant."""
    first = _ones(entries[0])
    return all(_ones(entry) == first for entry in entries[1:])


def _ones(entry: Any) -> Any:
    """Which integers of a structure are 1."""
    if type(entry) is Operand:
        return _ones_of(entry[1:])
    return (
        [_ones(x) for x in entry] if isinstance(entry, tuple) else type(entry) is int and entry == 1
    )


@functools.lru_cache(1024)
def _ones_of(numbers: tuple[int, ...]) -> tuple[bool, ...]:
    return tuple(n == 1 for n in numbers)


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up. A call of ``triton.cdiv`` takes a microsecond."""
    return -(a // -b)


def architecture(device: torch.device) -> str:
    """The class of a device's chip in the table of configurations; the interpreter uses sm90's."""
    if TARGETS:
        return TARGETS[-1].architecture
    return device_class(device.index or 0) if device.type == "cuda" else "sm90"


def pad(size: int, least: int = 16) -> int:
    """The next power of two, at least ``least``."""
    return max(least, 1 << (size - 1).bit_length())
