"""Floating-point operations of every op, for ``torch.utils.flop_counter.FlopCounterMode``.

Each page counts the multiply-adds of its formula's matrix products. PyTorch counts two operations
for each. Importing the counter of PyTorch takes a quarter of a second where Triton is installed, so
the counts are added to a counter at its first op.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

MULTIPLY_ADDS: dict[str, Callable[..., int]] = {}
"""The count of each op, a function of the arguments of its schema; the pages fill it."""


def tell_counters(op: str) -> None:
    """Add the counts to every active FlopCounterMode that does not know ``op``."""
    if "torch.utils.flop_counter" not in sys.modules:
        return
    for mode in _get_current_dispatch_mode_stack():
        registry = getattr(getattr(mode, "counter", mode), "flop_registry", None)
        if registry is not None and getattr(torch.ops.jca_fast, op) not in registry:
            registry.update(
                (getattr(torch.ops.jca_fast, name), partial(_operations, count))
                for name, count in MULTIPLY_ADDS.items()
            )


def _operations(count: Callable[..., int], *args: Any, out_val: Any, **kwargs: Any) -> int:
    return 2 * count(*args, **kwargs)
