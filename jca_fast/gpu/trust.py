"""Whether "auto" may use the Triton kernels on a device: a recorded run, or a self-check on that very device.

The self-check runs once for each device and tier, and its verdict is kept for the same device, driver, torch, triton
and package version in ``$XDG_CACHE_HOME/jca_fast/gpu_checks.json`` (``~/.cache`` where that is unset). Where nothing
can be written, or a check could not run to its end, the verdict lasts as long as the process.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import tempfile
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from .._version import __version__
from .verified import VERIFIED

_DECIDED: dict[tuple[int, str], str] = {}
"""The verdicts on (device, tier) in this process."""
_LOCK = threading.Lock()
"""One check at a time: it sets the float32 precision of the whole process."""


def doubt(index: int, tier: str) -> str:
    """Why "auto" must not use the kernels on CUDA device ``index`` in ``tier``; "" where it may."""
    if (architecture(index), tier) in VERIFIED:
        return ""
    if (index, tier) not in _DECIDED:
        if torch.cuda.is_current_stream_capturing() and tier not in _verdicts(index):
            return "its self-check cannot run during a graph capture: call the op once before"
        with _LOCK:
            if (index, tier) not in _DECIDED:
                _DECIDED[index, tier] = _decide(index, tier)
                _warn(index, _DECIDED[index, tier])
    return _DECIDED[index, tier]


def architecture(index: int) -> str:
    """The architecture class of CUDA device ``index`` in the kernels' table."""
    from ..kernels.triton import launch

    return launch.architecture(
        torch.device("cuda", index)
    )  # which asks the driver once: this is on every call's way


def report(index: int) -> dict[str, str]:
    """For each tier, what "auto" thinks of the kernels on CUDA device ``index``, without running a check."""
    from .check import TIERS

    known = _verdicts(index) | {t: verdict for (i, t), verdict in _DECIDED.items() if i == index}
    verdicts = {}
    for tier in TIERS:
        if (architecture(index), tier) in VERIFIED:
            verdicts[tier] = "used: verified by a recorded run on this architecture"
        elif tier not in known:
            verdicts[tier] = "not decided: checked on first use"
        else:
            verdicts[tier] = (
                f"not used: {known[tier]}"
                if known[tier]
                else "used: the self-check on this device passed"
            )
    return verdicts


def _decide(index: int, tier: str) -> str:
    """The verdict on a device: the one kept, or that of a check now."""
    known = _verdicts(index)
    if tier in known:
        return known[tier]
    try:
        with ThreadPoolExecutor(
            1
        ) as thread:  # it has none of the caller's autocast, modes, transforms and streams
            verdict = thread.submit(_check, index, tier).result()
    except (
        Exception
    ) as error:  # whatever breaks a kernel must leave the user's call on plain PyTorch
        return f"its self-check raised {type(error).__name__}: {error}".splitlines()[0]
    _keep(index, tier, verdict)
    return verdict


def _warn(index: int, verdict: str) -> None:
    if verdict:
        warnings.warn(
            f"jca_fast: the Triton kernels failed their self-check on cuda:{index} ({verdict}); plain PyTorch is "
            "used there. Please report this with the output of 'jca-fast verify' and 'jca-fast doctor'.",
            stacklevel=3,
        )


def _check(index: int, tier: str) -> str:
    """Run the self-check; "" or what failed."""
    from .check import QUICK, run_checks

    with _any_algorithm():
        failed = [r for r in run_checks(QUICK, tier, torch.device("cuda", index)) if not r.passed]
    if not failed:
        return ""
    worst = failed[0]
    return f"{worst.case.op} {worst.what} in tier {tier}: error {worst.error:.1e}, bound {worst.bound:.1e}"


@contextlib.contextmanager
def _any_algorithm() -> Iterator[None]:
    """Without deterministic mode, in which cuBLAS may refuse the products that the kernels are compared with."""
    mode = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode[0], warn_only=mode[1])


def _path() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "jca_fast" / "gpu_checks.json"


@functools.cache
def _key(index: int) -> str:
    """What a verdict holds for: device, driver and versions."""
    import triton

    driver = torch._C._cuda_getDriverVersion()  # type: ignore[attr-defined]
    versions = (torch.__version__, triton.__version__, __version__)
    return " | ".join(
        (torch.cuda.get_device_name(index), architecture(index), f"driver {driver}", *versions)
    )


def _read() -> dict[str, Any]:
    """The kept verdicts on all devices; an unreadable file, or no home to have one in, holds none."""
    try:
        found = json.loads(_path().read_text())
    except (OSError, ValueError, RuntimeError):
        return {}
    return found if isinstance(found, dict) else {}


def _verdicts(index: int) -> dict[str, str]:
    """The kept verdicts on a device, by tier."""
    found = _read().get(_key(index))
    return {t: v for t, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}


def _keep(index: int, tier: str, verdict: str) -> None:
    """Add a verdict to the file, which other processes may be reading, or replacing by theirs."""
    known = _read() | {_key(index): {**_verdicts(index), tier: verdict}}
    with contextlib.suppress(OSError, RuntimeError):
        _path().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=_path().parent, delete=False) as file:
            json.dump(known, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(_path())
