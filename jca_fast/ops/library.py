"""Schemas and fakes of the registered ops ``torch.ops.jca_fast.<op>.<backend>``.

Every backend is one overload of the same op, so a profile or a compiled graph shows which one ran.
Exported programs hold the overload "auto", which chooses a backend at each call of the program.
This module needs torch only; a backend's launchers are imported when one of its overloads first
runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from .backends import AUTO, BACKENDS, choose, find

_LAYER = (
    "Tensor[] inputs, Tensor[]? joints, Tensor[] w_j, Tensor[] w_x, Tensor[] w_c, Tensor[] w_h, "
    "float[] scales, float dropout_p, Tensor? seed"
)
_SCALE_AND_DROPOUT = "float scale, float dropout_p, Tensor? seed"
_QKV = "Tensor query, Tensor key, Tensor value"
_REGIONS = "Tensor query, Tensor regions"
_TWO, _THREE = "(Tensor, Tensor)", "(Tensor, Tensor, Tensor)"
SCHEMAS = {
    "tanh_attention": f"(Tensor q, Tensor k, Tensor v, {_SCALE_AND_DROPOUT}) -> Tensor",
    "tanh_attention_backward": (
        f"(Tensor grad_out, Tensor q, Tensor k, Tensor v, {_SCALE_AND_DROPOUT}) -> {_THREE}"
    ),
    "released_attention": f"({_QKV}, {_SCALE_AND_DROPOUT}) -> Tensor",
    "released_attention_backward": (
        f"(Tensor grad_out, Tensor out, {_QKV}, {_SCALE_AND_DROPOUT}) -> {_THREE}"
    ),
    "tanh_dropout": f"(Tensor scores, {_SCALE_AND_DROPOUT}) -> Tensor",
    "tanh_dropout_backward": f"(Tensor grad_out, Tensor out, {_SCALE_AND_DROPOUT}) -> Tensor",
    "joint_affinity": "(Tensor q, Tensor k, float scale) -> Tensor",
    "joint_affinity_backward": (
        f"(Tensor grad_c, Tensor q, Tensor k, Tensor c, float scale) -> {_TWO}"
    ),
    "joint_coattention": f"({_LAYER}, bool keep_maps, bool residual=True) -> Tensor[]",
    "joint_coattention_backward": (
        f"(Tensor[] grad_outs, Tensor[] maps, {_LAYER}, bool residual=True) -> Tensor[]"
    ),
    "visual_reduction": f"({_REGIONS}, float scale) -> {_TWO}",
    "visual_reduction_backward": (
        f"(Tensor grad_out, Tensor grad_weights, {_REGIONS}, Tensor weights, float scale, "
        f"bool need_regions) -> {_TWO}"
    ),
}
"""Name of each op and its schema; the maths of each is on its page in this folder."""
OPS = tuple(name for name in SCHEMAS if not name.endswith("_backward"))
"""The ops that users call; each has a backward in SCHEMAS."""


def _empty(like: Tensor, *shape: int | torch.SymInt) -> Tensor:
    return like.new_empty(shape)


def _fake_tanh_attention(q, k, v, scale, dropout_p, seed):
    return _empty(q, q.shape[0], q.shape[1], v.shape[2])


def _fake_tanh_attention_backward(grad_out, q, k, v, scale, dropout_p, seed):
    return _empty(q, *q.shape), _empty(k, *k.shape), _empty(v, *v.shape)


def _fake_released_attention(query, key, value, scale, dropout_p, seed):
    return _empty(query, *query.shape)


def _fake_released_attention_backward(grad_out, out, query, key, value, scale, dropout_p, seed):
    return _empty(query, *query.shape), _empty(key, *key.shape), _empty(value, *value.shape)


def _fake_tanh_dropout(scores, scale, dropout_p, seed):
    return _empty(scores, *scores.shape)


def _fake_tanh_dropout_backward(grad_out, out, scale, dropout_p, seed):
    return _empty(out, *out.shape)


def _fake_joint_affinity(q, k, scale):
    return _empty(q, q.shape[0], q.shape[1], k.shape[1])


def _fake_joint_affinity_backward(grad_c, q, k, c, scale):
    return _empty(q, *q.shape), _empty(k, *k.shape)


def _fake_joint_coattention(
    inputs, joints, w_j, w_x, w_c, w_h, scales, dropout_p, seed, keep_maps, residual=True
):
    maps = [_empty(x, x.shape[0], w.shape[0], x.shape[2]) for x, w in zip(inputs, w_x, strict=True)]
    return [_empty(x, *x.shape) for x in inputs] + (maps if keep_maps else [])


def _fake_joint_coattention_backward(
    grad_outs, maps, inputs, joints, w_j, w_x, w_c, w_h, scales, dropout_p, seed, residual=True
):
    groups = (inputs, joints or [], w_j, w_x, w_c, w_h)
    return [_empty(t, *t.shape) for group in groups for t in group]


def _fake_visual_reduction(query, regions, scale):
    return _empty(query, *query.shape), _empty(query, *regions.shape[:2])


def _fake_visual_reduction_backward(
    grad_out, grad_weights, query, regions, weights, scale, need_regions
):
    return _empty(query, *query.shape), _empty(regions, *(regions.shape if need_regions else (0,)))


def _launcher(backend: str, module: str, function: str) -> Callable[..., Any]:
    """Call ``module.function``, importing the module at the first call."""

    def launch(*args):
        kernels = importlib.import_module(module)
        try:
            kernel = getattr(kernels, function)
        except AttributeError:
            raise RuntimeError(f"backend {backend!r} has no kernel for {function}") from None
        return kernel(*args)

    return launch


def _contiguous(result):
    """Outputs are contiguous, as the fakes promise, whatever layout plain PyTorch chose."""
    if isinstance(result, Tensor):
        return result.contiguous()
    return type(result)(t.contiguous() for t in result)


def _reference(function: str) -> Callable[..., Any]:
    from . import reference

    formula = getattr(reference, function)

    def launch(*args):
        with torch.no_grad():  # the Functions around the ops record for autograd
            return _contiguous(formula(*args))

    return launch


def with_lists(op: str, args: Sequence[Any]) -> Sequence[Any]:
    """The arguments of an op with an empty list of joints in place of None.

    PyTorch's ahead-of-time compiler turns an empty list into None.
    """
    place = _JOINTS.get(op)
    if place is None or args[place] is not None:
        return args
    return (*args[:place], [], *args[place + 1 :])


_JOINTS = {"joint_coattention": 1, "joint_coattention_backward": 3}
"""The ops with a list of joints, and its position among their arguments."""


def _chosen(op: str) -> Callable[..., Any]:
    """A launcher that calls the backend chosen for its tensors."""

    def launch(*args):
        tensors = [t for t in tree_flatten(args)[0] if isinstance(t, Tensor) and t.dtype != _SEED]
        backend = choose(op.removesuffix("_backward"), AUTO, tensors)
        return overload(op, backend)(*args)

    return launch


_SEED = torch.int64  # the dtype of the seed, which does not affect the choice


def _implementation(op: str, backend: str) -> Callable[..., Any]:
    if backend == AUTO:
        return _chosen(op)
    module = find(backend).module
    launch = _launcher(backend, module, op) if module else _reference(op)
    return (lambda *args: launch(*with_lists(op, args))) if op in _JOINTS else launch


def _batched(name: str) -> Callable[..., Any]:
    """The vmap rule of every op: one call for each mapped sample, each with its own seed where
    seeds are mapped.
    """

    def rule(info, in_dims, *args):
        leaves, spec = tree_flatten(args)
        dims = tree_flatten(in_dims, is_leaf=lambda d: d is None)[0]
        op = overload(*name.split("."))
        results = []
        for i in range(info.batch_size):
            sample = [t if d is None else t.select(d, i) for t, d in zip(leaves, dims, strict=True)]
            results.append(op(*tree_unflatten(sample, spec)))
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        stacked = type(results[0])(torch.stack(group) for group in zip(*results, strict=True))
        return stacked, type(stacked)(0 for _ in stacked)

    return rule


LIBRARY = torch.library.Library("jca_fast", "DEF")
OVERLOADS = (*(row.name for row in BACKENDS), AUTO)
"""The overloads of every op: the backends, and "auto"."""
for _op in SCHEMAS:
    for _backend in OVERLOADS:
        _name = f"{_op}.{_backend}"
        LIBRARY.define(_name + SCHEMAS[_op])
        LIBRARY.impl(_name, _implementation(_op, _backend), "CompositeExplicitAutograd")
        # register_fake does the same, but reads source files: 12 ms more at import
        LIBRARY.impl(_name, globals()[f"_fake_{_op}"], "Meta")
        torch.library.register_vmap(f"jca_fast::{_name}", _batched(_name), lib=LIBRARY)


def overload(op: str, backend: str) -> Callable[..., Any]:
    """The registered overload of ``op`` for ``backend``, or for "auto"."""
    return getattr(getattr(torch.ops.jca_fast, op), backend)
