"""How sizes are cut into blocks, and the tile of each launch, from the committed table in ``configurations.py``.

The table is fixed, not timed at run time: a timed choice would change the order of sums, and so the bits, from process
to process. ``benchmarks/gpu/tune.py`` rewrites it. A key is the direction, the precision tier and a class of sizes:

* "narrow": the paper's and the released form's, N in one block of 16 slots (in tier "exact" 3 N in 32) and D in 32;
* "small": the same with few rows or columns in all samples: smaller tiles, so that there are programs for the chip;
* "wide": any other N and D that are one block each;
* "blocked": the rest, whose kernels walk blocks of N, or in the backward of D, inside a tile.

In each entry an architecture class may have a tile of its own. Entries keep within the registers and the shared memory
of their chips, which ``jca-fast gpu-audit`` shows; none has been timed on a GPU.
"""

from __future__ import annotations

from typing import NamedTuple

from .configurations import ENTRIES
from .launch import cdiv, pad


class Config(NamedTuple):
    """Tile rows and columns of the affinity matrix, warps and pipeline stages of one launch."""

    rows: int
    columns: int
    warps: int
    stages: int


SMALL = 8192
"""Rows, or columns, up to which a launch takes small tiles: 64 tiles of 128."""
NARROW = {"half": 16, "tf32": 16, "exact": 10}
"""Most segments of a narrow launch."""
FORWARD_BLOCK = {"half": 128, "tf32": 64, "exact": 32}
"""Value columns of one program at most: wider values are cut into blocks, because wider tiles spill."""
BACKWARD_BLOCK = {"half": 64, "tf32": 32, "exact": 32}
"""Value columns, and segments, of one program of the backward at most."""
WIDE = {"half": (32, 64), "tf32": (32, 32), "exact": (16, 32)}
"""The largest N and D of a backward that is not "blocked"."""
SLOTS = 64
"""Slots of one block of a contraction at most: 128 spill."""


def contraction_blocks(size: int, exact: bool) -> dict[str, int]:
    """The blocks in which a contraction over ``size`` segments is done: slots of one block, number of blocks."""
    slots = 3 * size if exact else size
    block = min(pad(slots), SLOTS)
    return {"BK": block, "CHUNKS": cdiv(slots, block)}


def forward(architecture: str, tier: str, rows: int, segments: int, width: int) -> Config:
    """The tile of a forward launch, of tanh attention or a layer, over ``rows`` rows in all samples."""
    return _find("forward", tier, sizes(tier, rows, segments, width), architecture)


def backward(architecture: str, tier: str, columns: int, segments: int, width: int) -> Config:
    """The tile of a backward launch over ``columns`` columns in all samples."""
    size = sizes(tier, columns, segments, width)
    if segments > WIDE[tier][0] or width > WIDE[tier][1]:
        size = "blocked"
    return _find("backward", tier, size, architecture)


def sizes(tier: str, work: int, segments: int, width: int) -> str:
    """The class of a launch over ``work`` rows or columns in all samples, with N segments and D value columns."""
    if segments <= NARROW[tier] and width <= 32:
        return "small" if work <= SMALL else "narrow"
    return "wide" if contraction_blocks(segments, tier == "exact")["CHUNKS"] == 1 else "blocked"


def _find(direction: str, tier: str, size: str, architecture: str) -> Config:
    """The entry of an architecture class, or the one that serves all others."""
    found = ENTRIES[direction, tier, size]
    return Config(*found.get(architecture, found[""]))
