"""Helpers of the training tests: a tiny planted set, a tiny model, runs in separate processes."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import torch

from jca_fast.data import synthesize

REPOSITORY = Path(__file__).resolve().parents[1]
PRELOAD = [
    "torch._inductor",
    "jca_fast.training.trainer",
    "jca_fast.training.predict",
    "jca_fast.compat.native",
    "jca_fast.data.synthetic",
    "h5py",
    "training_tools",
]
"""The modules of the process from which tests fork the runs that they kill."""

MODEL = {"form": "released", "audio_dim": 4, "visual_dim": 4, "num_layers": 1}


def make_data(root: Path) -> Path:
    """34 training, 7 validation and 7 test clips of 4 segments, narrow features."""
    return synthesize(
        root,
        num_clips=48,
        num_segments=4,
        audio_dim=6,
        visual_dim=5,
        grid=(2, 2),
        noise=0.3,
        dtype="float32",
    )


def settings(data: Path, out: Path, **more: Any) -> dict[str, Any]:
    """Arguments of Config for a short run with dropout, a moving learning rate and an uneven last
    batch."""
    common = {
        "epochs": 3,
        "batch_size": 8,
        "lr": 0.01,
        "plateau_patience": 0,
        "progress": False,
        "model": MODEL,
    }
    return {"data": str(data), "out": str(out), "device": "cpu", **common, **more}


def train_here(**arguments: Any) -> dict[str, Any]:
    """Trains in this process, on one thread: models this small are several times slower on two."""
    from jca_fast.training import Config, run_training

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run_training(Config(**arguments))
    finally:
        torch.set_num_threads(threads)


def environment(**more: str) -> dict[str, str]:
    """For a separate process: one thread, the package importable from the checkout too."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **more}


def weights(path: Path) -> dict[str, torch.Tensor]:
    """The model's weights in a checkpoint."""
    return torch.load(path, weights_only=True)["model"]


def csv_rows(path: Path) -> list[dict[str, str]]:
    """metrics.csv without the columns of clock times."""
    with path.open(newline="") as file:
        return [
            {k: v for k, v in row.items() if k not in ("seconds", "time")}
            for row in csv.DictReader(file)
        ]


def assert_same_run(out: Path, reference: Path) -> None:
    """Both runs ended with the same bits in last.pt and best.pt and the same rows in
    metrics.csv."""
    for name in ("last.pt", "best.pt"):
        found, wanted = weights(out / name), weights(reference / name)
        differing = [key for key in wanted if not torch.equal(found[key], wanted[key])]
        assert not differing, f"{name}: {differing} differ"
    assert csv_rows(out / "metrics.csv") == csv_rows(reference / "metrics.csv")
    assert not list(out.glob(".*.tmp"))
