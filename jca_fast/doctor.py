"""``jca-fast doctor``: versions, devices, which backend serves what and why not. Runs when the rest is broken."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Callable
from typing import Any

from ._version import __version__

PACKAGES = (
    "torch",
    "triton",
    "numpy",
    "h5py",
    "matplotlib",
    "safetensors",
    "tensorboard",
    "pytest-benchmark",
    "ninja",
)
OPS = ("tanh_attention", "joint_coattention", "joint_affinity", "visual_reduction")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    report = collect()
    print(json.dumps(report, indent=2) if args.json else _text(report))
    return 0


def collect() -> dict[str, Any]:
    """The report; a part that cannot be had is its error message."""
    return {
        "jca_fast": {
            "version": __version__,
            "python": sys.version.split()[0],
            "platform": platform.platform(),
        },
        "packages": {name: _version(name) for name in PACKAGES},
        "environment": {
            k: v
            for k, v in sorted(os.environ.items())
            if k.startswith(("JCA_FAST_", "TRITON_", "OMP_"))
        },
        "devices": _attempt(_devices),
        "backends": _attempt(_backends),
        "gpu kernels": _attempt(_gpu_kernels),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _attempt(part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return part()
    except Exception as error:  # a broken torch or kernel library is what a doctor is for
        return {"error": f"{type(error).__name__}: {error}"}


def _devices() -> dict[str, Any]:
    import torch

    devices: dict[str, Any] = {
        "cpu": f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    }
    for i in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(i)
        devices[f"cuda:{i}"] = (
            f"{torch.cuda.get_device_name(i)}, compute capability {major}.{minor}"
        )
    return devices


def _backends() -> dict[str, Any]:
    """Per backend and op, what speaks against it on a float32 tensor of each device."""
    import torch

    from .ops.backends import BACKENDS

    devices = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    report: dict[str, Any] = {}
    for backend in BACKENDS:
        verdicts = {}
        for device in devices:
            tensors = [torch.zeros(1, 1, 1, device=device)] * 3
            reasons = {op: backend.reasons(op, tensors) for op in OPS}
            refused = {op: "; ".join(why) for op, why in reasons.items() if why}
            if not refused:
                verdicts[device] = "serves every op"
            elif len(set(refused.values())) == 1 and len(refused) == len(OPS):
                verdicts[device] = "serves none: " + next(iter(refused.values()))
            else:
                verdicts[device] = "cannot serve " + ", ".join(
                    f"{op} ({why})" for op, why in refused.items()
                )
        report[backend.name] = {"is": backend.summary, **verdicts}
    return report


def _gpu_kernels() -> dict[str, Any]:
    """For each CUDA device, whether "auto" uses the Triton kernels in each tier and why; starts no check."""
    import torch

    from .gpu import support, trust

    report: dict[str, Any] = {}
    for i in range(torch.cuda.device_count()):
        why = support.problem(i)
        report[f"cuda:{i}"] = {"all tiers": f"not used: {why}"} if why else trust.report(i)
    return report


def _text(report: dict[str, Any]) -> str:
    lines = []
    for section, entries in report.items():
        if entries:
            lines.append(section)
        for name, value in entries.items():
            if isinstance(value, dict):
                lines.append(f"  {name}")
                lines += [f"    {key:<8} {text}" for key, text in value.items()]
            else:
                lines.append(f"  {name:<18} {value}")
    return "\n".join(lines)
