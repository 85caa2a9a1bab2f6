"""Each kernel's time against its lower bound on this chip.

A kernel's floor is the largest of: tanh elements over the MUFU rate, FLOPs of the unpadded matrix
products over the matrix rate of its tier, bytes of its tensors over the copy bandwidth. In the
exact tier a product is three TF32 products, and an element takes one reciprocal, at the MUFU's rate
of tanh.
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jca_fast.kernels.triton import launch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.gpu import timing

Call = Callable[[], Any]
TANH = (
    "joint_coattention_forward_kernel",
    "tanh_attention_backward_kernel",
    "tanh_attention_forward_kernel",
)
"""Kernels that compute the affinity matrix of a layer."""


class Sizes(NamedTuple):
    """A layer's sizes: batch, channels of all modalities together, segments, attention width."""

    batch: int
    channels: int
    segments: int
    width: int


class Launch(NamedTuple):
    """One start of a kernel: its name, its constants, and the bytes of its tensors, each counted
    once.
    """

    kernel: str
    meta: dict[str, Any]
    bytes: int


def launches(call: Call, architecture: str) -> list[Launch]:
    """Every kernel that ``call`` starts, in order. They do run; a dry run names them for the
    profiler.
    """
    found = []

    def take(kernel: Any, grid: tuple[int, ...], *args: Any, **meta: Any) -> None:
        name = getattr(kernel, "fn", kernel).__name__
        sizes: dict[int, int] = {}
        for tensor in launch.leaves(args):
            if isinstance(tensor, torch.Tensor):
                size = tensor.numel() * tensor.element_size()
                sizes[tensor.data_ptr()] = max(size, sizes.get(tensor.data_ptr(), 0))
        found.append(Launch(name, launch.constants(meta), sum(sizes.values())))
        with record_function(name):
            kernel[grid](*args, **meta)

    launch.TARGETS.append(launch.Target(architecture, take))
    try:
        call()
    finally:
        launch.TARGETS.pop()
    return found


def work(start: Launch, sizes: Sizes | None) -> tuple[int, int]:
    """(tanh elements, FLOPs) of one launch; (0, 0) for a kernel that only moves data.

    Products per element of the affinity matrix: forward N + k; backward N for the matrix again, k
    for dP, N for dK, and if the launch computes them k for dV and N for dQ.
    """
    if sizes is None or start.kernel not in TANH:
        return 0, 0
    elements = sizes.batch * sizes.channels**2
    n, k = sizes.segments, sizes.width
    products = n + k
    if start.kernel == "tanh_attention_backward_kernel":
        products = (
            2 * n + k + n * bool(start.meta.get("WANT_DQ")) + k * bool(start.meta.get("WANT_DV"))
        )
    return elements, 2 * products * elements


def floor(
    start: Launch, sizes: Sizes | None, tier: str, rates: dict[str, float]
) -> dict[str, float]:
    """The least microseconds of each resource for one launch."""
    elements, flops = work(start, sizes)
    rate = rates["bfloat16"] if tier in ("bfloat16", "float16") else rates["tf32"]
    return {
        "mufu": 1e6 * elements / rates["tanh"],
        "matrix": 1e6 * flops * (3 if tier == "exact" else 1) / rate,
        "memory": 1e6 * start.bytes / rates["copy"],
    }


def fractions(
    call: Call, sizes: Sizes | None, tier: str, rates: dict[str, float], architecture: str
) -> list[dict[str, Any]]:
    """For each launch of ``call``: its median device time, its floor, the resource that bounds it,
    and floor over time.
    """
    starts = launches(call, architecture)
    found = []
    for start, times in zip(starts, device_times(call, starts, architecture), strict=True):
        needs = floor(start, sizes, tier, rates)
        bound = max(needs, key=lambda what: needs[what])
        took = sorted(times)[len(times) // 2]
        found.append(
            {
                "kernel": start.kernel,
                "us": took,
                "floor us": needs[bound],
                "bound by": bound,
                "fraction": needs[bound] / took,
                "needs us": needs,
                "bytes": start.bytes,
                "samples": len(times),
            }
        )
    return found


def trace(call: Call, repeats: int) -> list[dict[str, Any]]:
    """The profiler's events of some calls, on the device or in a dry run on the CPU."""
    activity = ProfilerActivity.CPU if timing.DRY else ProfilerActivity.CUDA
    with profile(activities=[activity]) as profiler:
        for _ in range(repeats):
            call()
        timing.wait()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return json.loads(path.read_text())["traceEvents"]


def device_times(
    call: Call, starts: list[Launch], architecture: str, repeats: int = 30
) -> list[list[float]]:
    """Microseconds of every launch in ``repeats`` calls, by the profiler; RuntimeError if it saw
    another number of launches.
    """
    repeats = 1 if timing.DRY else repeats
    again = functools.partial(launches, call, architecture) if timing.DRY else call
    if not timing.DRY:
        trace(call, 1)  # the first of a process can miss launches
    names = {start.kernel for start in starts}
    wanted = "user_annotation" if timing.DRY else "kernel"
    seen = [e for e in trace(again, repeats) if e.get("cat") == wanted and e["name"] in names]
    seen.sort(key=lambda event: event["ts"])
    if [e["name"] for e in seen] != [start.kernel for start in starts] * repeats:
        raise RuntimeError(
            f"the profiler saw {len(seen)} launches of {sorted(names)}, not {len(starts) * repeats}"
        )
    return [[float(e["dur"]) for e in seen[i :: len(starts)]] for i in range(len(starts))]
