"""jca_fast: Joint Co-Attention for audio-visual fusion, fast and small.

>>> from jca_fast import JointCoAttention
>>> fusion = JointCoAttention(audio_dim=512, visual_dim=512, num_segments=10)
>>> audio, visual = fusion(audio, visual)  # (B, 10, 512) each
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__

_PUBLIC = {
    "AVELocalizer": "jca_fast.models",
    "AudioGuidedReduction": "jca_fast.modules",
    "JointCoAttention": "jca_fast.modules",
    "explain": "jca_fast.functional",
    "joint_affinity": "jca_fast.functional",
    "joint_coattention": "jca_fast.functional",
    "tanh_attention": "jca_fast.functional",
    "visual_reduction": "jca_fast.functional",
}

if TYPE_CHECKING:
    from .functional import (
        explain,
        joint_affinity,
        joint_coattention,
        tanh_attention,
        visual_reduction,
    )
    from .models import AVELocalizer
    from .modules import AudioGuidedReduction, JointCoAttention

__all__ = [
    "AVELocalizer",
    "AudioGuidedReduction",
    "JointCoAttention",
    "__version__",
    "explain",
    "joint_affinity",
    "joint_coattention",
    "tanh_attention",
    "visual_reduction",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'jca_fast' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
