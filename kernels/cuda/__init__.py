"""GPU kernels in CUDA C++; a launcher for each op that has one.

A call makes a plan of its launches (``plan.h``) and sends it through the driver API (``launch.h``),
both in C++ behind ``torch.ops.jca_fast_cuda``. The launchers add the float32 precision.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jca_fast.ops.tiers import float32_tier

from .native import describe, problem

__all__ = ["describe", "problem", "tanh_attention", "tanh_attention_backward"]


def tanh_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, dropout_p: float, seed: Tensor | None
) -> Tensor:
    """q (B, M, N), k (B, L, N), v (B or 1, L, D) -> out (B, M, D)."""
    return _op("tanh_attention")(q, k, v, scale, dropout_p, seed, _is_tf32(q))


def tanh_attention_backward(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """grad_out (B, M, D) -> dq (B, M, N), dk (B, L, N), dv (B or 1, L, D)."""
    op = _op("tanh_attention_backward")
    return op(grad_out, q, k, v, scale, dropout_p, seed, _is_tf32(q))


@functools.cache
def _op(name: str) -> Callable[..., Any]:
    """The registered launcher. A look-up in torch.ops takes a microsecond."""
    return getattr(torch.ops.jca_fast_cuda, name).default


def _is_tf32(t: Tensor) -> bool:
    return t.dtype is torch.float32 and float32_tier() == "tf32"
