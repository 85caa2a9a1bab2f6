"""The committed table of launch configurations.

Fixed, not timed at run time: a timed choice would change the order of sums, and so the bits, from process to process.
Keys are the architecture class, the precision tier, the work (rows or columns in all samples: small batches take
smaller tiles, so that there are programs for the whole chip) and, in the backward, dropout. Every entry is free of
spills on its chips (``jca-fast gpu-audit``); none has been timed on a GPU yet.
"""

from __future__ import annotations

from typing import NamedTuple


class Config(NamedTuple):
    """Tile rows and columns of the affinity matrix, warps and pipeline stages of one launch."""

    rows: int
    columns: int
    warps: int
    stages: int


SMALL = 8192
"""Rows, or columns, up to which a launch takes small tiles: 64 tiles of 128."""

_FORWARD = {
    ("half", "large"): {"": Config(128, 64, 4, 2)},
    ("half", "small"): {"": Config(32, 32, 2, 2)},
    ("tf32", "large"): {"": Config(128, 64, 8, 2), "sm100": Config(128, 64, 4, 2)},
    ("tf32", "small"): {"": Config(32, 32, 2, 2)},
    ("exact", "large"): {"": Config(128, 32, 8, 1), "sm90": Config(128, 64, 8, 1), "sm100": Config(128, 64, 8, 1)},
    ("exact", "small"): {"": Config(64, 32, 4, 1), "sm120": Config(128, 32, 8, 1)},
}
_BACKWARD = {
    ("half", "large"): {"": Config(32, 128, 8, 1), "sm90": Config(64, 128, 8, 1), "sm100": Config(64, 64, 4, 2)},
    ("half", "small"): {"": Config(32, 32, 2, 1)},
    ("tf32", "large"): {"": Config(16, 128, 8, 1), "sm90": Config(32, 128, 8, 1), "sm100": Config(32, 128, 8, 1)},
    ("tf32", "small"): {"": Config(16, 64, 4, 1)},
    ("exact", "large"): {"": Config(16, 128, 8, 1), "sm90": Config(32, 128, 8, 1)},
    ("exact", "small"): {"": Config(16, 64, 4, 1), "sm100": Config(16, 32, 2, 1)},
}


def forward(architecture: str, tier: str, rows: int) -> Config:
    """The tile of a forward launch, of tanh attention or a layer, over ``rows`` rows in all samples."""
    return _find(_FORWARD, architecture, tier, rows)


def backward(architecture: str, tier: str, columns: int) -> Config:
    """The tile of a backward launch over ``columns`` columns in all samples."""
    return _find(_BACKWARD, architecture, tier, columns)


def _find(entries: dict[tuple[str, str], dict[str, Config]], architecture: str, tier: str, work: int) -> Config:
    """The entry of an architecture class, or the one that serves all others."""
    found = entries[tier, "small" if work <= SMALL else "large"]
    return found.get(architecture, found[""])
