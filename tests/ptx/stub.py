"""Launches on a machine without a GPU: ``stub_driver.c`` in place of libcuda records them.

``python -m tests.ptx.stub`` prints the host time of a call.
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from functools import partial
from math import inf
from pathlib import Path
from timeit import timeit

import torch
from jca_fast.kernels.cuda import native

from jca_fast.ops.library import SCHEMAS


class Launch(ctypes.Structure):
    """``Launch`` of stub_driver.c."""

    _fields_ = [
        ("kernel", ctypes.c_char * 64),
        ("grid", ctypes.c_uint32 * 3),
        ("threads", ctypes.c_uint32),
        ("shared_bytes", ctypes.c_uint32),
        ("argument_bytes", ctypes.c_uint32),
        ("stream", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
        ("arguments", ctypes.c_ubyte * 256),
    ]


def problem() -> str:
    """Why the stub cannot stand in on this machine; "" where it can."""
    if torch.cuda.is_available():
        return "there is a real driver"
    if not native.library_path().is_file():
        return "the CUDA library is not built"
    return "" if shutil.which("cc") else "no C compiler"


class Driver:
    """The loaded stub, with the ops of the CUDA backend registered on it."""

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory(prefix="jca_stub") as folder:
            path = Path(folder) / "libcuda.so.1"
            source = Path(__file__).parent / "stub_driver.c"
            command = ["cc", "-shared", "-fPIC", "-O1", "-Wl,-soname,libcuda.so.1", str(source)]
            subprocess.run([*command, "-o", str(path)], check=True)
            # The library opens libcuda by this name and gets the one that is loaded already.
            self.library = ctypes.CDLL(str(path))
            if missing := native.register_with(path):
                raise RuntimeError(missing)

    def launches(self) -> list[Launch]:
        """The launches since the last call."""
        count = ctypes.c_int.in_dll(self.library, "stub_count")
        found = (Launch * 64).in_dll(self.library, "stub_launches")[: count.value]
        copies = [Launch.from_buffer_copy(launch) for launch in found]
        count.value = 0
        return copies

    def fail(self, code: int) -> None:
        """Let every launch return ``code``; 0 for success."""
        ctypes.c_int.in_dll(self.library, "stub_failing_call").value = code


driver = functools.cache(Driver)


def _host_times(rounds: int = 200, calls: int = 50) -> dict[str, float]:
    """Microseconds of a call beyond those of an op that does nothing, the least of rounds that take
    turns.

    Neither the plan nor its launch depends on sizes. They are small, because PyTorch's allocator
    for CPUs asks the system for large memory, and that for GPUs does not.
    """
    q, k = (torch.randn(2, 10, n).mT for n in (16, 24))
    v, out = torch.randn(1, 24, 8), torch.randn(2, 16, 8)
    args = q, k, v, 0.03, 0.0, None
    library = torch.library.Library("jca_stub", "DEF")
    for name, schema in SCHEMAS.items():
        if name.startswith("tanh_attention"):
            library.define(name + schema)
            nothing = (q, k, v) if name.endswith("backward") else out
            library.impl(name, lambda *args, x=nothing: x, "CompositeExplicitAutograd")
    ops, empty = torch.ops.jca_fast, torch.ops.jca_stub
    tasks = {
        "forward": (partial(ops.tanh_attention.cuda, *args), partial(empty.tanh_attention, *args)),
        "backward": (
            partial(ops.tanh_attention_backward.cuda, out, *args),
            partial(empty.tanh_attention_backward, out, *args),
        ),
    }
    times = {name: [inf, inf] for name in tasks}
    for _ in range(rounds):
        for name, pair in tasks.items():
            found = [timeit(task, number=calls) / calls for task in pair]
            times[name] = [min(x) for x in zip(times[name], found, strict=True)]
    return {name: 1e6 * (call - nothing) for name, (call, nothing) in times.items()}


if __name__ == "__main__":
    driver()
    for way, microseconds in _host_times().items():
        print(f"{way:<9} {microseconds:.1f} us to plan and launch, beyond the op's own dispatch")
