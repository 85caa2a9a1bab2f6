"""Decides whether "auto" may use a backend's GPU kernels, by a recorded run or by a self-check on
that device.

Each verdict belongs to a backend, an architecture class and a tier. The self-check runs once for
each backend, device and tier. Its verdict is kept for the same device, driver, torch, kernels and
package in ``$XDG_CACHE_HOME/jca_fast/gpu_checks.json`` (``~/.cache`` where that is unset). Where
nothing can be written, or a check cannot finish, the verdict lasts as long as the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from ..._version import __version__
from ...atomic import write_json
from ..tiers import TIERS, device_class
from . import parity
from .launchers import description, load
from .verified import VERIFIED

_DECIDED: dict[tuple[str, int, str], str] = {}
"""The verdicts on (backend, device, tier) in this process."""
_LOCK = threading.Lock()
"""One check at a time, because a check sets the float32 precision of the whole process."""


def caution(backend: str, module: str, index: int, tier: str) -> str:
    """Why "auto" must not use the kernels of a backend on CUDA device ``index``; "" where
    it may.
    """
    if (backend, device_class(index), tier) in VERIFIED:
        return ""
    key = (backend, index, tier)
    if key not in _DECIDED:
        if torch.cuda.is_current_stream_capturing() and tier not in _verdicts(module, index):
            return "its self-check cannot run during a graph capture: call the op once before"
        with _LOCK:
            if key not in _DECIDED:
                _DECIDED[key] = _decide(module, index, tier)
                _warn(backend, index, _DECIDED[key])
    return _DECIDED[key]


def report(backend: str, module: str, index: int) -> dict[str, str]:
    """For each tier, whether "auto" uses the kernels on CUDA device ``index``; starts no check."""
    decided = {t: verdict for (b, i, t), verdict in _DECIDED.items() if (b, i) == (backend, index)}
    known = _verdicts(module, index) | decided
    verdicts = {}
    for tier in TIERS:
        if (backend, device_class(index), tier) in VERIFIED:
            verdicts[tier] = "used: verified by a recorded run on this architecture"
        elif tier not in known:
            verdicts[tier] = "not decided: checked on first use"
        elif known[tier]:
            verdicts[tier] = f"not used: {known[tier]}"
        else:
            verdicts[tier] = "used: the self-check on this device passed"
    return verdicts


def _decide(module: str, index: int, tier: str) -> str:
    """The verdict on a device: the stored one, or that of a new check."""
    known = _verdicts(module, index)
    if tier in known:
        return known[tier]
    try:
        # A fresh thread has none of the caller's autocast, modes, transforms and streams.
        with ThreadPoolExecutor(1) as thread:
            verdict = thread.submit(_check, module, index, tier).result()
    except Exception as error:  # a broken kernel must leave the user's call to the next backend
        return f"its self-check raised {type(error).__name__}: {error}".splitlines()[0]
    _keep(module, index, tier, verdict)
    return verdict


def _warn(backend: str, index: int, verdict: str) -> None:
    if verdict:
        warnings.warn(
            f"jca_fast: the {backend} kernels failed their self-check on cuda:{index} ({verdict}); "
            '"auto" does not use them there. Please report this with the output of '
            f"'jca-fast verify --backend {backend}' and 'jca-fast doctor'.",
            stacklevel=3,
        )


def _check(module: str, index: int, tier: str) -> str:
    """Run the self-check of the ops that have kernels; "" or the first failure."""
    device, kernels = torch.device("cuda", index), load(module)
    cases = parity.with_kernels(parity.QUICK, kernels)
    with _any_algorithm():
        results = parity.run_checks(cases, tier, device, kernels)
    failed = [r for r in results if not r.passed]
    if not failed:
        return ""
    worst = failed[0]
    return (
        f"{worst.case.op} {worst.what} in tier {tier}: error {worst.error:.1e}, "
        f"bound {worst.bound:.1e}"
    )


@contextlib.contextmanager
def _any_algorithm() -> Iterator[None]:
    """Leave deterministic mode, in which cuBLAS may reject the products used for comparison."""
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
def _key(module: str, index: int) -> str:
    """The scope of a verdict as text: the kernels, the device, its driver and all versions."""
    driver = f"driver {_driver_version()}"
    device = (torch.cuda.get_device_name(index), device_class(index), driver)
    return " | ".join((module, description(module), *device, torch.__version__, __version__))


def _driver_version() -> int:
    """The version of the installed CUDA driver, such as 13000; 0 without one. PyTorch has no
    function for it.
    """
    version = ctypes.c_int(0)
    with contextlib.suppress(OSError):
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    return version.value


def _read() -> dict[str, Any]:
    """The stored verdicts on all devices; none where the file is missing or broken, or the home
    folder is unknown.
    """
    try:
        found = json.loads(_path().read_text())
    except (OSError, ValueError, RuntimeError):
        return {}
    return found if isinstance(found, dict) else {}


def _verdicts(module: str, index: int) -> dict[str, str]:
    """The stored verdicts on a device, by tier."""
    found = _read().get(_key(module, index))
    return {t: v for t, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}


def _keep(module: str, index: int, tier: str, verdict: str) -> None:
    """Add a verdict to the file, which other processes may be reading or replacing."""
    known = _read() | {_key(module, index): {**_verdicts(module, index), tier: verdict}}
    with contextlib.suppress(OSError, RuntimeError):
        _path().parent.mkdir(parents=True, exist_ok=True)
        write_json(_path(), known)
