"""Compiling the launchers' kernels for chips that are not here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple


class Compiled(NamedTuple):
    """One kernel as a launcher would have started it: its name, tile shape and options, shared memory, machine code."""

    kernel: str
    meta: dict[str, Any]
    shared: int
    cubin: bytes
    ptx: str


class _Driver:
    """The little of a Triton driver that compiling needs."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # Triton keeps what it compiled per device

    def get_current_stream(self, device: int) -> int:
        return 0


@contextlib.contextmanager
def compiling_for(capability: int) -> Iterator[list[Compiled]]:
    """Inside, launchers compile for compute capability ``capability`` (90 for 9.0) and start nothing.

    Tensors may be on the CPU; only their shapes, strides and dtypes count. What was compiled is in the list yielded.
    """
    from triton.runtime import driver

    from jca_fast.kernels.triton import launch
    from jca_fast.kernels.triton.tiles import INTERPRETED

    if INTERPRETED.value:
        raise RuntimeError("kernels cannot be compiled under TRITON_INTERPRET=1: unset it")
    compiled: list[Compiled] = []

    def take(kernel: Any, grid: tuple[int, ...], *args: Any, **meta: Any) -> None:
        binary = kernel.warmup(*args, grid=grid, enable_fp_fusion=True, **meta)
        shared, asm = binary.metadata.shared, binary.asm
        compiled.append(Compiled(kernel.__name__, meta, shared, asm["cubin"], asm["ptx"]))

    before = driver._active
    driver.set_active(_Driver(capability))
    launch.TARGETS.append(launch.Target(launch.architecture_class(capability), take))
    try:
        yield compiled
    finally:
        launch.TARGETS.pop()
        driver._active = before
