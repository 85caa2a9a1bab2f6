"""One timed phase, in a separate process: ``python -m benchmarks.gpu.measure PHASE --result
FILE``.

Every case is written to the file as soon as it is measured, so that an early end loses one case at
most. A case that raises leaves a row with the key "failed", and the next case runs.
"""

from __future__ import annotations

import argparse
import gc
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import plan, store, subjects, timing
from jca_fast.ops import backends
from jca_fast.ops.backends.parity import FACTOR, FLOOR, relative_error
from jca_fast.ops.tiers import precision

GRAPHS_OF_ITS_OWN = "reduce-overhead"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("phase")
    parser.add_argument("--result", type=Path, required=True)
    plan.add_options(parser)
    args = parser.parse_args()
    options = plan.options(args)
    begin(options)
    phase = {"kernels": kernels, "layers": layers, "training": training, "visual": visual}[
        args.phase
    ]
    result: dict[str, Any] = {"clocks before": timing.clocks(), "rows": []}
    measure = phase(options, result)
    for row in plan.rows(args.phase, options):
        facts = {
            "name": row.name,
            "tier": row.tier,
            "batch": row.batch,
            "layers": row.layers,
            "modes": row.modes,
        }
        result["rows"].append(facts | attempt(measure, row))
        result["clocks after"] = timing.clocks()
        store.write(args.result, result)
        print(f"{args.phase}: {row.name}", flush=True)
    return 0


def begin(options: plan.Options) -> None:
    """Settings of a worker; a dry run lets the GPU backends take CPU tensors."""
    timing.DRY = options.dry
    torch._dynamo.config.recompile_limit = 64
    if options.backend:
        subjects.BACKEND[0] = backends.find(options.backend).name
    if options.dry:
        backends.BACKENDS = tuple(
            replace(row, reasons=lambda op, tensors: []) if row.device == "cuda" else row
            for row in backends.BACKENDS
        )


