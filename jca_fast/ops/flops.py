"""Floating-point operations of every op, for ``torch.utils.flop_counter.FlopCounterMode``.

The formulas count the matrix products of :mod:`.reference`, two operations for each multiply-add,
as PyTorch counts its ops. Importing the counter of PyTorch takes a quarter of a second where Triton
is installed, so the formulas are added to a counter at its first op.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from .library import SCHEMAS


def tell_counters() -> None:
    """Add the formulas to every active FlopCounterMode."""
    if "torch.utils.flop_counter" not in sys.modules:
        return
    for mode in _get_current_dispatch_mode_stack():
        registry = getattr(getattr(mode, "counter", mode), "flop_registry", None)
        if registry is not None and torch.ops.jca_fast.tanh_attention not in registry:
            registry.update(_formulas())


def _formulas() -> dict[Any, Callable[..., int]]:
    """The formula of every op, with the signature that the counter calls."""
    return {getattr(torch.ops.jca_fast, op): _counting(globals()[f"_{op}"]) for op in SCHEMAS}


def _counting(formula: Callable[..., int]) -> Callable[..., int]:
    def count(*args: Any, out_val: Any, **kwargs: Any) -> int:
        return 2 * formula(*args, **kwargs)

    return count


def _tanh_attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, **options: Any) -> int:
    return q.shape[0] * q.shape[1] * k.shape[1] * (q.shape[2] + v.shape[2])


def _tanh_attention_backward(
    grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any, **options: Any
) -> int:
    return q.shape[0] * q.shape[1] * k.shape[1] * (3 * q.shape[2] + 2 * v.shape[2])


def _released_attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **options: Any) -> int:
    return 2 * query.numel() * key.shape[2]


def _released_attention_backward(
    grad_out: Tensor,
    out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *_: Any,
    **options: Any,
) -> int:
    return 5 * query.numel() * key.shape[2]


def _joint_affinity(q: Tensor, k: Tensor, *_: Any, **options: Any) -> int:
    return q.numel() * k.shape[1]


def _joint_affinity_backward(grad_c: Tensor, q: Tensor, k: Tensor, *_: Any, **options: Any) -> int:
    return 2 * q.numel() * k.shape[1]


Tensors = Sequence[Tensor]


def _joint_coattention(
    inputs: Tensors, joints: Tensors, w_j: Tensors, w_x: Tensors, w_c: Tensors, *_: Any, **rest: Any
) -> int:
    return sum(
        x.shape[0] * (n * n * d + x.shape[2] * (d * (n + k) + 2 * k * n))
        for x, (k, d), n in _layer_sizes(inputs, w_c)
    )


def _joint_coattention_backward(
    grad_outs: Tensors,
    maps: Tensors,
    inputs: Tensors,
    joints: Tensors,
    w_j: Tensors,
    w_x: Tensors,
    w_c: Tensors,
    *_: Any,
    **rest: Any,
) -> int:
    return sum(
        x.shape[0] * (3 * n * n * d + x.shape[2] * (d * (3 * n + 2 * k) + 4 * k * n))
        for x, (k, d), n in _layer_sizes(inputs, w_c)
    )


def _layer_sizes(inputs: Tensors, w_c: Tensors) -> list[tuple[Tensor, torch.Size, int]]:
    """X (B, N, d_x), the (k, d) of its attention, and N, for every modality."""
    return [(x, w.shape, x.shape[1]) for x, w in zip(inputs, w_c, strict=True)]


def _visual_reduction(query: Tensor, regions: Tensor, *_: Any, **options: Any) -> int:
    return 2 * regions.numel()


def _visual_reduction_backward(
    grad_out: Tensor, grad_weights: Tensor, query: Tensor, regions: Tensor, *_: Any, **options: Any
) -> int:
    return 2 * regions.numel()
