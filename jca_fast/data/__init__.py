"""AVE data: annotations and labels, datasets, checks, the memory-mapped cache, and the planted set.

Most names are loaded on first use, so that `import jca_fast.data` imports neither h5py nor torch.
"""

from __future__ import annotations

from jca_fast._lazy import names_of

# This import comes first. Otherwise the module of the same name would hide the function.
from .prepare import prepare as prepare

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
    "prepare": "prepare",
    "synthesize": "synthetic",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = names_of(__name__, _HOME)
