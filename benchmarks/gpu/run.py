"""The one GPU measurement: ``python benchmarks/gpu/run.py`` (under 8 minutes on an H200; ``--dry-run`` without a GPU).

Checks first, times after: the tests of the kernels, ``jca-fast verify`` and compute-sanitizer have to pass before
anything is timed. Writes ``benchmarks/results/gpu_<architecture>_<time>.json`` and a log beside it, prints a short
table last, and fails on whatever is missing. ``--write-table`` turns the recorded runs into the table of architectures
on which "auto" trusts the kernels.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RESULTS = ROOT / "benchmarks" / "results"
GOOD = {
    ("bfloat16", "forward"): 35, ("tf32", "forward"): 45, ("exact", "forward"): 110,
    ("bfloat16", "backward"): 60, ("tf32", "backward"): 100, ("exact", "backward"): 300,
}  # fmt: skip
"""Bars on an H200 at B = 64, microseconds of a layer under graph replay."""
MODES = ("default", "reduce-overhead", "max-autotune-no-cudagraphs")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes by Triton's interpreter: tests the script")
    parser.add_argument("--tiers", default="exact,tf32,bfloat16", help="precision tiers to measure")
    parser.add_argument("--batches", default="1,8,64,256", help="batch sizes to measure")
    parser.add_argument("--write-table", action="store_true", help="only rewrite jca_fast/gpu/verified.py")
    args = parser.parse_args()
    if args.write_table:
        return write_table()
    if args.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"
        args.batches = "1,2"
    import timing
    import torch

    if not args.dry_run and not torch.cuda.is_available():
        print("no CUDA device: use --dry-run to test this script", file=sys.stderr)
        return 2
    timing.DRY = args.dry_run
    if args.dry_run:  # the kernels do not offer themselves for CPU tensors
        from jca_fast.gpu import support

        support.reasons = lambda op, tensors: []
    begin = time.time()
    record: dict[str, Any] = {"machine": machine(args.dry_run), "checks": checks(args.dry_run)}
    record["rates"] = timing.device_rates()
    record["layers"] = measure_layers(args)
    record["training"] = measure_training(args)
    record["visual"] = measure_visual(args)
    record["seconds"] = time.time() - begin
    if not args.dry_run:
        save(record)
    print(summary(record))
    failed = [name for name, check in record["checks"].items() if not check["passed"]]
    if failed:
        print(f"FAILED: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def machine(dry: bool) -> dict[str, Any]:
    """Commit, versions and device of this run."""
    import torch
    import triton
    from jca_fast.kernels.triton.launch import architecture_class

    from jca_fast import __version__

    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    facts = {
        "commit": git.stdout.strip(), "jca_fast": __version__, "torch": torch.__version__,
        "triton": triton.__version__, "python": platform.python_version(), "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }  # fmt: skip
    if dry:
        return {**facts, "device": "none (dry run)", "architecture": "none"}
    query = "name,driver_version,clocks.sm,clocks.max.sm,power.limit"
    smi = subprocess.run(
        ["nvidia-smi", f"--query-gpu={query}", "--format=csv"], capture_output=True, text=True, check=True
    )
    major, minor = torch.cuda.get_device_capability()
    return {
        **facts, "device": torch.cuda.get_device_name(), "nvidia-smi": smi.stdout,
        "architecture": architecture_class(major * 10 + minor),
    }  # fmt: skip


def checks(dry: bool) -> dict[str, dict[str, Any]]:
    """Everything that has to be right before a time means anything; the first call's latency on the way."""
    verify = [sys.executable, "-m", "jca_fast", "verify"]
    if dry:
        quick = [*verify, "--quick", "--device", "cpu"]
        return {f"verify {tier}": _run([*quick, "--tier", tier]) for tier in ("exact", "float16")}
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    small = [*verify, "--quick", "--tier"]
    found = {"tests": _run([sys.executable, "-m", "pytest", "-q", "tests/test_triton_kernels.py"])}
    for tier in ("exact", "tf32", "bfloat16", "float16"):
        found[f"verify {tier}"] = _run([*verify, "--tier", tier])
    for tool in ("memcheck", "racecheck", "initcheck"):
        found[tool] = _run([sanitizer, "--tool", tool, "--error-exitcode", "1", *small, "bfloat16"])
    return found


