"""GPU kernels in Triton; a launcher for each op."""

from __future__ import annotations

import torch
import triton

from .joint_affinity import joint_affinity, joint_affinity_backward
from .joint_coattention import joint_coattention, joint_coattention_backward
from .tanh_attention import (
    released_attention,
    released_attention_backward,
    tanh_attention,
    tanh_attention_backward,
)
from .visual_reduction import visual_reduction, visual_reduction_backward

__all__ = [
    "DEVICES",
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

DEVICES = ("cuda", "cpu") if triton.knobs.runtime.interpret else ("cuda",)
"""The types of devices whose tensors the launchers take."""


def problem() -> str:
    """Why these kernels cannot run on this machine; "" where they can."""
    return "it is not offered on ROCm" if torch.version.hip else ""


def describe() -> str:
    """One line for reports."""
    return f"triton {triton.__version__}"
