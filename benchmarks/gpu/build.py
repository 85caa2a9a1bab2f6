"""The native CPU library, built by CMake into the copied package, and loaded once."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Any

from benchmarks.gpu.checks import outcome
from benchmarks.gpu.processes import Site
from benchmarks.gpu.store import ROOT

LOADS = "from jca_fast.kernels.cpu import problem; raise SystemExit(problem() or 0)"


def native_library(site: Site) -> dict[str, Any]:
    """Configure, compile and load; the first step that fails is the failure.

    Not optimised, which takes a quarter of the time: no phase measures the CPU kernels.
    """
    folder = site.folder / "native"
    shutil.rmtree(folder, ignore_errors=True)  # an old cache may name missing tools
    generator = ["-G", "Ninja"] if shutil.which("ninja", path=site.environment()["PATH"]) else []
    output = [
        f"-DJCA_OUTPUT={site.folder / 'site' / 'jca_fast' / 'lib'}",
        "-DCMAKE_BUILD_TYPE=Debug",
    ]
    steps = {
        "cmake": ["cmake", "-S", str(ROOT), "-B", str(folder), *output, *generator],
        "compile": ["cmake", "--build", str(folder), "--parallel", str(os.cpu_count())],
        "load": [sys.executable, "-c", LOADS],
    }
    for name, command in steps.items():
        if problem := outcome(*site.run(name, command))["problem"]:
            return {"failures": [f"{name}: {problem}"]}
    return {"failures": []}
