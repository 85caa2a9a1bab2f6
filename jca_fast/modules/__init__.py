"""nn.Modules: Joint Co-Attention in both forms, visual reductions, the residual recurrent block."""

from .joint_coattention import JointCoAttention
from .joint_feature import JOINT_STRATEGIES, JointFeature
from .paper_layer import PaperLayer
from .recurrent import ResidualRNN
from .released_layer import ReleasedLayer
from .visual_reduction import AdditiveReduction, AudioGuidedReduction, PooledReduction
from .windows import cut_windows, join_windows, window_lengths, window_starts

__all__ = [
    "JOINT_STRATEGIES",
    "AdditiveReduction",
    "AudioGuidedReduction",
    "JointCoAttention",
    "JointFeature",
    "PaperLayer",
    "PooledReduction",
    "ReleasedLayer",
    "ResidualRNN",
    "cut_windows",
    "join_windows",
    "window_lengths",
    "window_starts",
]
