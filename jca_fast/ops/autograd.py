"""Calls an op in one of three ways: recorded by autograd, as its plain formula, or unrecorded.

A *recorder* runs an op through its autograd Function. It is registered at the key Autograd of
PyTorch's dispatcher, so ``torch.ops.jca_fast.<op>.<backend>`` is differentiable wherever it is
called: in eager mode, inside a functorch transform, in a compiled, exported or traced program.
Public functions call the same recorder without the dispatcher, which halves the overhead of a call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

from . import reference
from .flops import MULTIPLY_ADDS, tell_counters
from .library import LIBRARY, OVERLOADS, SCHEMAS, overload, with_lists

_OVERLOADS: dict[tuple[str, str], Callable[..., Any]] = {}
"""The overload of each (op, backend or "auto"). A look-up in torch.ops takes a microsecond."""


def differentiable(
    op: str, recorder: Callable[..., Any], multiply_adds: Callable[..., int]
) -> Callable[..., Any]:
    """Give every backend of ``op`` its derivatives; returns ``call(backend, *args)``.

    ``recorder(backend, *args)`` runs the op, on the arguments of its schema, through a Function.
    In forward mode, while ``torch.jit.trace`` runs, and in an export to ONNX, the op runs as its
    plain PyTorch formula: autograd differentiates it in every mode, and the saved program loads
    without this package. ``multiply_adds`` counts those of the formula's matrix products.
    """
    MULTIPLY_ADDS[op] = multiply_adds
    formula, backward = getattr(reference, op), op.endswith("_backward")

    def record_or_run(backend: str, *args: Any) -> Any:
        if forward_ad._current_level >= 0 or torch._C._get_tracing_state() is not None:
            return formula(*args)
        if torch._C._len_torch_dispatch_stack():
            tell_counters(op)
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            return recorder(backend, *args)
        with torch._C._AutoDispatchBelowAutograd():
            return _OVERLOADS[op, backend](*args)

    def registered(backend: str, *args: Any) -> Any:
        if _in_forward_mode() or _any_tangent(args):
            return plain(*args)
        return record_or_run(backend, *with_lists(op, args))

    def plain(*args: Any) -> Any:
        return formula(*with_lists(op, args))

    def call(backend: str, *args: Any) -> Any:
        if torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export():
            return plain(*args)
        # A graph enters the level of forward mode unseen by Python, so it holds the formula.
        if torch.compiler.is_compiling() and forward_ad._current_level >= 0:
            return plain(*args)
        # Compilers and transforms see one operator; each level of a transform calls the recorder.
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return _OVERLOADS[op, backend](*args)
        # A vjp may be pulled after its transform has ended: the dispatcher unwraps what it saved.
        if backward and _any_wrapped(args):
            return _OVERLOADS[op, backend](*args)
        return record_or_run(backend, *args)

    for backend in OVERLOADS:
        _OVERLOADS[op, backend] = overload(op, backend)
        LIBRARY.impl(f"{op}.{backend}", partial(registered, backend), "Autograd")
        if "Tensor[]" in SCHEMAS[op]:  # PyTorch's loop over batched gradients rejects lists
            LIBRARY.impl(f"{op}.{backend}", plain, "Batched")
    return call


def _in_forward_mode() -> bool:
    """Whether the current level of a functorch transform is that of a jvp."""
    level = torch._C._functorch.peek_interpreter_stack()
    return level is not None and level.key() == torch._C._functorch.TransformType.Jvp


class _Probe(torch.autograd.Function):
    """Has no jvp, so autograd refuses an argument with a tangent."""

    @staticmethod
    def forward(ctx, *args):
        return None


def _any_tangent(args: Sequence[Any]) -> bool:
    """Whether a tensor carries a tangent of forward mode.

    Inside a compiled or exported graph, Python does not see the level that the graph opened. The
    probe takes 3 microseconds for all tensors, unpacking 1.5 for each.
    """
    if torch._C._get_tracing_state() is not None:  # the trace would record the probe
        return False
    try:
        record(_Probe, *_flat(args))
    except NotImplementedError:
        return True
    return False


def _any_wrapped(args: Sequence[Any]) -> bool:
    """Whether a tensor belongs to a functorch transform, present or past."""
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    return any(isinstance(t, Tensor) and wrapped(t) for t in _flat(args))


def _flat(args: Sequence[Any]) -> Iterator[Any]:
    """The arguments, and the members of those that are lists."""
    return (t for a in args for t in (a if isinstance(a, (list, tuple)) else (a,)))


def run(op: str, backend: str, *args: Any) -> Any:
    """Run an op inside the forward of its Function, where gradients are off.

    The levels below that of a functorch transform have to record it nevertheless.
    """
    with torch._C._AutoDispatchBelowAutograd():
        if torch._C._functorch.peek_interpreter_stack() is None:
            return _OVERLOADS[op, backend](*args)
        with torch.enable_grad():
            return _OVERLOADS[op, backend](*args)


def needs_grad(*tensors: Tensor) -> bool:
    """Whether a call on these tensors has to be recorded."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def record(function: type[torch.autograd.Function], *args: Any) -> Any:
    """``function.apply(*args)`` at the current level of a functorch transform, if one is active.

    It skips the checks of ``apply``, which cost 15 microseconds.
    """
    if torch._C._functorch.peek_interpreter_stack() is not None:
        with enable_single_level_autograd_function():
            return _at_one_level(function).apply(*args)
    return super(torch.autograd.Function, function).apply(*args)  # type: ignore[misc]


@functools.cache
def _at_one_level(function: type[torch.autograd.Function]) -> Any:
    """The same Function without the dispatch through all levels, which `apply` does inside a
    transform from torch 2.14 on.
    """
    own = {name: value for name, value in vars(function).items() if isinstance(value, staticmethod)}
    return type(function.__name__, (_SingleLevelFunction,), own)


def vjp_of(
    formula: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], grads: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The vector-Jacobian product of a plain formula, itself differentiable to any order."""
    vjp = torch.func.vjp(lambda *args: tuple(formula(*args)), *inputs)[1]
    return vjp(tuple(grads))
