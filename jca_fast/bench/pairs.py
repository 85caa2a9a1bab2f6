"""Side-by-side timing: every round runs all providers one after the other, and ratios are taken
within a round.

On a shared machine absolute times drift by tens of percent, but the ratio of two neighbouring times
hardly changes. So a speed-up is the median of the ratios within the rounds, and it counts only
after a parity check in the same process.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

Provider = Callable[[], object]
ROOT = Path(__file__).resolve().parents[2]


def flatten(result: object) -> list[Tensor]:
    """The tensors of a result of nested sequences."""
    if isinstance(result, Tensor):
        return [result]
    return [t for part in result for t in flatten(part)] if isinstance(result, Sequence) else []


def check_parity(providers: dict[str, Provider], tolerance: float = 2e-2) -> None:
    """All providers must give the results of the first: the norm of the difference over the norm of
    the result is at most the tolerance.

    The usual figure is 1e-6, but a number that a rounding moves across the corner of a ReLU changes
    every gradient behind it: 1e-3 was seen. The tests check the accuracy. This check only ensures
    that all providers compute the same function.
    """
    (reference, first), *others = ((name, flatten(run())) for name, run in providers.items())
    for name, tensors in others:
        for i, (a, b) in enumerate(zip(tensors, first, strict=True)):
            worst = ((a - b).norm() / b.norm().clamp_min(1e-30)).item()
            if not worst <= tolerance:
                raise AssertionError(
                    f"result {i} of {name} differs from {reference} by {worst:.1e} of its size"
                )


def seconds(run: Provider) -> float:
    """The time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def interleave(providers: dict[str, Provider], rounds: int) -> dict[str, list[float]]:
    """Times of every provider, round by round, after one warm-up call each."""
    for run in providers.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in providers}
    for _ in range(rounds):
        for name, run in providers.items():
            times[name].append(seconds(run))
    return times


def summarise(times: dict[str, list[float]], ours: str = "jca_fast") -> dict[str, dict[str, float]]:
    """For each provider the median "ms", and the "ratio" of its time over ours with its 20th and
    80th percentile.
    """
    return {name: _compare(values, times[ours]) for name, values in times.items()}


def _compare(values: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    ratios = sorted(a / b for a, b in zip(values, ours, strict=True))
    low, high = (ratios[round(share * (len(ratios) - 1))] for share in (0.2, 0.8))
    return {
        "ms": round(1e3 * median(values), 4),
        "ratio": round(median(ratios), 3),
        "low": round(low, 3),
        "high": round(high, 3),
    }


def best_seconds(run: Provider, rounds: int) -> float:
    """The shortest time of many calls, for cycle counts, to which noise only adds."""
    return min(seconds(run) for _ in range(rounds))


def peak(device: str = "cpu") -> float:
    """The largest memory of this process so far in MiB: resident, or of tensors on a GPU.

    getrusage is not used, because a child starts with the peak of the parent that forked it.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def multiply_add_rate() -> float:
    """Multiply-adds of single float32 numbers per second on one thread; NaN without the native
    library.
    """
    from jca_fast.kernels.cpu import native

    if native.load()[0] is None:
        return float("nan")
    library, steps = native.library(), 20_000
    run = functools.partial(library.jca_fma_yardstick, steps)
    return run() / best_seconds(run, 30)


SPREAD = 1.35
"""A larger median spread of the ratios (80th over 20th percentile) marks a disturbed run."""


def disturbances(spreads: Sequence[float], rates: Sequence[float], load: float) -> list[str]:
    """Reasons to distrust a run; empty after a quiet one.

    Args:
        spreads: the 80th over the 20th percentile of the ratios of each case over the rounds.
        rates: multiply-adds per second of one core, before and after the run.
        load: the system's load average of the minute before the run.
    """
    found = []
    cores = os.cpu_count() or 1
    if load > 0.5 * cores:
        found.append(f"the load average was {load:.1f} on {cores} cores before the run began")
    if spreads and (middle := sorted(spreads)[len(spreads) // 2]) > SPREAD:
        found.append(f"the ratios of a case vary by a factor of {middle:.2f} between rounds")
    if len(rates) > 1 and min(rates) < 0.85 * max(rates):
        found.append(
            f"a core's multiply-add rate varied between {min(rates) / 1e9:.0f} and "
            f"{max(rates) / 1e9:.0f} GFMA/s: other programs or a changing clock"
        )
    return found


@functools.cache
def machine() -> dict[str, object]:
    """The facts about the machine and the versions that the figures depend on."""
    from jca_fast.kernels.cpu import describe

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "kernels": describe(),
        "torch": torch.__version__,
        "commit": commit(),
    }


def commit() -> str:
    """The commit of the checkout that this package runs from; empty if it is installed."""
    if not (ROOT / ".git").exists():
        return ""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()


def in_process(module: str, *arguments: str, **environment: str) -> dict:
    """Run ``python -m module arguments`` with a changed environment; its last line is JSON."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"python -m {module} {' '.join(arguments)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])
