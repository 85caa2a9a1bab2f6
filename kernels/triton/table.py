"""The block sizes and the tile of each launch.

The table in ``configurations.py`` is fixed and not tuned at run time. A timed choice would change
the order of sums, and so the bits, from process to process. ``benchmarks/gpu/tune.py`` rewrites it.
A key is the direction, the precision tier and a class of sizes:

* "narrow": the paper's and the released form's, N in one block of 16 slots (in tier "exact" 3 N in
  32) and D in 32;
* "small": the same with few rows or columns in all samples, whose tiles are smaller, so that
  there are enough programs for a chip;
* "wide": any other N and D that are one block each;
* "blocked": the rest, whose kernels walk blocks of N, or in the backward of D, inside a tile.

An entry may hold a tile for one architecture class. All entries fit into the registers and the
shared memory of their chips, which ``python -m benchmarks.audit`` checks. None has been timed on a
GPU.
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


class Tile(NamedTuple):
    """The compile-time constants of a kernel over tiles of the affinity matrix."""

    BM: int
    """Rows of a tile of the affinity matrix."""
    BN: int
    """Columns of a tile."""
    BK: int
    """Slots of one block of the contraction over N."""
    CHUNKS: int
    """Blocks of the contraction over N."""
    EXACT: bool
    """Whether the tier is "exact"."""
    DROPOUT: bool = False
    """Whether elements are dropped."""
    ALIGNED: bool = False
    """Whether all first columns in the mask are multiples of 32, see :mod:`.mask`."""
    BO: int = 0
    """Segments of one block of an output over N."""
    BD: int = 0
    """Value columns of one block."""
    VALUE_CHUNKS: int = 1
    """Blocks of value columns that one program walks."""


SMALL = 8192
"""Rows, or columns, up to which a launch takes small tiles: 64 tiles of 128."""
NARROW = {"half": 16, "tf32": 16, "exact": 10}
"""Most segments of a narrow launch."""
FORWARD_BLOCK = {"half": 128, "tf32": 64, "exact": 32}
"""Value columns of one program at most: wider tiles spill."""
BACKWARD_BLOCK = {"half": 64, "tf32": 32, "exact": 32}
"""Value columns, and segments, of one program of the backward at most."""
WIDE = {"half": (32, 64), "tf32": (32, 32), "exact": (16, 32)}
"""The largest N and D of a backward that is not "blocked"."""
LARGEST = {"half": (32, 128), "tf32": (32, 64), "exact": (16, 32)}
"""Most segments, and most attention width, of a layer that one program can hold in registers."""
SLOTS = 64
"""Slots of one block of a contraction at most: 128 spill."""
SINGLE_PASS = 32
"""Most segments of a backward in one pass: partial sums of dq take N / 32 of an (M, L) matrix."""
FINISH_REGISTERS = 128
"""Registers of the finish kernel. Without a limit ptxas takes 80 or 96, to fit one more program on
an SM, and spills a few."""
FINISH_REGISTERS_APART = 168
"""The same, if each modality is compiled separately."""

AFFINITY_TILE = (64, 64)
"""Rows and columns of a tile of joint_affinity, 4 warps: twice as many spill in tier "tf32"."""
AFFINITY_BACKWARD_COLUMNS = 32
"""Columns of a tile of its backward: twice as many spill in tier "exact"."""
AFFINITY_STAGES = {"half": 2, "tf32": 1, "exact": 1}
"""Pipeline stages of its backward: tiles of 16 bits are too small to keep the memory busy, and two
stages of float32 spill."""
AFFINITY_SINGLE_PASS = 16
"""Most segments of its backward in one pass: the products over more of them spill in "exact"."""
AFFINITY_SEGMENTS = 32
"""Segments that one program of two passes sums over at most: twice as many spill in "exact"."""
AFFINITY_PROGRAMS = 1024
"""Programs of its forward at least, if there are enough tiles: two for each slot of a chip."""

VISUAL_ELEMENTS = 4096
"""Elements of K that a warp of visual_reduction holds: 8 rows of 512. Twice as many spill."""
VISUAL_SCORES = 128
"""Most regions whose weights a program of visual_reduction normalises at a time."""


def contraction_blocks(size: int, exact: bool) -> tuple[int, int]:
    """Slots of one block (BK) and number of blocks (CHUNKS) of a contraction over segments."""
    slots = 3 * size if exact else size
    block = min(pad(slots), SLOTS)
    return block, cdiv(slots, block)


def forward(architecture: str, tier: str, rows: int, segments: int, width: int) -> Config:
    """The tile of a forward launch over ``rows`` rows, summed over the samples."""
    return _find("forward", tier, sizes(tier, rows, segments, width), architecture)


def backward(architecture: str, tier: str, columns: int, segments: int, width: int) -> Config:
    """The tile of a backward launch over ``columns`` columns, summed over the samples."""
    size = sizes(tier, columns, segments, width)
    if segments > WIDE[tier][0] or width > WIDE[tier][1]:
        size = "blocked"
    return _find("backward", tier, size, architecture)


def sizes(tier: str, work: int, segments: int, width: int) -> str:
    """The class of a launch over ``work`` rows or columns, with N segments and D value columns."""
    if segments <= NARROW[tier] and width <= 32:
        return "small" if work <= SMALL else "narrow"
    _, chunks = contraction_blocks(segments, tier == "exact")
    return "wide" if chunks == 1 else "blocked"


def single_pass(tier: str, segments: int) -> bool:
    """Whether one backward pass computes dq too, as partial sums; tier "exact" would spill."""
    return tier != "exact" and segments <= SINGLE_PASS


def layer_rows(segments: int, width: int) -> dict[str, int]:
    """Rows and warps of the prepare and finish kernels: the most rows that spill on no chip."""
    if segments <= 16 and width <= 32:
        return {"BM": 32, "num_warps": 4}
    return {"BM": 16, "num_warps": 8}


def region_chunk(width: int) -> dict[str, int]:
    """Rows of a chunk, padded channels and warps of visual_reduction: a warp for 1024 channels."""
    block = pad(width, 32)
    warps = max(1, block // 1024)
    rows = max(1, min(16, VISUAL_ELEMENTS * warps // block))
    return {"BR": rows, "BD": block, "num_warps": warps, "num_stages": 3}


def _find(direction: str, tier: str, size: str, architecture: str) -> Config:
    """The entry of an architecture class, or the one for all others."""
    found = ENTRIES[direction, tier, size]
    return Config(*found.get(architecture, found[""]))
