"""Native CPU kernels in C++, registered with PyTorch's dispatcher by ``binding/ops.cpp``.

The attribute named like an op is its launcher. It loads the library, which puts the C++ kernel
behind ``torch.ops.jca_fast.<op>.cpu``, and passes the call to that kernel. Later calls reach the
kernel directly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from . import native
from .native import describe

__all__ = ["describe", "problem"]

_CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)


def problem() -> str:
    """Why these kernels cannot run on this machine; "" where they can."""
    return native.load()[1]


def __getattr__(name: str) -> Callable[..., Any]:
    """The launcher of the op ``name``; AttributeError where the library has no kernel for it."""
    if name.startswith("_") or not (problem() or name in native.op_names()):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def launch(*args: Any) -> Any:
        native.library()
        op = getattr(torch.ops.jca_fast, name).cpu
        return op.redispatch(_CPU, *args)

    return launch
