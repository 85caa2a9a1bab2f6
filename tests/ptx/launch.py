"""A kernel launch, the ways to execute it, and its result."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .formats import Array
from .parser import Kernel

SCHEDULES = {"together": 0, "up": 1, "down": -1}
"""Warps run in step, or each as far as it gets, from the first warp or from the last."""


class Arena:
    """Global memory of a launch: buffers with gaps between them that no access may touch."""

    GAP = 512

    def __init__(self, sizes: list[int], base: int = 0x7F00_0000_0000) -> None:
        starts = [self.GAP]
        for size in sizes:
            starts.append(-(-(starts[-1] + size) // self.GAP) * self.GAP + self.GAP)
        self.base = base
        self.bytes = np.full(starts.pop() + self.GAP, 0xFF, np.uint8)
        self.valid = np.zeros(len(self.bytes), bool)
        self.buffers = [self.bytes[at : at + size] for at, size in zip(starts, sizes, strict=True)]
        self.addresses = [base + at for at in starts]
        for at, size in zip(starts, sizes, strict=True):
            self.valid[at : at + size] = True


@dataclass
class Launch:
    """The arguments of a launch, as a driver receives them."""

    kernel: Kernel
    grid: tuple[int, ...]
    threads: int
    """Threads of a CTA, in one dimension."""
    shared: int
    """Bytes of dynamic shared memory."""
    parameters: bytes
    """All parameters, packed as the driver packs them."""
    arena: Arena


@dataclass
class Options:
    """How a launch is executed."""

    schedule: str = "together"
    guard_bits: int | None = None
    """Of the tensor cores' sums; None rounds them correctly (``formats.multiply_accumulate``)."""


@dataclass
class Result:
    """Record of an execution."""

    covered: Array
    """Whether each instruction of the kernel has run."""
    executed: int
    seconds: float
