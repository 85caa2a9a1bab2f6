"""Times of calls on a CUDA device, taken side by side; a dry run uses CPU clocks.

A sample under graph replay is one replay between two events, queued behind a spacer, so that its
launch is not timed; the spacer can also flush the L2 cache. A sample of eager launches is a batch
of calls by the host's clock, the waiting time of a caller. One round takes a sample of every
subject, so that clocks and heat drift alike for all.
"""

from __future__ import annotations

import functools
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import torch

Call = Callable[[], Any]
DRY = False
"""True in a dry run: no device, every figure is meaningless."""
SPACER = 400_000
"""Cycles of the kernel that keeps the device busy while a replay is queued: 0.2 ms."""
BATCH = 1500.0
"""Microseconds of a batch of eager calls; waiting for the device adds about 15."""


def replayed(fn: Call) -> Call:
    """``fn`` as the replay of a CUDA graph."""
    if DRY:
        return fn
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            fn()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        fn()
    return graph.replay


def on_device(
    calls: dict[str, Call], *, flush: bool = False, seconds: float = 0.08
) -> dict[str, Any]:
    """Microseconds of each call on the device, with ratios to the first of them."""
    return _compare(calls, functools.partial(_device_sample, flush=flush), seconds)


def on_host(calls: dict[str, Call], *, seconds: float = 0.08) -> dict[str, Any]:
    """Microseconds of each call launched one after the other, with ratios to the first of them."""
    if DRY:
        return _compare(calls, functools.partial(_host_sample, repeats=1), seconds)
    repeats = {
        name: max(1, int(BATCH / max(_host_sample(call, 3), 1.0))) for name, call in calls.items()
    }
    bound = {name: (lambda n=name: _host_sample(calls[n], repeats[n])) for name in calls}
    return _compare(bound, lambda sample: sample(), seconds)


def _compare(
    calls: dict[str, Call], sample: Callable[[Call], float], seconds: float
) -> dict[str, Any]:
    """Rounds over all calls for about ``seconds``, summarised."""
    if DRY:
        return summarise({name: [sample(call)] for name, call in calls.items()})
    _rounds(calls, sample, 3)  # compiles, records and warms up
    begin = time.perf_counter()
    _rounds(calls, sample, 1)
    once = time.perf_counter() - begin
    return summarise(_rounds(calls, sample, int(min(max(seconds * len(calls) / once, 11), 200))))


def _rounds(
    calls: dict[str, Call], sample: Callable[[Call], float], count: int
) -> dict[str, list[float]]:
    """Each round takes one sample of every call."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(count):
        for name, call in calls.items():
            samples[name].append(sample(call))
    return samples


def summarise(samples: dict[str, list[float]]) -> dict[str, Any]:
    """Median, 20th and 80th percentile of each subject; for all but the first also of its ratios to
    the first.
    """
    ours = next(iter(samples.values()))
    found = {name: _quantiles(times) for name, times in samples.items()}
    for name, times in list(samples.items())[1:]:
        found[name]["ratio"] = _quantiles(
            [theirs / own for theirs, own in zip(times, ours, strict=True)]
        )
    return found


def _quantiles(values: list[float]) -> dict[str, Any]:
    ordered = sorted(values)
    count = len(ordered)
    p20, p80 = ordered[count // 5], ordered[(4 * count) // 5]
    return {"median": statistics.median(ordered), "p20": p20, "p80": p80, "samples": count}


def _device_sample(call: Call, flush: bool = False) -> float:
    if DRY:
        return _host_sample(call, 1)
    if flush:
        _scratch().sum()
    torch.cuda._sleep(SPACER)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    end.synchronize()
    return 1e3 * begin.elapsed_time(end)


def _host_sample(call: Call, repeats: int) -> float:
    wait()
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    wait()
    return 1e6 * (time.perf_counter() - begin) / repeats


def wait() -> None:
    """Wait until the device is idle."""
    if not DRY:
        torch.cuda.synchronize()


@functools.cache
def _scratch() -> torch.Tensor:
    """More memory than any L2 cache holds. Reading it, unlike filling it, leaves nothing to write
    back.
    """
    return torch.zeros(64 * 2**20, device="cuda")


def memory(fn: Call) -> dict[str, int]:
    """Bytes that a call keeps while its result lives, and its peak, both beyond the memory held
    before.
    """
    if DRY:
        return {"kept": 0, "peak": 0}
    fn()
    wait()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = fn()
    wait()
    found = {
        "kept": torch.cuda.memory_allocated() - before,
        "peak": torch.cuda.max_memory_allocated() - before,
    }
    del result
    return found


def clocks() -> dict[str, str]:
    """Clocks, heat and power as the driver reports them now."""
    if DRY:
        return {"dry run": "no device"}
    query = "clocks.sm,clocks.mem,temperature.gpu,power.draw"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(zip(query.split(","), done.stdout.strip().split(", "), strict=True))
