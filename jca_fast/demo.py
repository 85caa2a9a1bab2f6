"""`jca-fast demo`: plants a small data set, trains on it, scores it and draws pictures.

The planted set needs both sound and picture (see `jca_fast.data.planted`), so the joint model must
beat both models of one modality. The settings are not those of the paper but suit a demonstration
of a minute or two on two cores: narrow features, two fusion layers, cross-entropy, and features
that are not normalised (`normalize=False`), so that the attention over regions sharpens within a
few epochs.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from jca_fast.atomic import write_json
from jca_fast.reading import user_path

SUMMARY = "demo.json"
CLIPS = 1200
MODALITIES = {"both": "joint", "audio": "audio only", "visual": "visual only"}

DATA: dict[str, Any] = {"visual_dim": 128, "dtype": "float32"}
MODEL: dict[str, Any] = {
    "audio_dim": 64,
    "visual_dim": 64,
    "num_layers": 2,
    "dropout": 0.3,
    "rnn_dropout": 0.2,
    "normalize": False,
}
TRAINING: dict[str, Any] = {
    "batch_size": 32,
    "lr": 2e-3,
    "weight_decay": 1e-4,
    "loss": "cross_entropy",
    "plateau": "none",
    "device": "cpu",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `jca-fast demo`."""
    parser.add_argument(
        "-o",
        "--out",
        type=user_path,
        default="runs/demo",
        metavar="DIR",
        help="folder to write (default: runs/demo)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of data, weights and order of clips (default: 0)"
    )
    parser.add_argument(
        "--clips",
        type=int,
        help="clips of the planted set, 28 or more (default: 1200, with --video 200)",
    )
    parser.add_argument(
        "--video",
        action="store_true",
        help="begin with video files: render, extract, train, and localize one of them",
    )
    parser.add_argument(
        "--epochs", type=int, default=15, help="passes over the training clips (default: 15)"
    )


def run(args: argparse.Namespace) -> int:
    """Plants a set, trains and scores three models, draws pictures, and writes demo.json."""
    if args.video:
        return importlib.import_module("jca_fast.video.demo").run(args)
    args.clips = CLIPS if args.clips is None else args.clips
    check(args)
    out = Path(args.out)
    claim(out)
    with one_thread():
        demonstrate(args, out)
    return 0


def check(args: argparse.Namespace, clips: int = 28) -> None:
    """Raises ValueError for a number that is too small."""
    for name, value, low in (
        ("seed", args.seed, 0),
        ("clips", args.clips, clips),
        ("epochs", args.epochs, 1),
    ):
        if value < low:
            raise ValueError(f"--{name} must be at least {low}, got {value}")


def demonstrate(args: argparse.Namespace, out: Path) -> None:
    """Runs the steps of the demo and prints a line for each."""
    start = time.perf_counter()
    print(f"jca-fast demo in {out}, seed {args.seed}", flush=True)
    with step("planted set", f"{args.clips} clips of 10 segments, 28 events and background"):
        plant(out / "data", args.clips, args.seed)
    results = train_all(out, args.epochs, args.seed)
    with step("pictures", "attention, time line and maps of 3 clips"):
        pictures = draw(out)
    summary = summarize(results, args, backends(out), time.perf_counter() - start)
    print(table(summary))
    print(f"{len(pictures)} pictures in {out / 'pictures'}, all numbers in {out / SUMMARY}")
    write_summary(
        out, {"status": "finished", **summary, "pictures": [str(path) for path in pictures]}
    )


def claim(out: Path) -> None:
    """Makes the folder of the demo; refuses a folder that holds other files than a demo's."""
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"--out {out}: is a file; needed: a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / SUMMARY).is_file():
        raise FileExistsError(
            f"--out {out}: holds other files; needed: a new or empty folder, or that of a demo"
        )
    out.mkdir(parents=True, exist_ok=True)
    write_summary(out, {"status": "running"})


def write_summary(out: Path, summary: dict[str, Any]) -> None:
    """Writes demo.json, whole or not at all."""
    write_json(out / SUMMARY, summary)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Runs torch on one thread inside the context.

    The arrays are so small that on two busy cores the demo took 38 s with one thread and 361 s with
    two.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def step(name: str, details: str) -> Iterator[None]:
    """Prints a line on a step with its seconds; on a terminal also at its start, above the bar."""
    line, back = f"  {name:<12} {details:<56}", ""
    if sys.stdout.isatty():
        print(line, flush=True)
        back = "\033[F"  # to the start of the line above
    start = time.perf_counter()
    yield
    print(f"{back}{line}{time.perf_counter() - start:6.1f} s", flush=True)


