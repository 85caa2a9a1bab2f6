"""``python -m tests.ptx.host_time``: what a call of a GPU backend costs the host, without a GPU.

Both backends launch on ``stub_driver.c``, which does nothing. From each time is taken that of an op
with the same schema and a C++ kernel that does nothing: the op's own dispatch.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from collections.abc import Callable
from functools import partial
from math import inf
from timeit import timeit
from typing import Any

import torch

from jca_fast.ops.library import SCHEMAS, overload

from . import stub

DTYPES = (torch.bfloat16, torch.float32)
WAYS = ("tanh_attention", "tanh_attention_backward")


def empty_op(driver: stub.Driver, name: str) -> Callable[..., Any]:
    """An op with the schema of ours, and the stub's kernel that does nothing."""
    library = torch.library.Library("jca_stub", "FRAGMENT")
    library.define(name + SCHEMAS[name])
    shim, kernels = ctypes.CDLL("libtorch_cpu.so"), ctypes.c_void_p()
    delete = ctypes.cast(shim.aoti_torch_delete_tensor_object, ctypes.c_void_p)
    ctypes.c_void_p.in_dll(driver.library, "stub_delete").value = delete.value
    shim.aoti_torch_library_init_impl(b"jca_stub", b"CPU", b"", 0, ctypes.byref(kernels))
    nothing = ctypes.c_void_p.in_dll(driver.library, "stub_nothing")
    if shim.torch_library_impl(kernels, name.encode(), nothing, ctypes.c_uint64(0x020A << 48)):
        raise RuntimeError(f"PyTorch refused a kernel for {name}")
    _KEPT.append(library)
    return getattr(torch.ops.jca_stub, name).default


_KEPT: list[torch.library.Library] = []
"""Libraries, whose ops end with them."""


def launch_triton_on(driver: stub.Driver) -> None:
    """Let Triton compile for compute capability 9.0 and launch on the stub."""
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.driver import CudaDriver
    from triton.runtime import driver as triton_driver

    knobs.nvidia.libcuda_path = str(driver.path.parent)
    # The stub has the functions that are called, not all that are named.
    before = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_LAZY)
    active = CudaDriver()
    sys.setdlopenflags(before)
    active.get_current_target = lambda: GPUTarget("cuda", 90, 32)
    active.get_current_device = lambda: 0
    active.get_current_stream = lambda device: 0
    triton_driver.set_active(active)


def measure(backends: list[str], rounds: int = 200, calls: int = 50) -> dict[Any, float]:
    """Microseconds beyond the empty op by (backend, dtype, way), the least of rounds that take
    turns.

    Neither a plan nor its launch depends on sizes. They are small, because PyTorch's allocator for
    CPUs asks the system for large memory, and that for GPUs does not.
    """
    tasks: dict[Any, Callable[[], Any]] = {}
    empty = {way: empty_op(stub.driver(), way) for way in WAYS}
    for dtype in DTYPES:
        q, k = (torch.randn(2, 10, n, dtype=dtype).mT for n in (16, 24))
        v, grad = torch.randn(1, 24, 8, dtype=dtype), torch.randn(2, 16, 8, dtype=dtype)
        arguments = {WAYS[0]: (q, k, v, 0.03, 0.0, None), WAYS[1]: (grad, q, k, v, 0.03, 0.0, None)}
        for way, args in arguments.items():
            tasks["", dtype, way] = partial(empty[way], *args)
            for backend in backends:
                tasks[backend, dtype, way] = partial(overload(way, backend), *args)
    best = dict.fromkeys(tasks, inf)
    for _ in range(rounds):
        for name, task in tasks.items():
            best[name] = min(best[name], timeit(task, number=calls) / calls)
    return {
        (backend, *rest): 1e6 * (time - best["", *rest])
        for (backend, *rest), time in best.items()
        if backend
    }


def main() -> int:
    if why := stub.problem():
        print(why)
        return 2
    backends = ["cuda"]
    stub.driver()
    if importlib.util.find_spec("triton"):
        launch_triton_on(stub.driver())
        backends.append("triton")
    for (backend, dtype, way), microseconds in measure(backends).items():
        print(f"{backend:<7} {str(dtype)[6:]:<9} {way:<24} {microseconds:6.1f} us")
    return 0


if __name__ == "__main__":
    sys.exit(main())
