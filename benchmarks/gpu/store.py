"""The record of a run: its origin, and writes that lose no measurement."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu import assembler
from jca_fast.atomic import write_text

ROOT = Path(__file__).resolve().parents[2]
UNKNOWN = "unknown"


def write(path: Path, value: Any) -> None:
    """Replace ``path`` by ``value`` as JSON in one step: a reader sees the old or the new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(value, indent=1) + "\n")


def read(path: Path) -> dict[str, Any]:
    """The JSON of a file; empty if it is missing or broken."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def capability(dry: bool) -> int:
    """Compute capability of the first device, 90 for 9.0; a dry run's is the interpreter's."""
    if dry:
        return 90
    return int(_ask("compute_cap").replace(".", ""))


def architecture(dry: bool) -> str:
    """The architecture class of the device in the kernels' table."""
    from jca_fast.ops.tiers import architecture_class

    return architecture_class(capability(dry))


def sources() -> str:
    """A digest of the measured sources, for a tree without a repository."""
    digest = hashlib.sha256()
    for folder in ("jca_fast", "kernels", "benchmarks/gpu"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def machine(dry: bool, commit: str = "") -> dict[str, Any]:
    """Commit, versions and device of this run; names its assembler for the processes to come."""
    import torch
    import triton

    from jca_fast import __version__

    status = _git("status", "--porcelain")
    facts = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "commit": commit or _git("rev-parse", "HEAD"),
        "tree": status if status == UNKNOWN else "dirty" if status else "clean",
        "sources": sources(),
        "jca_fast": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "ptxas": assembler.choose(),
        "cuda": torch.version.cuda,
        "cpus": os.cpu_count(),
        "architecture": architecture(dry),
    }
    if dry:
        return {**facts, "device": "none (dry run)", "architecture": "none"}
    query = (
        "name",
        "driver_version",
        "clocks.max.sm",
        "clocks.max.mem",
        "power.limit",
        "memory.total",
    )
    return {**facts, **{name: _ask(name) for name in query}, "device": _ask("name")}


def _ask(query: str) -> str:
    """One fact of the first device from nvidia-smi."""
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    return (
        subprocess.run(command, capture_output=True, text=True, check=True)
        .stdout.splitlines()[0]
        .strip()
    )


def _git(*arguments: str) -> str:
    """The output of git; UNKNOWN outside a repository."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN
    return done.stdout.strip()