def _run(command: list[str]) -> dict[str, Any]:
    """Run a command in the repository; its time, its result and the end of what it printed."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    begin = time.time()
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        passed, output = done.returncode == 0, done.stdout + done.stderr
    except OSError as error:
        passed, output = False, str(error)
    print(f"{'passed' if passed else 'FAILED'} {' '.join(command[1:])}", flush=True)
    return {"passed": passed, "seconds": time.time() - begin, "output": output[-20000:]}


def measure_layers(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One layer and four: times, memory, bits and errors of the kernels, eager PyTorch and torch.compile."""
    import subjects
    import timing
    import torch

    from jca_fast.gpu.check import precision

    device, rows = ("cpu" if args.dry_run else "cuda"), []
    for tier in args.tiers.split(","):
        for count in (1, 4):
            for batch in map(int, args.batches.split(",")):
                with precision(tier) as dtype:
                    data = subjects.layers(batch, dtype, device, count, args.dry_run)
                    row: dict[str, Any] = {"tier": tier, "layers": count, "batch": batch}
                    subject = {"fused": subjects.fused, "eager": subjects.plain}
                    if batch == 64 and not args.dry_run:
                        for mode in MODES:
                            torch._dynamo.reset()
                            subject[mode] = torch.compile(subjects.plain, mode=mode)
                    for name, forward in subject.items():
                        row[name] = _times(name, forward, data, timing, subjects, torch)
                    row["error"] = _errors(subjects, data)
                    rows.append(row)
                print(f"measured {tier} layers={count} B={batch}", flush=True)
    return rows


def _times(name: str, forward: Any, data: dict[str, Any], timing: Any, subjects: Any, torch: Any) -> dict[str, Any]:
    """Forward and forward with backward, replayed and eager; memory kept for the backward."""
    both = subjects.with_backward(forward, data)

    def alone() -> Any:
        with torch.no_grad():
            return forward(data)

    graph = name != "reduce-overhead"  # it captures graphs of its own
    return {
        "forward": timing.microseconds(alone, graph=graph),
        "forward eager": timing.microseconds(alone, graph=False),
        "forward+backward": timing.microseconds(both, graph=graph),
        "forward+backward eager": timing.microseconds(both, graph=False),
        "activation bytes": timing.peak_bytes(lambda: forward(data)),
    }


def _errors(subjects: Any, data: dict[str, Any]) -> dict[str, Any]:
    """Relative RMS error of all outputs and gradients against float64, ours and eager's; whether ours repeats."""
    from jca_fast.gpu.check import _error

    wide = {
        "inputs": [x.detach().double().requires_grad_() for x in data["inputs"]],
        "weights": [[[w.detach().double().requires_grad_() for w in g] for g in layer] for layer in data["weights"]],
        "scale": data["scale"],
    }
    exact = [*subjects.plain(wide), *subjects.with_backward(subjects.plain, wide)()]
    found: dict[str, Any] = {}
    for name, forward in (("fused", subjects.fused), ("eager", subjects.plain)):
        got = [*forward(data), *subjects.with_backward(forward, data)()]
        found[name] = max(_error(a.detach(), b.detach()) for a, b in zip(got, exact, strict=True))
    again = [[*subjects.fused(data), *subjects.with_backward(subjects.fused, data)()] for _ in range(2)]
    found["repeats"] = all(a.equal(b) for a, b in zip(*again, strict=True))
    return found


