"""What makes a run repeatable: random generators, deterministic algorithms, and the check that a run is the same."""

from __future__ import annotations

import dataclasses
import os
import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """The states of the random generators of Python, NumPy and torch (CPU, all GPUs) as tensors and plain values."""
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
    """Puts the random generators back to a state of `random_state`."""
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
    """Says whether two data sets have the same clips in the same order with the same labels."""
    rows = torch.as_tensor(dataset.indices).to(torch.int64).contiguous()  # (n,)
    classes = torch.as_tensor(dataset.labels).argmax(dim=-1).to(torch.uint8).contiguous()  # (n, N)
    return f"{len(rows)} clips, crc32 {zlib.crc32(classes.numpy().tobytes(), zlib.crc32(rows.numpy().tobytes())):08x}"


def check_same_run(
    path: Path, state: dict[str, Any], config: Any, model: dict[str, Any], data: str
) -> None:
    """Raises ValueError if path holds a run with other settings, model or data, naming what differs."""
    if "run" not in state:
        raise ValueError(f"{path}: holds only a model, not the state of a training run")
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


@contextmanager
def deterministic(on: bool) -> Iterator[None]:
    """Deterministic algorithms while training; an operator that has none warns. Puts torch's switches back."""
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
