"""The committed table of launch configurations, in ``configurations.py``, and how a launch finds its entry.

Fixed, not timed at run time: a timed choice would change the order of sums, and so the bits, from process to process.
A key is the direction, the precision tier, the padded sizes ("narrow": the paper's and the released form's, "wide": any
other) and the work, rows or columns in all samples (small batches take smaller tiles, so that there are programs for
the whole chip); in each entry an architecture class may have a tile of its own. Entries were chosen by compiling, so
that they keep within the registers and the shared memory of their chips (``jca-fast gpu-audit`` lists which do not);
none has been timed on a GPU.
"""

from __future__ import annotations

from typing import NamedTuple

from .configurations import ENTRIES


class Config(NamedTuple):
    """Tile rows and columns of the affinity matrix, warps and pipeline stages of one launch."""

    rows: int
    columns: int
    warps: int
    stages: int


SMALL = 8192
"""Rows, or columns, up to which a launch takes small tiles: 64 tiles of 128."""


def forward(architecture: str, tier: str, rows: int, segments: int, width: int) -> Config:
    """The tile of a forward launch, of tanh attention or a layer, over ``rows`` rows in all samples."""
    return _find(("forward", tier, sizes(tier, segments, width), work(rows)), architecture)


def backward(architecture: str, tier: str, columns: int, segments: int, width: int) -> Config:
    """The tile of a backward launch over ``columns`` columns in all samples."""
    return _find(("backward", tier, sizes(tier, segments, width), work(columns)), architecture)


def sizes(tier: str, segments: int, width: int) -> str:
    """The class of padded sizes: "narrow" where N fits in 16 slots, in tier "exact" 3 N in 32, and D in 32."""
    return "narrow" if segments <= (10 if tier == "exact" else 16) and width <= 32 else "wide"


def work(size: int) -> str:
    """The class of a number of rows or columns in all samples."""
    return "small" if size <= SMALL else "large"


def _find(key: tuple[str, str, str, str], architecture: str) -> Config:
    """The entry of an architecture class, or the one that serves all others."""
    found = ENTRIES[key]
    return Config(*found.get(architecture, found[""]))
