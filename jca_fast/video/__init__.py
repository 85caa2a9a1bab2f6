"""From a video file to features and events. Names are loaded on first use.

The package needs the extra `video` (PyAV and soxr): `pip install 'jca-fast[video]'`.
"""

from __future__ import annotations

import importlib

_HOME = {
    "Segment": "decode",
    "VideoError": "decode",
    "VideoReader": "decode",
    "Event": "events",
    "extract_videos": "extract",
    "localize_video": "localize",
    "log_mel": "logmel",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