def measure_training(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A training step of the whole network."""
    import subjects
    import timing

    from jca_fast.gpu.check import precision

    device, rows = ("cpu" if args.dry_run else "cuda"), []
    for tier in args.tiers.split(","):
        with precision(tier) as dtype:
            step = subjects.training_step(2 if args.dry_run else 64, device, args.dry_run, dtype)
            backends = ("reference",) if args.dry_run else ("triton", "reference")
            times = {b: timing.microseconds(step(b), graph=False) for b in backends}
        rows.append({"tier": tier, **times})
    return rows


def measure_visual(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The visual reduction, with the L2 cache flushed before each call."""
    import subjects
    import timing
    import torch

    rows = []
    for dtype in (torch.float32, torch.bfloat16 if not args.dry_run else torch.float16):
        for segments in (3,) if args.dry_run else (640, 10240):
            for frozen in (True, False):
                calls = subjects.reduction(segments, dtype, "cpu" if args.dry_run else "cuda", args.dry_run, frozen)
                times = {name: timing.microseconds(call, graph=False, flush=True) for name, call in calls.items()}
                rows.append({"segments": segments, "dtype": str(dtype), "frozen": frozen, **times})
    return rows


def save(record: dict[str, Any]) -> None:
    """The JSON of a run, and what its checks printed as a log."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    facts = record["machine"]
    path = RESULTS / f"gpu_{facts['architecture']}_{facts['time'].replace(':', '')}.json"
    log = "\n".join(f"== {name}\n{check.pop('output')}" for name, check in record["checks"].items())
    path.with_suffix(".log").write_text(log)
    path.write_text(json.dumps(record, indent=1))
    print(f"wrote {path}")


def summary(record: dict[str, Any]) -> str:
    """The short table: layers against their floor, the bars and the best of PyTorch."""
    lines = [
        f"{record['machine']['device']}: {record['seconds']:.0f} s",
        f"{'tier':<9} {'layers':>6} {'B':>4} {'forward us':>10} {'of floor':>8} "
        f"{'f+b us':>9} {'vs eager':>8} {'vs compiled':>11} {'memory':>6}",
    ]
    for row in record["layers"]:
        ours, eager = row["fused"], row["eager"]
        forward, both = ours["forward"]["median"], ours["forward+backward"]["median"]
        compiled = [row[m]["forward+backward"]["median"] for m in MODES if m in row]
        floor = 1e6 * row["layers"] * row["batch"] * 2 * 512 * 1024 / record["rates"]["tanh"]
        memory = eager["activation bytes"] / max(ours["activation bytes"], 1)
        lines.append(
            f"{row['tier']:<9} {row['layers']:>6} {row['batch']:>4} {forward:>10.1f} {floor / forward:>8.0%} "
            f"{both:>9.1f} {eager['forward+backward']['median'] / both:>7.1f}x "
            + (f"{min(compiled) / both:>10.1f}x" if compiled else " " * 11)
            + f" {memory:>5.0f}x"
            + _verdict(row, forward, both)
        )
    for row in record["visual"]:
        times = "  ".join(f"{k} {v['median']:.0f}" for k, v in row.items() if isinstance(v, dict))
        lines.append(f"visual S={row['segments']} {row['dtype']} frozen={row['frozen']}: {times} us")
    return "\n".join(lines)


def _verdict(row: dict[str, Any], forward: float, both: float) -> str:
    """How a layer at B = 64 stands to the bars."""
    if (row["layers"], row["batch"]) != (1, 64):
        return ""
    bars = {"forward": forward, "backward": both - forward}
    return "  " + ", ".join(
        f"{what} {'good' if took <= GOOD[row['tier'], what] else 'MISSES'} {GOOD[row['tier'], what]}"
        for what, took in bars.items()
        if (row["tier"], what) in GOOD
    )


def write_table() -> int:
    """Rewrite jca_fast/gpu/verified.py from the recorded runs that passed every check."""
    pairs = set()
    for path in sorted(RESULTS.glob("gpu_*.json")):
        record = json.loads(path.read_text())
        sound = all(record["checks"][name]["passed"] for name in ("tests", "memcheck", "racecheck", "initcheck"))
        for name, check in record["checks"].items():
            if sound and check["passed"] and name.startswith("verify "):
                pairs.add((record["machine"]["architecture"], name.removeprefix("verify ")))
    target = ROOT / "jca_fast" / "gpu" / "verified.py"
    head = target.read_text().split("VERIFIED:")[0]
    body = "frozenset()" if not pairs else f"frozenset(\n    {sorted(pairs)!r}\n)".replace("'", '"')
    tail = (
        '"""(architecture class, tier) pairs of the recorded runs in benchmarks/results that passed every check."""\n'
    )
    target.write_text(f"{head}VERIFIED: frozenset[tuple[str, str]] = {body}\n{tail}")
    print(f"{target}: {len(pairs)} pairs")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    raise SystemExit(main())
