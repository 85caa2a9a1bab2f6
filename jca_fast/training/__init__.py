"""Training, evaluation and prediction. Names are loaded on first use, so importing this package
needs no torch."""

from __future__ import annotations

import importlib

_HOME = {
    "Config": "config",
    "Objective": "objective",
    "Trainer": "trainer",
    "evaluate_checkpoint": "inference",
    "load_model": "checkpoint",
    "run_training": "trainer",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
