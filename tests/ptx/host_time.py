"""``python -m tests.ptx.host_time``: what a call of a GPU backend costs the host, without a GPU.

Both backends launch on ``stub_driver.c``, which does nothing. From each time is taken that of an op
with the same schema and a C++ kernel that does nothing: the op's own dispatch.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from math import inf
from timeit import timeit
from typing import Any

import torch
from torch import Tensor

from jca_fast.ops.library import OPS, SCHEMAS, overload

from . import stub

DTYPES = (torch.bfloat16, torch.float32)
MEASURED = tuple(op for op in OPS if op != "tanh_dropout")
SHIM = (
    "aoti_torch_delete_tensor_object", "torch_list_size", "torch_list_get_item",
    "torch_list_push_back", "torch_delete_list", "aoti_torch_empty_strided",
)  # fmt: skip
"""``stub_shim`` of stub_driver.c."""


def calls_of(op: str, dtype: torch.dtype) -> dict[str, tuple]:
    """The arguments of an op and of its backward, by the names of both."""

    def new(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype)

    if op == "visual_reduction":
        query, regions, weights = new(2, 16), new(2, 7, 16), new(2, 7)
        given, first, last = (query, regions, 0.1), (query, weights), (weights, 0.1, True)
        return {op: given, f"{op}_backward": (*first, *given[:2], *last)}
    if op == "joint_coattention":
        inputs, maps = [new(2, 10, 16), new(2, 10, 24)], [new(2, 8, 16), new(2, 8, 24)]
        weights = [[new(*shape)] * 2 for shape in ((10, 10), (8, 10), (8, 40), (8, 10))]
        given = inputs, [], *weights, [0.03, 0.03], 0.0, None
        return {op: (*given, True), f"{op}_backward": (inputs, maps, *given)}
    if op == "released_attention":
        query, key, value = new(2, 10, 16), new(2, 10, 24), new(2, 10, 24)
        given = query, key, value, 0.03, 0.0, None
        return {op: given, f"{op}_backward": (query, query, *given)}
    q, k, v = new(2, 10, 16).mT, new(2, 10, 24).mT, new(1, 24, 8)
    if op == "joint_affinity":
        c = new(2, 16, 24)
        return {op: (q, k, 0.03), f"{op}_backward": (c, q, k, c, 0.03)}
    given = q, k, v, 0.03, 0.0, None
    return {op: given, f"{op}_backward": (new(2, 16, 8), *given)}


def plain_of(arguments: tuple) -> int:
    """How many arguments stand behind the last tensor; 0 for a layer, which has lists."""
    is_plain = [not isinstance(x, Tensor) for x in reversed(arguments)]
    return 0 if all(is_plain) else is_plain.index(False)


@functools.cache
def empty_op(name: str, plain: int) -> Callable[..., Any]:
    """An op with the schema of ours, and a kernel of the stub that does nothing."""
    driver = stub.driver()
    library = torch.library.Library("jca_stub", "FRAGMENT")
    library.define(name + SCHEMAS[name])
    shim, kernels = ctypes.CDLL("libtorch_cpu.so"), ctypes.c_void_p()
    functions = (ctypes.c_void_p * len(SHIM)).in_dll(driver.library, "stub_shim")
    functions[:] = [ctypes.cast(getattr(shim, f), ctypes.c_void_p).value for f in SHIM]
    shim.aoti_torch_library_init_impl(b"jca_stub", b"CPU", b"", 0, ctypes.byref(kernels))
    nothing = ctypes.c_void_p((ctypes.c_void_p * 4).in_dll(driver.library, "stub_nothing")[plain])
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


def measure(
    backends: list[str], ops: Iterable[str] = MEASURED, rounds: int = 200, calls: int = 50
) -> dict[Any, float]:
    """Microseconds beyond the empty op by (backend, dtype, way), the least of rounds that take
    turns.

    Neither a plan nor its launch depends on sizes. They are small, because PyTorch's allocator for
    CPUs asks the system for large memory, and that for GPUs does not.
    """
    tasks: dict[Any, Callable[[], Any]] = {}
    for op, dtype in product(ops, DTYPES):
        for way, arguments in calls_of(op, dtype).items():
            tasks["", dtype, way] = partial(empty_op(way, plain_of(arguments)), *arguments)
            for backend in backends:
                tasks[backend, dtype, way] = partial(overload(way, backend), *arguments)
    best = dict.fromkeys(tasks, inf)
    for _ in range(rounds):
        for name, task in tasks.items():
            best[name] = min(best[name], timeit(task, number=calls) / calls)
    return {
        (backend, *rest): 1e6 * (time - best["", *rest])
        for (backend, *rest), time in best.items()
        if backend
    }


def memory_of_a_result(rounds: int = 200, calls: int = 1000) -> float:
    """Microseconds that PyTorch takes for a small tensor on the CPU, from its memory to its end;
    an op does that for each result and for its workspace.
    """
    empty_op("tanh_attention", 3)
    allocate = stub.driver().library.stub_allocate
    bfloat16 = ctypes.CDLL("libtorch_cpu.so").aoti_torch_dtype_bfloat16()
    return (
        1e6
        * min(timeit(lambda: allocate(bfloat16, calls), number=1) for _ in range(rounds))
        / calls
    )


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
        print(f"{backend:<7} {str(dtype)[6:]:<9} {way:<27} {microseconds:6.1f} us")
    print(f"memory of a result, of which each call has one or more: {memory_of_a_result():.1f} us")
    return 0


if __name__ == "__main__":
    sys.exit(main())
