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

INTERPRETED = triton.knobs.runtime.interpret
DEVICES = ("cuda", "cpu") if INTERPRETED else ("cuda",)
"""The types of devices whose tensors the launchers take."""
PTXAS = (12, 9)
"""The oldest assembler that is accepted. With 12.8, which Triton 3.6 brings, layers of few channels
were wrong on an H200 or read outside shared memory; with 13.0, or unoptimised, they were right."""


def problem() -> str:
    """Why these kernels cannot run on this machine; "" where they can."""
    if torch.version.hip:
        return "it is not offered on ROCm"
    if not INTERPRETED and tuple(map(int, _ptxas().split("."))) < PTXAS:
        needed = ".".join(map(str, PTXAS))
        return (
            f"ptxas {_ptxas()} compiles the kernels wrongly; needed: {needed} or newer, by a newer "
            "triton or TRITON_PTXAS_PATH=/usr/local/cuda/bin/ptxas"
        )
    return ""


def _ptxas() -> str:
    """The version of the assembler that Triton calls."""
    return str(triton.knobs.nvidia.ptxas.version)


def describe() -> str:
    """One line for reports."""
    return f"triton {triton.__version__}, ptxas {_ptxas()}"
