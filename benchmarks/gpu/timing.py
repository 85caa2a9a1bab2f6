"""Times and rates of a CUDA device; in a dry run plain clocks on the CPU, so that the script itself can be tested."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

DRY = False
"""True in a dry run: no device, every figure is meaningless."""
_flush: list[torch.Tensor] = []


def microseconds(fn: Callable[[], Any], *, graph: bool, flush: bool = False, seconds: float = 0.15) -> dict[str, float]:
    """Median, 20th and 80th percentile of one call, by events, after warming up.

    ``graph`` captures the call in a CUDA graph and times its replay; ``flush`` empties the L2 cache before each call.
    """
    if DRY:
        begin = time.perf_counter()
        fn()
        return dict.fromkeys(("median", "p20", "p80"), 1e6 * (time.perf_counter() - begin))
    call = _captured(fn) if graph else fn
    for _ in range(3):
        call()
    once = max(_events(call, 5, False)[0], 1.0)
    count = int(min(max(seconds * 1e6 / (once + 60 * flush), 10), 500))
    times = sorted(_events(call, count, flush))
    return {"median": statistics.median(times), "p20": times[count // 5], "p80": times[(4 * count) // 5]}


def _captured(fn: Callable[[], Any]) -> Callable[[], None]:
    """``fn`` as the replay of a CUDA graph."""
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


def _events(call: Callable[[], Any], count: int, flush: bool) -> list[float]:
    """Microseconds of ``count`` calls, each between two events."""
    if flush and not _flush:
        _flush.append(torch.empty(256 * 2**20, dtype=torch.int8, device="cuda"))
    pairs = []
    for _ in range(count):
        if flush:
            _flush[0].zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        pairs.append((begin, end))
    torch.cuda.synchronize()
    return [1e3 * begin.elapsed_time(end) for begin, end in pairs]


def peak_bytes(fn: Callable[[], Any]) -> int:
    """Most memory allocated during one call beyond what was allocated before, its results included."""
    if DRY:
        fn()
        return 0
    fn()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = fn()
    torch.cuda.synchronize()
    del kept
    return torch.cuda.max_memory_allocated() - before


def device_rates() -> dict[str, float]:
    """This chip's own copy bandwidth (bytes/s), matrix rates (FLOP/s) and MUFU.TANH rate (1/s), and its SM clock."""
    if DRY:
        return {"copy": 1.0, "bfloat16": 1.0, "tf32": 1.0, "tanh": 1.0}
    source = torch.empty(2**30, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    rates = {"copy": 2 * 2**30 / _best(lambda: target.copy_(source))}
    for name, dtype in (("bfloat16", torch.bfloat16), ("tf32", torch.float32)):
        a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
        torch.set_float32_matmul_precision("high")
        rates[name] = 2 * 8192**3 / _best(lambda a=a, b=b: a @ b)
    torch.set_float32_matmul_precision("highest")
    return {**rates, "tanh": _tanh_rate()}


def _best(fn: Callable[[], Any]) -> float:
    """Seconds of the 20th percentile of many calls."""
    return 1e-6 * microseconds(fn, graph=False)["p20"]


def _tanh_rate() -> float:
    """tanh.approx.f32 per second with nothing else to do: confirms or refutes 16 per clock and SM."""
    from rates import tanh_kernel

    programs, block, loops = 4096, 1024, 256
    out = torch.empty(programs * block, device="cuda")
    return programs * block * loops * 8 / _best(lambda: tanh_kernel[(programs,)](out, loops, BLOCK=block, num_warps=4))
