"""A stand-in for a GPU: launches of the Triton kernels are compiled for it and executed at once.

with emulate(80) as device:
    kernels.tanh_attention(q, k, v, ...)  # tensors on the CPU
assert not device.findings.counts
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import struct
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from .formats import Array
from .machine import Launch, Machine, Options
from .memory import Arena, Findings
from .parser import Kernel, parse

FORMATS = {"fp32": "<f", "fp64": "<d"}


class Device:
    """Takes launches and keeps the findings."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.findings = Findings()
        self.executed: list[int] = []
        """How many instructions each launch took."""
        self.seconds = 0.0
        """The time of all of them, without compilation."""
        self.covered: dict[str, tuple[str, Array]] = {}
        """Of each PTX text: the kernel's name, and which instructions have run."""
        self.launches: list[Launch] | None = None
        """Set to a list to keep each launch with memory as it was before."""

    def take(self, jit: Any, grid: tuple[int, ...], *args: Any, **meta: Any) -> None:
        """Compile and execute one launch; results are written to the tensors in ``args``."""
        compiled = jit.warmup(*args, grid=grid, **meta)
        ptx = compiled.asm["ptx"]
        key = hashlib.sha256(ptx.encode()).hexdigest()
        (kernel,) = parse(ptx).values()
        values = _arguments(compiled.src.signature, dict(zip(jit.arg_names, args, strict=False)))
        buffers = _Buffers([value for value, _ in values])
        packed = _pack(kernel, [_encode(value, kind, buffers) for value, kind in values])
        threads = 32 * meta.get("num_warps", 4)
        shared = compiled.metadata.shared
        launch = Launch(kernel, grid, threads, shared, packed, buffers.arena)
        if self.launches is not None:
            self.launches.append(copy.deepcopy(launch))
        started = time.process_time()
        machine = Machine(launch, self.options, self.findings).run()
        self.seconds += time.process_time() - started
        buffers.copy_back()
        self.executed.append(machine.executed)
        _, covered = self.covered.get(key, ("", False))
        self.covered[key] = jit.__name__, covered | machine.covered


def _arguments(signature: dict[str, Any], args: dict[str, Any]) -> list[tuple[Any, str]]:
    """The arguments that the compiled kernel takes, with their kinds: constants are compiled in."""

    def flatten(value: Any, kind: Any) -> Iterator[tuple[Any, str]]:
        if isinstance(kind, (tuple, list)):
            for pair in zip(value, kind, strict=True):
                yield from flatten(*pair)
        elif kind != "constexpr":
            yield value, kind

    return [pair for name, kind in signature.items() for pair in flatten(args.get(name), kind)]


class _Buffers:
    """The storages of tensors in global memory, each once."""

    def __init__(self, values: list[Any]) -> None:
        storages = [v.untyped_storage() for v in values if isinstance(v, torch.Tensor)]
        self.storages = {s.data_ptr(): s for s in storages if s.data_ptr()}
        self.arena = Arena([s.nbytes() for s in self.storages.values()])
        self.addresses = dict(zip(self.storages, self.arena.addresses, strict=True))
        for pointer, buffer in zip(self.storages, self.arena.buffers, strict=True):
            buffer[:] = self._bytes(pointer)

    def _bytes(self, pointer: int) -> Array:
        return torch.empty(0, dtype=torch.uint8).set_(self.storages[pointer]).numpy()

    def address(self, tensor: torch.Tensor) -> int:
        start = tensor.untyped_storage().data_ptr()
        return self.addresses[start] + tensor.data_ptr() - start if start else 0

    def copy_back(self) -> None:
        for pointer, buffer in zip(self.storages, self.arena.buffers, strict=True):
            if not np.array_equal(self._bytes(pointer), buffer):
                self._bytes(pointer)[:] = buffer


def _encode(value: Any, kind: str, buffers: _Buffers) -> bytes:
    if isinstance(value, torch.Tensor):
        return struct.pack("<Q", buffers.address(value))
    if kind.startswith("fp"):
        return struct.pack(FORMATS[kind], value)
    size = max(int(kind.lstrip("iu")) // 8, 1)
    return (int(value) & (1 << 8 * size) - 1).to_bytes(size, "little")


def _pack(kernel: Kernel, values: list[bytes]) -> bytes:
    """Parameters at their alignment; Triton adds pointers to scratch memory that is not used."""
    packed = b""
    for i, parameter in enumerate(kernel.parameters):
        value = values[i] if i < len(values) else bytes(parameter.size)
        if len(value) != parameter.size:
            raise ValueError(f"{parameter.name} has {parameter.size} bytes, got {len(value)}")
        packed += bytes(-len(packed) % parameter.alignment) + value
    return packed


@contextlib.contextmanager
def emulate(capability: int, options: Options | None = None) -> Iterator[Device]:
    """Inside, launchers compile for compute capability ``capability`` (80 for 8.0) and execute."""
    from jca_fast.kernels.triton import launch
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    device = Device(options or Options())
    before = driver._active
    stand_in = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", capability, 32),
        get_current_device=lambda: capability,  # Triton keeps compiled kernels by device
        get_current_stream=lambda device: 0,
    )
    driver.set_active(stand_in)
    launch.TARGETS.append(launch.Target(launch.architecture_class(capability), device.take))
    try:
        yield device
    finally:
        launch.TARGETS.pop()
        driver._active = before
