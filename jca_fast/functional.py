"""The hot paths as functions: every one runs on every backend and has derivatives of any order."""

from .ops.backends import explain
from .ops.joint_affinity import joint_affinity
from .ops.joint_coattention import joint_coattention
from .ops.released_attention import released_attention as _released_attention  # noqa: F401
from .ops.tanh_attention import tanh_attention
from .ops.tanh_dropout import tanh_dropout as _tanh_dropout  # noqa: F401
from .ops.visual_reduction import visual_reduction

__all__ = ["explain", "joint_affinity", "joint_coattention", "tanh_attention", "visual_reduction"]
