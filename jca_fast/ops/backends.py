"""The table of backends: who can serve which inputs, and why not, in words.

``backend="auto"`` takes the first row with no reason against it (or the backend named by the environment variable
``JCA_FAST_BACKEND``). A backend asked for by name that cannot serve raises with its reasons: nothing falls back
silently.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from .constant import assume_constant_result


@dataclass(frozen=True)
class Backend:
    """One implementation of the ops.

    ``reasons(op, tensors)`` lists, in words, why it cannot serve these inputs (empty: it can). ``module`` holds a
    launcher named like each op; None means the plain-PyTorch formulas.
    ``doubts(op, tensors)`` lists what keeps "auto", but not who asks by name, from a backend that can serve.
    """

    name: str
    summary: str
    module: str | None
    reasons: Callable[[str, Sequence[Tensor]], list[str]]
    doubts: Callable[[str, Sequence[Tensor]], list[str]] = lambda op, tensors: []


_CPU = "jca_fast.kernels.cpu"


@assume_constant_result
def _problem(module: str) -> str:
    """Why the kernels of ``module`` cannot run on this machine at all, "" where they can; imported when first asked."""
    try:
        return importlib.import_module(module).problem()
    except ImportError as error:
        return f"{module} cannot be imported: {error}"


def _cpu_reasons(op: str, tensors: Sequence[Tensor]) -> list[str]:
    found = [f"it serves CPU tensors, got {t.device}" for t in tensors if not t.is_cpu][:1]
    if not found and (problem := _problem(_CPU)):
        found.append(problem)
    return found


def _gpu_doubts(op: str, tensors: Sequence[Tensor]) -> list[str]:
    from ..gpu.support import doubts

    return doubts(op, tensors)


def _gpu_reasons(op: str, tensors: Sequence[Tensor]) -> list[str]:
    from ..gpu.support import reasons

    return reasons(op, tensors)


BACKENDS: tuple[Backend, ...] = (
    Backend("cpu", "native kernels on CPU tensors, in any floating dtype", _CPU, _cpu_reasons),
    Backend(
        "triton",
        "Triton kernels on CUDA tensors of compute capability 8.0 and newer, in float32, bfloat16 and float16",
        "jca_fast.kernels.triton",
        _gpu_reasons,
        doubts=_gpu_doubts,
    ),
    Backend(
        "reference",
        "plain PyTorch on any device, in any floating dtype",
        None,
        lambda op, tensors: [],
    ),
)


def names() -> tuple[str, ...]:
    """The backends in the order in which "auto" tries them."""
    return tuple(backend.name for backend in BACKENDS)


def find(name: str) -> Backend:
    """The row called ``name``; ValueError names the ones there are."""
    for backend in BACKENDS:
        if backend.name == name:
            return backend
    raise ValueError(
        f"backend must be 'auto' or one of {', '.join(map(repr, names()))}; got {name!r}"
    )


def choose(op: str, requested: str, tensors: Sequence[Tensor]) -> str:
    """The name of the backend that serves ``op`` on ``tensors``; RuntimeError with the reasons if none does."""
    if requested == "auto":
        requested = os.environ.get("JCA_FAST_BACKEND", "auto")
    if requested != "auto":
        backend = find(requested)
        if reasons := backend.reasons(op, tensors):
            raise RuntimeError(f"backend {backend.name!r} cannot serve {op}: " + "; ".join(reasons))
        return backend.name
    for backend in BACKENDS:
        if not backend.reasons(op, tensors) and not backend.doubts(op, tensors):
            return backend.name
    raise RuntimeError(f"no backend can serve {op}:\n{explain(*tensors, op=op)}")


def explain(*tensors: Tensor, op: str = "tanh_attention") -> str:
    """Which backend "auto" takes for ``op`` on these tensors, and what speaks against each of the others.

    >>> print(explain(q, k, v))
    tanh_attention of (2, 6, 10) float32 cpu, ...
      reference  chosen
    """
    described = ", ".join(
        f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')} {t.device}" for t in tensors
    )
    lines = [f"{op} of {described}" if tensors else op]
    forced = os.environ.get("JCA_FAST_BACKEND", "auto")
    taken = False
    for backend in BACKENDS:
        reasons = backend.reasons(op, tensors)
        doubts = [] if reasons or forced != "auto" else backend.doubts(op, tensors)
        if not reasons and not doubts and forced in ("auto", backend.name) and not taken:
            verdict, taken = "chosen" if forced == "auto" else "chosen by JCA_FAST_BACKEND", True
        elif doubts:
            verdict = 'can serve, not taken by "auto": ' + "; ".join(doubts)
        else:
            verdict = (
                "cannot serve: " + "; ".join(reasons) if reasons else "can serve, not first choice"
            )
        lines.append(f"  {backend.name:<10} {verdict}")
    return "\n".join(lines)
