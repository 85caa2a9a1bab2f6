"""``jca-fast doctor``: versions, devices, and the ops that each backend can run or why it cannot.

It also runs if other parts of the installation are broken.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .ops.backends import Backend

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    report = collect()
    print(json.dumps(report, indent=2) if args.json else _text(report))
    return 0


def collect() -> dict[str, Any]:
    """The report; a part that fails is replaced by its error message."""
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
    except Exception as error:  # torch or the kernel library may be broken
        return {"error": f"{type(error).__name__}: {error}"}


def _devices() -> dict[str, Any]:
    import torch

    asleep = os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE"
    waiting = "waiting threads sleep" if asleep else "waiting threads spin"
    cpu = (
        f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, "
        f"{waiting} (OMP_WAIT_POLICY)"
    )
    return {"cpu": cpu} | {f"{kind}:{i}": _model(kind, i) for kind, i in _accelerators()}


def _accelerators() -> list[tuple[str, int]]:
    """(type, index) of every device of a type that a backend of the table names, or PyTorch's
    own accelerator.
    """
    import torch

    from .ops.backends import BACKENDS

    own = torch.accelerator.current_accelerator(check_available=True)
    kinds = dict.fromkeys([row.device for row in BACKENDS] + ([own.type] if own else []))
    counts = {
        kind: torch.get_device_module(kind).device_count()
        for kind in kinds
        if kind not in ("", "cpu")
    }
    return [(kind, i) for kind, count in counts.items() for i in range(count)]


def _model(kind: str, index: int) -> str:
    """The name of a device, and the compute capability of a CUDA device."""
    import torch

    module = torch.get_device_module(kind)
    name = module.get_device_name(index) if hasattr(module, "get_device_name") else kind
    if kind != "cuda":
        return name
    major, minor = torch.cuda.get_device_capability(index)
    return f"{name}, compute capability {major}.{minor}"


def _backends() -> dict[str, Any]:
    """For each backend and device, the ops that it cannot run on float32 tensors, and why."""
    from .ops.backends import BACKENDS
    from .ops.backends.launchers import description

    devices = ["cpu"] + [f"{kind}:{i}" for kind, i in _accelerators()]
    report: dict[str, Any] = {}
    for backend in BACKENDS:
        report[backend.name] = {"is": backend.summary}
        if backend.module:
            report[backend.name]["kernels"] = description(backend.module)
        report[backend.name] |= {device: _served(backend, device) for device in devices}
    return report


def _served(backend: Backend, device: str) -> str:
    """A line on the ops that a backend runs on a device."""
    import torch

    from .ops.library import OPS

    tensors = [torch.zeros(1, 1, 1, device=device)] * 3
    refused = {op: "; ".join(why) for op in OPS if (why := backend.reasons(op, tensors))}
    if not refused:
        return "runs every op"
    if len(set(refused.values())) == 1 and len(refused) == len(OPS):
        return "runs none: " + next(iter(refused.values()))
    return "cannot run " + ", ".join(f"{op} ({why})" for op, why in refused.items())


def _gpu_kernels() -> dict[str, Any]:
    """For each backend and its devices, whether "auto" uses its kernels in each tier; starts no
    check.
    """
    from .ops.backends import on_device

    return {
        f"{backend.name} on {kind}:{i}": backend.verdicts(i)
        for kind, i in _accelerators()
        for backend in on_device(kind)
    }


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
