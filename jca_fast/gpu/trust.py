"""Whether "auto" may use the Triton kernels on a device: a recorded run, or a self-check on that very device.

The self-check runs once for each device and tier, and its verdict is kept for the same device, driver, torch, triton
and package version in ``$XDG_CACHE_HOME/jca_fast/gpu_checks.json`` (``~/.cache`` where that is unset).
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import tempfile
import warnings
from pathlib import Path

import torch

from .._version import __version__
from .verified import VERIFIED


def doubt(index: int, tier: str) -> str:
    """Why "auto" must not use the kernels on CUDA device ``index`` in ``tier``; "" where it may."""
    if (architecture(index), tier) in VERIFIED:
        return ""
    if torch.cuda.is_current_stream_capturing() and tier not in _verdicts(index):
        return "its self-check cannot run during a graph capture: call the op once before"
    return _decided(index, tier)


def architecture(index: int) -> str:
    """The architecture class of CUDA device ``index`` in the kernels' table."""
    from ..kernels.triton.launch import architecture_class

    major, minor = torch.cuda.get_device_capability(index)
    return architecture_class(major * 10 + minor)


def report(index: int) -> dict[str, str]:
    """For each tier, what "auto" thinks of the kernels on CUDA device ``index``, without running a check."""
    from .check import TIERS

    known = _verdicts(index)
    verdicts = {}
    for tier in TIERS:
        if (architecture(index), tier) in VERIFIED:
            verdicts[tier] = "used: verified by a recorded run on this architecture"
        elif tier not in known:
            verdicts[tier] = "not decided: checked on first use"
        else:
            verdicts[tier] = f"not used: {known[tier]}" if known[tier] else "used: the self-check on this device passed"
    return verdicts


@functools.cache
def _decided(index: int, tier: str) -> str:
    """The verdict on a device: the one kept, or that of a check now."""
    known = _verdicts(index)
    if tier not in known:
        known[tier] = _check(index, tier)
        _keep(index, known)
    if known[tier]:
        warnings.warn(
            f"jca_fast: the Triton kernels failed their self-check on cuda:{index} ({known[tier]}); plain PyTorch is "
            "used there. Please report this with the output of 'jca-fast verify' and 'jca-fast doctor'.",
            stacklevel=2,
        )
    return known[tier]


def _check(index: int, tier: str) -> str:
    """Run the self-check; "" or what failed."""
    from .check import QUICK, run_checks

    try:
        failed = [r for r in run_checks(QUICK, tier, torch.device("cuda", index)) if not r.passed]
    except Exception as error:  # whatever breaks a kernel must leave the user's call on plain PyTorch
        return f"its self-check raised {type(error).__name__}: {error}".splitlines()[0]
    if not failed:
        return ""
    worst = failed[0]
    return f"{worst.case.op} {worst.what} in tier {tier}: error {worst.error:.1e}, bound {worst.bound:.1e}"


def _path() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "jca_fast" / "gpu_checks.json"


@functools.cache
def _key(index: int) -> str:
    """What a verdict holds for: device, driver and versions."""
    driver = torch._C._cuda_getDriverVersion()  # type: ignore[attr-defined]
    versions = (torch.__version__, importlib.metadata.version("triton"), __version__)
    return " | ".join((torch.cuda.get_device_name(index), architecture(index), f"driver {driver}", *versions))


def _verdicts(index: int) -> dict[str, str]:
    """The kept verdicts on a device, by tier; an unreadable file holds none."""
    try:
        return dict(json.loads(_path().read_text()).get(_key(index), {}))
    except (OSError, ValueError, AttributeError):
        return {}


def _keep(index: int, verdicts: dict[str, str]) -> None:
    """Write the verdicts; where that is impossible they last as long as the process."""
    try:
        _path().parent.mkdir(parents=True, exist_ok=True)
        try:
            known = json.loads(_path().read_text())
        except (OSError, ValueError):
            known = {}
        known[_key(index)] = verdicts
        with tempfile.NamedTemporaryFile("w", dir=_path().parent, delete=False) as file:
            json.dump(known, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(_path())
    except OSError:
        return
