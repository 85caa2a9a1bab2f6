"""Repeatable runs: random generators, deterministic algorithms and checks of a saved state."""

from __future__ import annotations

import dataclasses
import math
import os
import random
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor


def random_state() -> dict[str, Any]:
    """The states of the random generators of Python, NumPy and torch (CPU, all GPUs)."""
    name, words, position, has_gauss, gauss = cast(
        tuple[Any, ...], np.random.get_state(legacy=True)
    )
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(words.astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Sets the random generators to a state of `random_state`."""
    random.setstate(state["python"])
    name, words, *rest = state["numpy"]
    np.random.set_state((name, words.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"]:
        torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])


def seed_everything(seed: int) -> None:
    """Seeds the random generators of Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def fingerprint(dataset: Any) -> str:
    """A text that is equal for data sets with the same clips and labels in the same order."""
    rows = torch.as_tensor(dataset.indices).to(torch.int64).contiguous()  # (n,)
    classes = torch.as_tensor(dataset.labels).argmax(dim=-1).to(torch.uint8).contiguous()  # (n, N)
    checksum = zlib.crc32(classes.numpy().tobytes(), zlib.crc32(rows.numpy().tobytes()))
    return f"{len(rows)} clips, crc32 {checksum:08x}"


def check_same_run(
    path: Path, state: dict[str, Any], config: Any, model: dict[str, Any], data: str
) -> None:
    """Raises ValueError with the differences if path holds a run with other settings, model or
    data.
    """
    fixed = [
        field.name
        for field in dataclasses.fields(config)
        if not field.metadata["free"] and field.name != "model"
    ]
    pairs = [(name, state["config"].get(name), getattr(config, name)) for name in fixed]
    pairs += [
        (f"model {name}", state["model_config"].get(name), value) for name, value in model.items()
    ]
    pairs += [("training data", state["data"], data)]
    differing = [f"{name} was {old!r}, now {new!r}" for name, old, new in pairs if old != new]
    if differing:
        raise ValueError(
            f"{path}: belongs to a run with other settings ({'; '.join(differing)}); "
            "use another --out, or --no-resume to start anew there"
        )


def check_state(
    path: Path, state: dict[str, Any], run: dict[str, type], columns: tuple[str, ...]
) -> None:
    """Raises ValueError if path holds no training state, or one with damaged content."""
    if "run" not in state:
        raise ValueError(f"{path}: holds only a model, not the state of a training run")
    with damage_named(path):
        kinds = {"config": dict, "model_config": dict, "data": str, "ranks": list, "run": dict}
        for name, kind in kinds.items():
            _require_kind(name, state[name], kind)
        for name, wanted in run.items():
            _require_kind(name, state["run"][name], wanted)
            if wanted in (int, float):
                _require_number(name, state["run"][name])
        _require_best(state["run"]["best"])
        for row in state["run"]["history"]:
            _require_kind("history", row, dict)
            if missing := [name for name in columns if name not in row]:
                raise ValueError(f"history has no {missing[0]}")
            for name in columns:
                if row[name] is not None or name in ("epoch", "step", "lr"):
                    _require_number(f"{name} of the history", row[name])
        if len(state["run"]["history"]) != state["run"]["epoch"]:
            raise ValueError("history does not have one row for each epoch")
        sums = [rank["sums"] for rank in state["ranks"]]
        if not all(tuple(s.shape) == (2,) and s.dtype == torch.float64 for s in sums):
            raise ValueError("sums have another shape or type")
        if not sums:
            raise ValueError("ranks are empty")


def _require_kind(name: str, value: Any, kind: type) -> None:
    if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool):
        raise ValueError(f"{name} is a {type(value).__name__}")


def _require_number(name: str, value: Any) -> None:
    _require_kind(name, value, float)
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} is {value}")


def _require_best(best: dict[str, Any]) -> None:
    """Raises ValueError unless best is empty or has the epoch and the accuracy of best.pt."""
    if best:
        _require_kind("epoch of the best", best["epoch"], int)
        _require_number("accuracy of the best", best["val_accuracy"])


def check_settings(found: dict[str, Any], new: dict[str, Any], numbers: tuple[str, ...]) -> None:
    """Raises ValueError unless a saved state has the settings of a new one, and numbers.

    Settings that only one of them has are ignored: versions of PyTorch differ in them.
    """
    for name in numbers:
        _require_kind(name, found[name], float)
        if math.isnan(found[name]):
            raise ValueError(f"{name} is {found[name]}")
    for name, value in new.items():
        if name in found and name not in numbers and found[name] != value:
            raise ValueError(f"{name} was {found[name]!r}, now {value!r}")


def check_moments(saved: dict[int, Any], parameters: Sequence[Tensor], step: int) -> None:
    """Raises ValueError unless the saved state of Adam has, after its first step, moments of each
    parameter in its shape and dtype.
    """
    for index, parameter in enumerate(parameters if step else ()):
        _require_number("step of the optimizer", float(saved[index]["step"]))
        for name in ("exp_avg", "exp_avg_sq"):
            value = saved[index][name]
            if value.shape != parameter.shape or value.dtype != parameter.dtype:
                raise ValueError(f"{name} of the optimizer is {tuple(value.shape)}, {value.dtype}")


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turns any error from damaged content into a ValueError that names path."""
    try:
        yield
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
        ArithmeticError,
    ) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"{path}: damaged training state ({type(error).__name__}: {reason}); "
            "delete it, or use --no-resume to start anew"
        ) from error


@contextmanager
def deterministic(on: bool) -> Iterator[None]:
    """Uses deterministic algorithms inside the block, then restores torch's switches.

    An operator without a deterministic algorithm warns. With on=False nothing changes.
    """
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
