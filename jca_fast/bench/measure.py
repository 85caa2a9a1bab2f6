"""All measurements of `jca-fast bench`, as one dictionary ready for JSON."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

from jca_fast import JointCoAttention
from jca_fast.bench import layers, profile
from jca_fast.bench.pairs import (
    Provider,
    best_seconds,
    check_parity,
    disturbances,
    in_process,
    interleave,
    machine,
    multiply_add_rate,
    seconds,
    summarise,
)
from jca_fast.bench.plain import plain_model

SHAPES = (layers.STANDARD, (64, 8, 128, 128, 32), (32, 16, 512, 192, 32), (1, 10, 512, 512, 32))
QUICK_SHAPES = ((8, 10, 256, 256, 32), (1, 10, 128, 128, 32))
"""B, N, d_a, d_v, k."""

BUDGET, QUICK_BUDGET = 4.0, 0.5
"""Seconds for the rounds of a case; a point of an axis takes a quarter of them."""

READ_BYTES = 2**28
"""Bytes that are read to measure the bandwidth; more than any cache holds."""

AXES = {
    "batch size B": ("batch", (1, 4, 16, 64)),
    "segments N": ("n", (4, 10, 32, 100)),
    "channels d_a = d_v": ("dim", (64, 128, 256, 512)),
    "attention width k": ("k", (8, 32, 128)),
    "layers": ("num_layers", (1, 2, 4)),
}
BASE = {"batch": 16, "n": 10, "dim": 256, "k": 32, "num_layers": 1}
MODES = {"forward": False, "forward + backward": True}


def measure(quick: bool = False) -> dict[str, Any]:
    """Speed-up by shape, cost along five axes, memory, profile, and the machine's limits."""
    from tqdm import tqdm

    torch.manual_seed(0)
    load, rates = os.getloadavg()[0], [multiply_add_rate()]
    shapes = QUICK_SHAPES if quick else SHAPES
    budget = QUICK_BUDGET if quick else BUDGET
    jobs = [
        (form, mode, shape) for form in ("paper", "released") for mode in MODES for shape in shapes
    ]
    points = [(axis, value) for axis, (_, values) in AXES.items() for value in values]
    result: dict[str, Any] = {
        "quick": quick,
        "machine": {
            **machine(),
            "python": platform.python_version(),
            "system": platform.platform(),
        },
        "cases": {},
        "axes": {axis: [] for axis in AXES},
        "memory": {},
    }
    with tqdm(total=len(jobs) + len(points) + 4, disable=None, leave=False) as bar:
        for form, mode, shape in jobs:
            bar.set_description(name := f"{form} layer, {mode}, {layers.title(shape)}")
            compiled = not quick and shape == layers.STANDARD
            providers = layers.providers(form, shape, 0.0, MODES[mode], compiled)
            result["cases"][name] = {"times": timed(providers, budget)}
            bar.update()
        for axis, value in points:
            bar.set_description(f"{axis} = {value}")
            result["axes"][axis].append(point(axis, value, budget / 4))
            bar.update()
        for form in ("paper", "released"):
            bar.set_description(f"memory, {form} layer")
            result["memory"][f"{form} layer, memory"] = memory(form, shapes[0])
            bar.update()
            bar.set_description(f"training step, {form} form")
            result.setdefault("step", {})[form] = profile.step(form, quick)
            bar.update()
    rates.append(multiply_add_rate())
    spreads = [case["times"]["eager"] for case in result["cases"].values()]
    ratios = [times["high"] / max(times["low"], 1e-9) for times in spreads]
    result["limits"] = {"multiply_adds": max(rates), "bytes": bandwidth()}
    result["disturbances"] = disturbances(ratios, rates, load)
    return result


def timed(providers: dict[str, Provider], budget: float) -> dict[str, dict[str, float]]:
    """The summary of interleaved rounds of about budget seconds in all, after a parity check."""
    check_parity(providers)
    cost = sum(seconds(run) for run in providers.values())
    return summarise(interleave(providers, max(5, min(30, int(budget / max(cost, 1e-6))))))


def point(axis: str, value: int, budget: float) -> dict[str, Any]:
    """Forward and backward of the paper form at the base shape with one size changed."""
    sizes = {**BASE, AXES[axis][0]: value}
    fusion = JointCoAttention(
        sizes["dim"],
        sizes["dim"],
        sizes["n"],
        attention_dim=sizes["k"],
        num_layers=sizes["num_layers"],
        dropout=0.0,
    )
    shape = (sizes["batch"], sizes["n"], sizes["dim"])
    inputs = [torch.randn(shape, requires_grad=True) for _ in range(2)]
    grads = [torch.randn(shape) for _ in range(2)]
    leaves = [*inputs, *fusion.parameters()]

    def ours() -> Any:
        return torch.autograd.grad(fusion(*inputs), leaves, grads)

    def eager() -> Any:
        with plain_model(fusion):
            return ours()

    times = timed({"eager": eager, "jca_fast": ours}, budget)
    return {"value": value, "times": times, "multiply_adds": work(sizes), "bytes": traffic(sizes)}


def work(sizes: dict[str, int]) -> int:
    """Multiply-adds of forward and backward: scores, tanh and products of C, and the Linears.

    An element of C takes N + k + 10 forward (ten for the tanh) and 3 N + 2 k + 12 backward. The
    Linears run once forward and twice backward.
    """
    n = sizes["n"]
    dim = sizes["dim"]
    k = sizes["k"]
    affinity = dim * 2 * dim * (4 * n + 3 * k + 22)
    linears = 3 * (n * n * 2 * dim + 2 * n * k * dim)
    return sizes["batch"] * 2 * sizes["num_layers"] * (affinity + linears)


def traffic(sizes: dict[str, int]) -> int:
    """Bytes that must move: both features, their gradients and those of the result, per layer."""
    return 4 * sizes["batch"] * sizes["n"] * sizes["dim"] * 2 * 4 * sizes["num_layers"]


def memory(form: str, shape: tuple[int, ...]) -> dict[str, float]:
    """Peak growth in MiB of a layer's forward and backward, eager and ours."""
    text = ",".join(map(str, shape))
    run = "jca_fast.bench.memory"
    return {name: in_process(run, form, text, name)["mib"] for name in ("eager", "jca_fast")}


def bandwidth() -> float:
    """Bytes per second that torch.sum reads on all threads of torch."""
    values = torch.ones(READ_BYTES // 4)
    return READ_BYTES / best_seconds(values.sum, 5)
