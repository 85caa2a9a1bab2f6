"""The table of backends. It decides which one runs a call, and explains why others do not.

``backend="auto"`` takes the first row with no reason and no caution against it, or the backend that
the environment variable ``JCA_FAST_BACKEND`` names. The row that recorded runs show to be the
fastest for the architecture, the tier and the size of a call comes first. A backend that is named
and cannot run raises an error with its reasons: nothing falls back silently. An exported program
keeps "auto", so that it chooses its backend when it runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .gpu import GpuKernels
from .launchers import problem
from .recorded import fastest

AUTO = "auto"
_VARIABLE = os.environ.encodekey("JCA_FAST_BACKEND")
Judge = Callable[[str, Sequence[Tensor]], list[str]]


def _none(op: str, tensors: Sequence[Tensor]) -> list[str]:
    return []


def _no_verdicts(index: int) -> dict[str, str]:
    return {}


@dataclass(frozen=True)
class Backend:
    """One implementation of the ops.

    Attributes:
        name: its name in ``backend=`` and in ``torch.ops.jca_fast.<op>.<name>``.
        summary: one line for ``jca-fast doctor``.
        module: holds a launcher named like each op, see :mod:`jca_fast.ops.backends.launchers`;
            None for the plain PyTorch formulas.
        reasons: lists why the backend cannot run an op on some tensors; empty where it can.
        cautions: reasons for "auto" to avoid a backend that an explicit request may use.
        device: the type of its devices; "" for any.
        verdicts: for each tier, whether "auto" uses its kernels on the device with that index;
            empty for a backend that needs no verdict.
    """

    name: str
    summary: str
    module: str | None
    reasons: Judge
    cautions: Judge = _none
    device: str = ""
    verdicts: Callable[[int], dict[str, str]] = _no_verdicts


def _on_cpu(name: str, module: str, summary: str) -> Backend:
    """The row of native CPU kernels."""

    def reasons(op: str, tensors: Sequence[Tensor]) -> list[str]:
        for tensor in tensors:
            if not tensor.is_cpu:
                return [f"it runs on CPU tensors, got {tensor.device}"]
        why = problem(module, op)
        return [why] if why else []

    return Backend(name, summary, module, reasons, device="cpu")


def _on_gpu(kernels: GpuKernels, summary: str) -> Backend:
    """The row of CUDA kernels, which "auto" uses only where they are known to be correct."""
    return Backend(
        kernels.name,
        summary,
        kernels.module,
        kernels.reasons,
        kernels.cautions,
        "cuda",
        kernels.verdicts,
    )


BACKENDS: tuple[Backend, ...] = (
    _on_cpu("cpu", "jca_fast.kernels.cpu", "native kernels on CPU tensors, in any floating dtype"),
    _on_gpu(
        GpuKernels("cuda", "jca_fast.kernels.cuda", modalities=12),
        "CUDA C++ kernels on CUDA tensors of compute capability 8.0 and newer, in float32, "
        "bfloat16 and float16",
    ),
    _on_gpu(
        GpuKernels("triton", "jca_fast.kernels.triton", region_channels=8192),
        "Triton kernels on CUDA tensors of compute capability 8.0 and newer, in float32, bfloat16 "
        "and float16",
    ),
    Backend("reference", "plain PyTorch on any device, in any floating dtype", None, _none),
)


def _in_order(op: str, tensors: Sequence[Tensor]) -> Sequence[Backend]:
    """The rows as "auto" tries them."""
    first = fastest(op, tensors)
    return sorted(BACKENDS, key=lambda row: row.name != first) if first else BACKENDS


def names() -> tuple[str, ...]:
    """The backends in the order in which "auto" tries them where no recorded run has another."""
    return tuple(backend.name for backend in BACKENDS)


def find(name: str) -> Backend:
    """The row called ``name``; ValueError lists the names."""
    for backend in BACKENDS:
        if backend.name == name:
            return backend
    raise ValueError(
        f"backend must be 'auto' or one of {', '.join(map(repr, names()))}; got {name!r}"
    )


def _default() -> str:
    """The backend that JCA_FAST_BACKEND names; "auto" where it is unset or empty."""
    # Where it is unset, `os.environ.get` raises and catches two errors: a fifth of a tiny call.
    if _VARIABLE not in getattr(os.environ, "_data", (_VARIABLE,)):
        return "auto"
    name = os.environ.get("JCA_FAST_BACKEND") or "auto"
    if name != "auto" and name not in names():
        raise ValueError(
            f"JCA_FAST_BACKEND must be 'auto' or one of {', '.join(map(repr, names()))}; "
            f"got {name!r}"
        )
    return name


def on_device(kind: str) -> tuple[Backend, ...]:
    """The rows with kernels for devices of type ``kind``, like "cuda"."""
    return tuple(backend for backend in BACKENDS if backend.module and backend.device == kind)


def choose(op: str, requested: str, tensors: Sequence[Tensor]) -> str:
    """The name of the backend that runs ``op``; RuntimeError with the reasons if none does.

    While ``torch.export`` runs and no backend is named, it is "auto".
    """
    if requested == AUTO:
        if torch.compiler.is_exporting():
            return AUTO
        requested = _default()
    if requested != "auto":
        backend = find(requested)
        if reasons := backend.reasons(op, tensors):
            raise RuntimeError(f"backend {backend.name!r} cannot run {op}: " + "; ".join(reasons))
        return backend.name
    for backend in _in_order(op, tensors):
        if not backend.reasons(op, tensors) and not backend.cautions(op, tensors):
            return backend.name
    raise RuntimeError(f"no backend can run {op}:\n{explain(*tensors, op=op)}")


def explain(*tensors: Tensor, op: str = "tanh_attention") -> str:
    """The backend that "auto" takes for ``op`` on these tensors, and reasons against the others.

    >>> print(explain(q, k, v))
    tanh_attention of (2, 6, 10) float32 cpu, ...
      reference  chosen
    """
    described = ", ".join(
        f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')} {t.device}" for t in tensors
    )
    lines = [f"{op} of {described}" if tensors else op]
    forced = _default()
    taken = False
    for backend in _in_order(op, tensors):
        reasons = backend.reasons(op, tensors)
        cautions = [] if reasons or forced != "auto" else backend.cautions(op, tensors)
        if reasons:
            verdict = "cannot run: " + "; ".join(reasons)
        elif cautions:
            verdict = 'can run, not taken by "auto": ' + "; ".join(cautions)
        elif taken or forced not in ("auto", backend.name):
            verdict = "can run, not first choice"
        else:
            verdict = "chosen" if forced == "auto" else "chosen by JCA_FAST_BACKEND"
            taken = True
        lines.append(f"  {backend.name:<10} {verdict}")
    return "\n".join(lines)
