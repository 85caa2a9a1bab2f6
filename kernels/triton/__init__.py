"""GPU kernels in Triton; a launcher for each op."""

from __future__ import annotations

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
    "joint_affinity",
    "joint_affinity_backward",
    "joint_coattention",
    "joint_coattention_backward",
    "released_attention",
    "released_attention_backward",
    "tanh_attention",
    "tanh_attention_backward",
    "visual_reduction",
    "visual_reduction_backward",
]
