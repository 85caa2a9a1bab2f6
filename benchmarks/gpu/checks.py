"""All checks that must pass before times are meaningful. Each runs in a separate process, all at
once.

Tests and ``jca-fast verify`` in every tier, compute-sanitizer on small odd shapes, the latency of a
first call, and the compile caches of the timed phases.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu import plan
from benchmarks.gpu.bars import ABSENT
from benchmarks.gpu.processes import Site
from benchmarks.gpu.store import ROOT

Check = Callable[[], dict[str, Any]]
SHARDS = 12
"""Number of processes for the tests, which compile several hundred kernels."""
SANITIZERS = {
    "racecheck": "RACECHECK SUMMARY: 0 hazards",
    "memcheck": "ERROR SUMMARY: 0 errors",
    "initcheck": "ERROR SUMMARY:",
}
"""The tools, and the line that each prints after a run without findings."""
FOUND = 9
"""Exit status of a tool with findings."""
SANITIZED = ("exact", "tf32", "bfloat16")
"""float16 runs bfloat16's code."""
ELSEWHERE = {
    "test_gpu_run": "tests this script",
    "test_verify_says_that_there_is_no_device": "needs a machine without a GPU",
    "test_runs_on_the_device_of_its_tensors": "needs two GPUs",
}
"""Tests that a machine with one GPU cannot run, and why. Any other skipped test fails the run.
"""
ALONE = "in_two_seconds"
"""Part of the names of tests with a time limit, which run last."""
RESERVE = 30
"""Seconds reserved for them."""


