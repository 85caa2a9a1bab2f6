"""AVE data: annotations and labels, datasets, checks, the memory-mapped cache, and the planted set.

Most names are loaded on first use, so that `import jca_fast.data` needs neither h5py nor torch.
"""

from __future__ import annotations

import importlib

from .prepare import prepare as prepare  # now, or the module of that name would hide it later

_HOME = {
    "BACKGROUND": "annotations",
    "CATEGORIES": "annotations",
    "Event": "annotations",
    "foreground_labels": "annotations",
    "mil_labels": "annotations",
    "read_annotations": "annotations",
    "segment_labels": "annotations",
    "AVEDataset": "ave",
    "check": "checks",
    "synthesize": "synthetic",
}

__all__ = sorted([*_HOME, "prepare"])


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