def plant(root: Path, clips: int, seed: int) -> None:
    """Makes the planted set."""
    from jca_fast.data.synthetic import synthesize

    synthesize(root, num_clips=clips, seed=seed, overwrite=True, **DATA)


def train_all(out: Path, epochs: int, seed: int) -> dict[str, dict[str, Any]]:
    """Trains and scores the joint model in this process, and beside it, if there is a second core,
    the models of one modality in another.

    Returns the dict of `evaluate_checkpoint` by modalities.
    """
    names = f"{', '.join(MODALITIES.values())}: {epochs} epochs each"
    with step("training", names), contextlib.ExitStack() as stack:
        train = functools.partial(train_one, out, epochs=epochs, seed=seed)
        others = [modalities for modalities in MODALITIES if modalities != "both"]
        if len(os.sched_getaffinity(0)) == 1:
            return {modalities: train(modalities) for modalities in MODALITIES}
        spawn = multiprocessing.get_context("spawn")  # a fork of a process with threads can hang
        pool = stack.enter_context(ProcessPoolExecutor(1, spawn))
        found = {modalities: pool.submit(train, modalities, bar=False) for modalities in others}
        return {"both": train("both")} | {name: future.result() for name, future in found.items()}


def train_one(
    out: Path, modalities: str, epochs: int, seed: int, bar: bool | None = None
) -> dict[str, Any]:
    """Trains and scores one model on one thread; the lines of the training go into train.log.

    Returns the dict of `evaluate_checkpoint`.
    """
    from jca_fast.training.config import Config
    from jca_fast.training.inference import evaluate_checkpoint
    from jca_fast.training.seeds import run_training

    folder = out / modalities
    folder.mkdir(exist_ok=True)
    model = {**MODEL, "modalities": modalities}
    config = Config(
        data=str(out / "data"),
        out=str(folder),
        model=model,
        epochs=epochs,
        seed=seed,
        resume=False,
        progress=bar,
        **TRAINING,
    )
    path = folder / "train.log"
    with one_thread(), path.open("w", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        run_training(config)
        return evaluate_checkpoint(folder, out / "data", device="cpu")


def draw(out: Path) -> list[Path]:
    """The pictures of the joint model."""
    from jca_fast.visualize.draw import visualize

    return visualize(out / "both", out / "data", out / "pictures")


def backends(out: Path) -> list[str]:
    """`<op>: <backend>` for every op of this library that the joint model calls."""
    import torch

    from jca_fast.data.ave import AVEDataset
    from jca_fast.training.checkpoint import load_model
    from jca_fast.training.distributed import Group
    from jca_fast.training.inference import backends_used
    from jca_fast.training.objective import Objective

    model, _ = load_model(out / "both")
    group = Group(torch.device("cpu"))
    return backends_used(Objective(model), AVEDataset(out / "data", "test")[0], group, "float32")


def summarize(
    results: dict[str, dict[str, Any]], args: argparse.Namespace, used: list[str], seconds: float
) -> dict[str, Any]:
    """All numbers of the demo."""
    joint = results["both"]
    return {
        "seed": args.seed,
        "clips": args.clips,
        "epochs": args.epochs,
        "test_clips": joint["num_clips"],
        "accuracy": {
            name: results[modalities]["accuracy"] for modalities, name in MODALITIES.items()
        },
        "majority": joint["majority_baseline"],
        "pointing_game": joint["pointing_game"],
        "backends": used,
        "seconds": round(seconds, 1),
    }


def table(summary: dict[str, Any]) -> str:
    """The numbers of `summarize` in at most 80 columns."""
    accuracy, game = summary["accuracy"], summary["pointing_game"]
    segments = f"{summary['test_clips']} test clips, all segments"
    rows = [
        ("joint co-attention", accuracy["joint"], f"accuracy on {segments}"),
        ("audio only", accuracy["audio only"], "same recipe, without the picture"),
        ("visual only", accuracy["visual only"], "same recipe, without the sound"),
        ("most frequent class", summary["majority"], "baseline without any input"),
    ]
    if game["segments"]:
        note = f"most attended region; by chance {100 * game['chance']:.1f} %"
        rows.append(("pointing game", game["accuracy"], note))
    lines = [f"  {name:<20}{100 * share:6.1f} %   {note}" for name, share, note in rows]
    names = sorted({entry.split(": ")[1] for entry in summary["backends"]})
    lines.append(f"  {'backend':<20}{', '.join(names)} (see jca-fast doctor)")
    lines.append(f"  {'time':<20}{summary['seconds']:6.1f} s")
    return "\n".join(["", *lines, ""])
