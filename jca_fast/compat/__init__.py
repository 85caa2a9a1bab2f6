"""Published modules by name: same constructors, calls, results and state_dict keys.

Each repository has a namespace with its constructor defaults, so that only an import line changes:

==================================================  =============================================
``recursive_joint_co_attention``                    tuffr5: ``DCNWithRCNN`` and its layers
``jointcrossattentional_av_fusion``                 praveena2j: ``CAM``, N = 8
``joint_cross_attention_for_audio_visual_fusion``   praveena2j: ``CAM``, ``PaperCAM``, ``Jcam_512``
``recurrentjointattentionwithlstms``                praveena2j: ``CAM``, ``PaperCAM``, ``Jcam_512``
``rjcaforspeakerverification``                      praveena2j: ``CAM``, ``FusionModel``
``rjcma``                                           praveena2j: ``DCNLayer`` of three modalities
``abaw8``                                           praveena2j: ``GRJCA_cam``, ``HGRJCA_cam``
``dynamic_crossattention``                          praveena2j: ``CAM`` with gates
``pkdot``                                           haseebaslam95: ``CAM`` of one segment
``spiro``                                           closeatlast: ``DCNLayer`` without a query
==================================================  =============================================

Their base classes take every size as an argument: ``released``, ``cam``, ``orig_cam``,
``speaker``. :func:`from_state_dict` builds any of them from its weights alone,
:func:`load_checkpoint` from a published file; :func:`to_native` and :func:`to_published` convert
between them and the modules of this library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "Checkpoint": "checkpoint",
    "Recognized": "recognize",
    "from_state_dict": "recognize",
    "load_checkpoint": "checkpoint",
    "read_checkpoint": "checkpoint",
    "to_native": "native",
    "to_published": "native",
}
REPOSITORIES = (
    "abaw8",
    "dynamic_crossattention",
    "joint_cross_attention_for_audio_visual_fusion",
    "jointcrossattentional_av_fusion",
    "pkdot",
    "recurrentjointattentionwithlstms",
    "recursive_joint_co_attention",
    "rjcaforspeakerverification",
    "rjcma",
    "spiro",
)
_MODULES = (*REPOSITORIES, "cam", "orig_cam", "released", "speaker")

if TYPE_CHECKING:
    from . import (
        abaw8,
        cam,
        dynamic_crossattention,
        joint_cross_attention_for_audio_visual_fusion,
        jointcrossattentional_av_fusion,
        orig_cam,
        pkdot,
        recurrentjointattentionwithlstms,
        recursive_joint_co_attention,
        released,
        rjcaforspeakerverification,
        rjcma,
        speaker,
        spiro,
    )
    from .checkpoint import Checkpoint, load_checkpoint, read_checkpoint
    from .native import to_native, to_published
    from .recognize import Recognized, from_state_dict

__all__ = [
    "REPOSITORIES",
    "Checkpoint",
    "Recognized",
    "abaw8",
    "cam",
    "dynamic_crossattention",
    "from_state_dict",
    "joint_cross_attention_for_audio_visual_fusion",
    "jointcrossattentional_av_fusion",
    "load_checkpoint",
    "orig_cam",
    "pkdot",
    "read_checkpoint",
    "recurrentjointattentionwithlstms",
    "recursive_joint_co_attention",
    "released",
    "rjcaforspeakerverification",
    "rjcma",
    "speaker",
    "spiro",
    "to_native",
    "to_published",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