def run_checks(site: Site, options: plan.Options) -> dict[str, Any]:
    """Run all checks, three at once for every two processors; their verdicts by name.

    The compile caches come last, because only they may be cut off.
    """
    dealt, alone = tests(site, options)
    checks = {
        **sanitizers(site, options),
        **dealt,
        **verify(site, options),
        "first call": lambda: first_call(site),
    }
    checks |= fills(site, options)
    with ThreadPoolExecutor((os.cpu_count() or 2) * 3 // 2) as pool:
        futures = {name: pool.submit(_timed, check) for name, check in checks.items()}
    found = {name: future.result() for name, future in futures.items()}
    found |= {name: _timed(check) for name, check in alone.items()}
    failures = [f"{name}: {check['problem']}" for name, check in found.items() if check["problem"]]
    return {"checks": found, "left out": ELSEWHERE, "failures": failures}


def _timed(check: Check) -> dict[str, Any]:
    begin = time.monotonic()
    found = check()
    return {**found, "passed": not found["problem"], "seconds": round(time.monotonic() - begin, 1)}


def outcome(code: int | None, output: str) -> dict[str, Any]:
    """The problem of a finished command: its last line, or "" after success."""
    last = (output.strip().splitlines() or ["it printed nothing"])[-1]
    if code == 0:
        return {"problem": ""}
    return {"problem": last if last.startswith(ABSENT) else f"exit status {code}: {last}"}


def verify(site: Site, options: plan.Options) -> dict[str, Check]:
    """``jca-fast verify`` of each GPU backend in each tier.

    A dry run interprets the self-check's cases in one tier other than TF32. A backend that cannot
    run on this machine is left out, with the reason.
    """
    from jca_fast.ops.backends import on_device
    from jca_fast.ops.backends.launchers import problem

    extra = ["--quick", "--device", "cpu"] if options.dry else []
    tiers = [t for t in options.tiers if t != "tf32"][-1:] if options.dry else options.tiers

    def check(backend: str, tier: str) -> dict[str, Any]:
        arguments = ("verify", "--backend", backend, "--tier", tier, *extra)
        return outcome(*site.run(f"verify {backend} {tier}", site.module("jca_fast", *arguments)))

    checks: dict[str, Check] = {}
    for row in on_device("cuda"):
        if why := problem(row.module or ""):
            checks[f"verify {row.name}"] = partial(dict, problem="", note=why)
        else:
            checks |= {f"verify {row.name} {t}": partial(check, row.name, t) for t in tiers}
    return checks


def tests(site: Site, options: plan.Options) -> tuple[dict[str, Check], dict[str, Check]]:
    """The GPU tests in several processes, then those that run alone. Every collected test must
    pass.
    """
    files = sorted(
        str(path.relative_to(ROOT))
        for pattern in ("test_triton_*.py", "test_gpu_*.py")
        for path in (ROOT / "tests").glob(pattern)
        if not any(name in path.name for name in ELSEWHERE)
    )
    code, output = site.run("collect tests", pytest(site, "--collect-only", "-q", *files))
    names = [
        line
        for line in output.splitlines()
        if "::" in line and not any(name in line for name in ELSEWHERE)
    ]
    if code or not names:
        return {"tests": lambda: {"problem": f"no tests were collected, exit status {code}"}}, {}
    if options.dry:
        names = [name for name in names if "visual" in name][:1]
    alone = [name for name in names if ALONE in name]
    together = [name for name in names if ALONE not in name]
    dealt = {f"tests {i + 1}": together[i::SHARDS] for i in range(min(SHARDS, len(together)))}
    checks = [
        {
            name: lambda name=name, ids=ids: _shard(site, name, ids)
            for name, ids in group.items()
            if ids
        }
        for group in (dealt, {"tests alone": alone})
    ]
    return checks[0], checks[1]


def pytest(site: Site, *arguments: str) -> list[str]:
    """pytest on the copied package instead of the checkout's."""
    return site.module("pytest", "-o", "pythonpath=tests", "-p", "no:cacheprovider", *arguments)


def _shard(site: Site, name: str, ids: list[str]) -> dict[str, Any]:
    code, output = site.run(name, pytest(site, "-q", "-rs", *ids))
    return {"problem": test_problem(code, output, len(ids)), "tests": len(ids)}


def test_problem(code: int | None, output: str, expected: int) -> str:
    """Why a run of ``expected`` tests has not passed; a skipped test counts as not passed."""
    if code is None:
        return outcome(code, output)["problem"]
    summary = (
        re.findall(r"^.*\d+ (?:passed|failed|skipped|error).*$", output, re.MULTILINE)
        or ["no summary"]
    )[-1]
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (\w+)", summary)}
    passed = counts.get("passed", 0)
    if code == 0 and passed == expected and not counts.get("skipped"):
        return ""
    return f"{passed} of {expected} tests passed: {summary.strip('= ')}"


def sanitizers(site: Site, options: plan.Options) -> dict[str, Check]:
    """Every tool on the self-check's cases in each tier, and on a kernel with a planted fault."""
    if options.dry:
        return {name: lambda: {"problem": "", "note": "dry run: not run"} for name in SANITIZERS}
    tiers = [tier for tier in options.tiers if tier in SANITIZED]
    found: dict[str, Check] = {}
    for tool in SANITIZERS:
        for tier in tiers:
            found[f"{tool} {tier}"] = lambda tool=tool, tier=tier: sanitize(site, tool, tier)
        if tool != "racecheck":
            found[f"{tool} finds a planted fault"] = lambda tool=tool: planted(site, tool)
    return found


def kernel_names() -> list[str]:
    """The names of all our kernels, from their sources."""
    patterns = {"triton/*.py": r"^def (\w+_kernel)\(", "cuda/*.cu": r"^__global__ .* (\w+)\(const"}
    return sorted(
        name
        for files, pattern in patterns.items()
        for path in (ROOT / "kernels").glob(files)
        for name in re.findall(pattern, path.read_text(), re.MULTILINE)
    )


def sanitizer(tool: str, kernels: list[str]) -> list[str]:
    """The prefix of a command under a tool, which watches only kernels of these names.

    initcheck must watch all kernels to see every write; its reports are filtered by name
    afterwards.
    """
    program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    names = [word for kernel in kernels for word in ("--kernel-name", f"kns={kernel}")]
    status = ["--error-exitcode", str(FOUND)]
    return [program, "--tool", tool, *([] if tool == "initcheck" else [*status, *names])]


def sanitize(site: Site, tool: str, tier: str) -> dict[str, Any]:
    """One tool in one tier. Without the caching allocator, so that memory ends at the end of a
    tensor.
    """
    command = [
        *sanitizer(tool, kernel_names()),
        *site.module("jca_fast", "verify", "--quick", "--tier", tier),
    ]
    code, output = site.run(f"{tool} {tier}", command, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    return {"problem": sanitizer_problem(tool, code, output)}


def sanitizer_problem(tool: str, code: int | None, output: str) -> str:
    """The findings of a tool, or the fact that it watched nothing."""
    if code == 0 and SANITIZERS[tool] not in output:
        return f"it never said {SANITIZERS[tool]!r}"
    if named := reports(output, kernel_names()):
        return f"{len(named)} reports, first: {named[0]}"
    return outcome(code, output)["problem"]


def reports(output: str, kernels: list[str]) -> list[str]:
    """The lines of a tool's reports that name one of these kernels."""
    name = re.compile(rf"\b({'|'.join(kernels)})\b")
    return [
        line.strip("= ")
        for line in output.splitlines()
        if line.startswith("=====") and name.search(line)
    ]


def planted(site: Site, tool: str) -> dict[str, Any]:
    """Check that the tool reports the planted fault."""
    command = [*sanitizer(tool, ["planted_kernel"]), *site.module("benchmarks.gpu.planted", tool)]
    code, output = site.run(
        f"{tool} finds a planted fault", command, PYTORCH_NO_CUDA_MEMORY_CACHING="1"
    )
    if code is None:
        return outcome(code, output)
    seen = reports(output, ["planted_kernel"])
    return {"problem": "" if seen else f"exit status {code}: the planted fault was not found"}


def first_call(site: Site) -> dict[str, Any]:
    """Seconds to the first results in a fresh process, with empty and then with filled caches."""
    arguments = ["--dry-run"] if site.dry else []
    found: dict[str, Any] = {"problem": "", "note": "taken while the other checks ran"}
    with tempfile.TemporaryDirectory(dir=site.folder) as folder:
        caches = {
            "TRITON_CACHE_DIR": str(Path(folder) / "triton"),
            "XDG_CACHE_HOME": str(Path(folder) / "cache"),
        }
        for name in ("cold", "warm"):
            code, output = site.run(
                f"first call, {name}",
                site.module("benchmarks.gpu.first_call", *arguments),
                **caches,
            )
            if code != 0:
                return outcome(code, output)
            found[name] = json.loads(output.strip().splitlines()[-1])
    return found


def fills(site: Site, options: plan.Options) -> dict[str, Check]:
    """The compile caches of the timed phases."""
    return {
        f"compile {part}": lambda part=part: _fill(site, part, options)
        for part in plan.fills(options)
    }


def _fill(site: Site, part: str, options: plan.Options) -> dict[str, Any]:
    """Fill one part. A part that the deadline cuts off is no failure: the timed phase may still
    compile it.
    """
    command = site.module("benchmarks.gpu.fill", *part.split(), *options.arguments())
    code, output = site.run(f"compile {part}", command, RESERVE)
    return {"problem": "", "note": "cut off"} if code is None else outcome(code, output)
