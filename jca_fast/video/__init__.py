"""Turns a video file into features and events. Names are loaded on first use.

The package needs the extra `video` (PyAV and soxr): `pip install 'jca-fast[video]'`.
"""

from __future__ import annotations

from jca_fast._lazy import names_of

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
__getattr__, __dir__ = names_of(__name__, _HOME)
