"""Published modules by name: same constructors, calls, results and state_dict keys, on the ops of this library.

================  ==================================================================================================
``released``      the authors' repository: ``DCNWithRCNN`` and its layers
``cam``           the emotion-recognition repositories in the paper's form: ``CAM``, ``Jcam_512``
``orig_cam``      their valence and arousal model in the released form: ``CAM``
``speaker``       the speaker verification repository: ``CAM``, ``FusionModel``
``rjcma``         three modalities: ``DCNLayer``
================  ==================================================================================================

:func:`from_state_dict` builds any of them from its weights alone, :func:`load_checkpoint` from a published file;
:func:`to_native` and :func:`to_published` convert between them and the modules of this library.
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
_MODULES = ("cam", "orig_cam", "released", "rjcma", "speaker")

if TYPE_CHECKING:
    from . import cam, orig_cam, released, rjcma, speaker
    from .checkpoint import Checkpoint, load_checkpoint, read_checkpoint
    from .native import to_native, to_published
    from .recognize import Recognized, from_state_dict

__all__ = [
    "Checkpoint",
    "Recognized",
    "cam",
    "from_state_dict",
    "load_checkpoint",
    "orig_cam",
    "read_checkpoint",
    "released",
    "rjcma",
    "speaker",
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