def attempt(measure: Callable[[plan.Row], dict[str, Any]], row: plan.Row) -> dict[str, Any]:
    """The result or the error of ``measure``; frees graphs and memory of the case afterwards."""
    # The setting of every backend, because max-autotune refuses mixed settings.
    torch.set_float32_matmul_precision("high" if row.tier == "tf32" else "highest")
    try:
        return measure(row)
    except Exception as error:  # the remaining cases still count
        traceback.print_exc(file=sys.stderr)
        return {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
    finally:
        torch._dynamo.reset()
        gc.collect()
        if not timing.DRY:
            torch.cuda.empty_cache()


def device() -> str:
    return "cpu" if timing.DRY else "cuda"


def sides(calls: dict[str, timing.Call], flush: bool = False) -> dict[str, Any]:
    """All calls side by side, under graph replay and then as separate launches."""
    graphs = {
        name: call if name == GRAPHS_OF_ITS_OWN else timing.replayed(call)
        for name, call in calls.items()
    }
    found = {"graph": timing.on_device(graphs, flush=flush)}
    return found if flush else {**found, "eager": timing.on_host(calls)}


def layers(options: plan.Options, result: dict[str, Any]) -> Callable[[plan.Row], dict[str, Any]]:
    """Layers: times, memory, bits and errors of the kernels, eager PyTorch and torch.compile."""

    def measure(row: plan.Row) -> dict[str, Any]:
        data = subjects.layers(
            row.batch, precision_dtype(row.tier), device(), row.layers, options.dry
        )
        forwards = {"fused": subjects.fused, "eager": subjects.plain} | compiled_layers(
            row.modes, data, options.dry
        )
        found = {"forward": sides({name: subjects.alone(f, data) for name, f in forwards.items()})}
        if not row.backward:
            return found
        found["forward+backward"] = sides(
            {name: subjects.with_backward(f, data) for name, f in forwards.items()}
        )
        if row.layers == 1:
            found["backward"] = timing.on_device(
                {"fused": timing.replayed(subjects.only_backward(data))}
            )
        found["memory"] = {
            name: timing.memory(lambda f=f: f(data)) for name, f in list(forwards.items())[:2]
        }
        both = {
            name: timing.memory(subjects.with_backward(f, data))
            for name, f in list(forwards.items())[:2]
        }
        found["memory forward+backward"] = both
        return found | errors(data, row.tier)

    return measure


def compiled_layers(modes: tuple[str, ...], data: dict[str, Any], dry: bool) -> dict[str, Any]:
    """The layers under each mode of torch.compile."""
    if modes:
        subjects.pin(subjects.leaves(data))
    return {mode: subjects.compiled(mode, subjects.plain, dry) for mode in modes}


def precision_dtype(tier: str) -> torch.dtype:
    with precision(tier) as dtype:
        return dtype


def errors(data: dict[str, Any], tier: str) -> dict[str, Any]:
    """The largest relative RMS error of all outputs and gradients against float64, ours and
    eager's, and whether our bits repeat.
    """
    wide = {
        "inputs": [x.detach().double().requires_grad_() for x in data["inputs"]],
        "weights": [
            [[w.detach().double().requires_grad_() for w in g] for g in layer]
            for layer in data["weights"]
        ],
        "scale": data["scale"],
    }

    def everything(forward: subjects.Forward, args: dict[str, Any]) -> list[torch.Tensor]:
        return [x.detach() for x in (*forward(args), *subjects.with_backward(forward, args)())]

    exact = everything(subjects.plain, wide)
    results = {"fused": everything(subjects.fused, data), "eager": everything(subjects.plain, data)}
    found = {
        n: max(relative_error(a, b) for a, b in zip(got, exact, strict=True))
        for n, got in results.items()
    }
    again = everything(subjects.fused, data)
    repeats = all(a.equal(b) for a, b in zip(results["fused"], again, strict=True))
    bound = FACTOR["grad"] * found["eager"] + FLOOR[tier]
    if timing.DRY and tier in (
        "tf32",
        "bfloat16",
    ):  # the CPU has no TF32; the interpreter rounds bfloat16 to zero
        bound = float("inf")
    problems = [] if repeats else ["two runs differ in bits"]
    if not found["fused"] <= bound:
        problems.append(f"error {found['fused']:.1e} against float64, bound {bound:.1e}")
    return {"error": found, "bound": bound, "repeats": repeats} | (
        {"failed": "; ".join(problems)} if problems else {}
    )


def training(options: plan.Options, result: dict[str, Any]) -> Callable[[plan.Row], dict[str, Any]]:
    """A training step of the whole network."""
    from benchmarks.gpu.training import subjects as steps

    def measure(row: plan.Row) -> dict[str, Any]:
        batch = 1 if options.dry else row.batch
        return {
            "step": sides(steps(batch, precision_dtype(row.tier), device(), options.dry, row.modes))
        }

    return measure


def visual(options: plan.Options, result: dict[str, Any]) -> Callable[[plan.Row], dict[str, Any]]:
    """The visual reduction, with the L2 cache flushed before each call."""

    def measure(row: plan.Row) -> dict[str, Any]:
        data = subjects.visual_reduction_arguments(
            row.batch, precision_dtype(row.tier), device(), options.dry
        )
        forwards = {
            "fused": subjects.fused_visual_reduction,
            "eager": subjects.plain_visual_reduction,
        }
        for mode in row.modes:
            forwards[mode] = subjects.compiled(mode, subjects.plain_visual_reduction, options.dry)
        found = {
            "forward": sides(
                {name: subjects.alone(f, data) for name, f in forwards.items()}, flush=True
            )
        }
        for direction, frozen in (("backward", True), ("backward + dK", False)):
            alone = {
                "fused": timing.replayed(subjects.only_visual_reduction_backward(data, frozen))
            }
            found[direction] = {"graph": timing.on_device(alone, flush=True)}
            both = {
                name: subjects.visual_reduction_with_backward(f, data, frozen)
                for name, f in forwards.items()
            }
            found[f"forward+{direction}"] = sides(both, flush=True)
        return found

    return measure


def kernels(options: plan.Options, result: dict[str, Any]) -> Callable[[plan.Row], dict[str, Any]]:
    """The chip's rates, then each kernel of a call against its floor."""
    from benchmarks.gpu import floors, rates

    result["rates"] = rates.device_rates()
    result["clocks under load"] = rates.clocks_under_load()
    architecture = store.architecture(options.dry)

    def measure(row: plan.Row) -> dict[str, Any]:
        dtype = precision_dtype(row.tier)
        sizes = None
        found = {}
        if row.layers:
            data = subjects.layers(row.batch, dtype, device(), 1, options.dry)
            (batch, segments, width), k = data["inputs"][0].shape, data["weights"][0][1][0].shape[0]
            sizes = floors.Sizes(batch, 2 * width, segments, k)
            way = subjects.with_backward if row.backward else subjects.alone
            calls = {"layer": way(subjects.fused, data)}
        else:
            data = subjects.visual_reduction_arguments(row.batch, dtype, device(), options.dry)
            calls = {"forward": subjects.alone(subjects.fused_visual_reduction, data)}
            for direction, frozen in (("backward", True), ("backward + dK", False)):
                calls[direction] = subjects.only_visual_reduction_backward(data, frozen)
        for name, call in calls.items():
            found[name] = floors.fractions(call, sizes, row.tier, result["rates"], architecture)
        return {"launches": found}

    return measure


if __name__ == "__main__":
    raise SystemExit(main())
