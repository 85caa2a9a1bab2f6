"""The committed table of launch configurations."""

from __future__ import annotations

from typing import NamedTuple


class Config(NamedTuple):
    """Tile rows and columns of the affinity matrix, warps and pipeline stages of one launch."""

    rows: int
    columns: int
    warps: int
    stages: int


def forward(arch: str, tier: str, rows: int, block: int) -> Config:
    return {"half": Config(128, 64, 4, 2), "tf32": Config(128, 64, 8, 2), "exact": Config(128, 64, 8, 1)}[tier]


def backward(arch: str, tier: str, columns: int, block: int) -> Config:
    return {"half": Config(64, 128, 8, 1), "tf32": Config(32, 128, 8, 1), "exact": Config(32, 128, 8, 1)}[tier]


def layer(arch: str, tier: str, rows: int, block: int) -> Config:
    return forward(arch, tier, rows, block)
