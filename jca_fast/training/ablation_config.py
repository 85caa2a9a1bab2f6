"""The settings of `jca-fast ablate`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jca_fast.reading import user_path
from jca_fast.training.config import RECIPES
from jca_fast.training.settings import check_values, option

PLANTED: dict[str, Any] = {
    "form": "paper",
    "scale": 8,
    "epochs": 25,
    "batch_size": 32,
    "recipe": "default",
}
"""The settings without --data."""

PROTOCOL: dict[str, Any] = {
    "form": "released",
    "scale": 1,
    "epochs": 300,
    "batch_size": 64,
    "recipe": "published",
}
"""The settings with --data: those of the released training code, at the published size."""

SMALLEST_DIM = 128
"""The smallest d_a and d_v of the tables; a Bi-LSTM needs an even number of channels."""

CLIPS = 1200
"""The number of clips of the planted set."""


@dataclass
class Ablation:
    """Settings of an ablation; ValueError names a setting of the wrong type or out of range.

    0 or "" stands for the value of ``PLANTED`` or ``PROTOCOL``.
    """

    table: int = option(3, "table of the paper", choices=(2, 3, 4, 5), free=True, required=True)
    seeds: int = option(3, "trainings of each row", low=1, free=True)
    data: str = option("", "folder with features in the published layout (default: Planted AVE)")
    out: str = option("runs/ablate", "folder for data, trainings and tables", free=True)
    form: str = option(
        "",
        "paper or released (default: paper; with --data released)",
        choices=("", "paper", "released"),
    )
    scale: int = option(0, "divide the paper's d_a and d_v by this; 0: 8, with --data 1", low=0)
    epochs: int = option(0, "passes over the training clips; 0: 25, with --data 300", low=0)
    batch_size: int = option(0, "clips per step; 0: 32, with --data 64", low=0)
    recipe: str = option(
        "",
        "recipe of jca-fast train (default: default; with --data published)",
        choices=("", *RECIPES),
    )
    clips: int = option(CLIPS, "clips of the planted set", low=8)
    device: str = option("auto", "auto, cpu, cuda or cuda:<index>", free=True)
    progress: bool | None = option(None, "progress bar (default: on a terminal)", free=True)

    def __post_init__(self) -> None:
        check_values(self)
        if self.data and self.clips != CLIPS:
            raise ValueError(
                f"clips: {self.clips} given, but {self.data} is used whole; needed: one of them"
            )
        for name, value in (PROTOCOL if self.data else PLANTED).items():
            setattr(self, name, getattr(self, name) or value)
        if SMALLEST_DIM % (2 * self.scale):
            raise ValueError(f"scale: must divide {SMALLEST_DIM // 2}, got {self.scale}")

    def shared(self) -> dict[str, Any]:
        """The settings that all tables of a folder share."""
        fields = dataclasses.fields(self)
        return {f.name: getattr(self, f.name) for f in fields if not f.metadata["free"]}

    def folder(self) -> Path:
        """The folder of the data."""
        return user_path(self.data or Path(self.out) / "data")
