"""Compile the launchers' kernels for GPUs that are not installed."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import torch


class Compiled(NamedTuple):
    """One compiled launch: kernel name, dtype of its first tensor, grid, constants, code."""

    kernel: str
    dtype: str
    grid: tuple[int, ...]
    meta: dict[str, Any]
    shared: int
    cubin: bytes
    ttgir: str


class _Driver:
    """The part of a Triton driver that compilation needs."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # Triton caches compiled kernels by device

    def get_current_stream(self, device: int) -> int:
        return 0


@contextlib.contextmanager
def compiling_for(capability: int, only: Collection[str] = ()) -> Iterator[list[Compiled]]:
    """Within this context launchers compile for compute capability ``capability`` (90 for 9.0) and
    start nothing.

    Tensors may be on the CPU; only their shapes, strides and dtypes count. The yielded list
    receives the compiled launches. ``only`` restricts them to kernels of these names, without
    "_kernel".
    """
    from jca_fast.kernels.triton import launch
    from jca_fast.kernels.triton.tiles import INTERPRETED
    from triton.runtime import driver

    if INTERPRETED.value:
        raise RuntimeError("kernels cannot be compiled under TRITON_INTERPRET=1: unset it")
    compiled: list[Compiled] = []

    def take(kernel: Any, grid: tuple[int, ...], *args: Any, **meta: Any) -> None:
        if only and kernel.__name__.removesuffix("_kernel") not in only:
            return
        binary = kernel.warmup(*args, grid=grid, **meta)
        dtype = str(next(x.dtype for x in launch.leaves(args) if isinstance(x, torch.Tensor)))
        asm = binary.asm
        compiled.append(
            Compiled(
                kernel.__name__,
                dtype,
                grid,
                launch.constants(meta),
                binary.metadata.shared,
                asm["cubin"],
                asm["ttgir"],
            )
        )

    before = driver._active
    driver.set_active(_Driver(capability))
    launch.TARGETS.append(launch.Target(launch.architecture_class(capability), take))
    try:
        yield compiled
    finally:
        launch.TARGETS.pop()
        driver._active = before
