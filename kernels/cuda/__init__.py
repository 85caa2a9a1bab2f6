"""GPU kernels in CUDA C++, registered with PyTorch's dispatcher by ``binding/ops.cpp``.

A call makes a plan of its launches (``plan.h``) and sends it through the driver API (``launch.h``).
A launcher loads the library, which puts the C++ kernel behind ``torch.ops.jca_fast.<op>.cuda``, and
passes the call to that kernel. Later calls reach the kernel directly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .native import describe, problem

__all__ = [
    "describe",
    "joint_affinity",
    "joint_affinity_backward",
    "joint_coattention",
    "joint_coattention_backward",
    "problem",
    "released_attention",
    "released_attention_backward",
    "tanh_attention",
    "tanh_attention_backward",
    "visual_reduction",
    "visual_reduction_backward",
]

_CUDA = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)


def _launcher(name: str) -> Callable[..., Any]:
    def launch(*args: Any) -> Any:
        if why := problem():
            raise RuntimeError(why)
        return getattr(torch.ops.jca_fast, name).cuda.redispatch(_CUDA, *args)

    return launch


joint_affinity = _launcher("joint_affinity")
joint_affinity_backward = _launcher("joint_affinity_backward")
joint_coattention = _launcher("joint_coattention")
joint_coattention_backward = _launcher("joint_coattention_backward")
released_attention = _launcher("released_attention")
released_attention_backward = _launcher("released_attention_backward")
tanh_attention = _launcher("tanh_attention")
tanh_attention_backward = _launcher("tanh_attention_backward")
visual_reduction = _launcher("visual_reduction")
visual_reduction_backward = _launcher("visual_reduction_backward")
