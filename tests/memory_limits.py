"""Commands under limits of the address space: one line of error, old files whole, nothing left.

    python tests/memory_limits.py --steps 12     # the campaign, about fifteen minutes

The limits lie between none and all of the address space that a command takes without a limit.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from training_tools import MODEL, make_data, settings, train_here
from video_tools import make_video

from jca_fast.compat.released import DCNWithRCNN
from jca_fast.data.record import read_record
from jca_fast.models import AVELocalizer
from jca_fast.training import checkpoint
from jca_fast.video.extract import extract_videos
from jca_fast.video.settings import Settings

OLD = b"an older file"

COMMAND = """
import re, resource, sys
from pathlib import Path
from jca_fast.cli import main
peak, limit, *arguments = sys.argv[1:]
if int(limit):
    resource.setrlimit(resource.RLIMIT_AS, (int(limit), int(limit)))
status = main(arguments)
kib = re.search("VmPeak:[^0-9]*([0-9]+)", Path("/proc/self/status").read_text())[1]
Path(peak).write_text(kib)
raise SystemExit(status)
"""


def commands(here: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Name -> (arguments, files that it replaces), in a folder made by `prepare`."""
    data = here / "data"
    run = here / "run"
    out = here / "out"
    video = here / "video.mkv"
    tiny = " ".join(f"{key}={value}" for key, value in MODEL.items())
    every = {
        "synth": (f"data synth {out}/set --num-clips 40 --visual-dim 64", []),
        "labels": (f"data labels {data}/Annotations.txt -o {out}/labels.h5", ["labels.h5"]),
        "check": (f"data check {data}", []),
        "prepare": (f"data prepare {data} --out {out}/prepared", []),
        "train": (f"train --data {data} --out {out}/r --epochs 1 --device cpu --model {tiny}", []),
        "evaluate": (f"evaluate {run} --data {data} --device cpu", []),
        "predict": (f"predict {run} --data {data} -o {out}/p.json --device cpu", ["p.json"]),
        "table": (f"predict {run} --data {here}/a.npz -o {out}/p.csv --device cpu", ["p.csv"]),
        "convert": (f"convert {here}/published.pt {out}/w.safetensors", ["w.safetensors"]),
        "visualize": (f"visualize {run} --data {data} --clips 1 -o {out}/pictures", []),
        "extract": (f"extract {video} -o {out}/set --num-segments 3 --frames-per-segment 2", []),
        "localize": (f"localize {video} --checkpoint {here}/model.pt -o {out}/page", []),
    }
    return {name: (line.split(), files) for name, (line, files) in every.items()}


def prepare(here: Path) -> None:
    """Data, a trained run, a published checkpoint, and a video with a model for its features."""
    data = make_data(here / "data")
    published = DCNWithRCNN(SimpleNamespace(audio_size=6, video_size=8, num_seq=2))
    train_here(**settings(data, here / "run", epochs=1, model=MODEL, progress=False))
    torch.save(published.state_dict(), here / "published.pt")
    shapes = {"audio": (3, 4, 6), "visual": (3, 4, 2, 2, 5)}
    np.savez(here / "a.npz", **{key: np.ones(shape) for key, shape in shapes.items()})
    video = make_video(here / "video.mkv", 3.0)
    extract_videos([str(video)], here / "set", Settings(num_segments=3, frames_per_segment=2))
    model = AVELocalizer(8, 8, 1, num_segments=3)
    checkpoint.save(here / "model.pt", model, features=read_record(here / "set"))


def call(arguments: list[str], here: Path, limit: int = 0) -> int:
    """Exit status of a command in a new process; a negative number is its signal.

    `here/log` gets its errors and `here/peak` its largest address space in KiB.
    """
    command = [sys.executable, "-c", COMMAND, str(here / "peak"), str(limit), *arguments]
    with (here / "log").open("w") as log:
        return subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=log, check=False
        ).returncode


def fault(status: int, here: Path, files: list[str]) -> str:
    """The fault of a run; empty if there is none."""
    text = (here / "log").read_text()
    lines = [line for line in text.splitlines() if "memory" in line]
    left = [str(path) for path in here.rglob(".*.tmp")]
    if left:
        return f"left {left}"
    if status == 0:
        return "" if all((here / "out" / n).read_bytes() != OLD for n in files) else "wrote nothing"
    # `extract` reports a video that it cannot use, and ends with status 1
    if status not in (1, 2) or "Traceback" in text or len(lines) != 1:
        return f"status {status}: {text}"
    return "" if all((here / "out" / n).read_bytes() == OLD for n in files) else "lost an old file"


def campaign(name: str, here: Path, steps: int) -> Counter[str]:
    """The number of runs of a command per end; prints every fault with its limit in MiB."""
    arguments, files = commands(here)[name]
    ends: Counter[str] = Counter()
    fresh(here, files)
    assert call(arguments, here) == 0, (here / "log").read_text()
    enough = 1024 * int((here / "peak").read_text())
    for step in range(1, steps + 1):
        limit = int(1.05 * enough * step / steps)
        fresh(here, files)
        status = call(arguments, here, limit)
        wrong = fault(status, here, files)
        if wrong:
            print(f"{name}, {limit >> 20} MiB: {wrong}", flush=True)
        end = "out of memory" if status else "complete"
        ends["faults" if wrong else end] += 1
    return ends


def fresh(here: Path, files: list[str]) -> None:
    """An output folder with older files."""
    shutil.rmtree(here / "out", ignore_errors=True)
    (here / "out").mkdir()
    for name in files:
        (here / "out" / name).write_bytes(OLD)


def run(steps: int, only: list[str]) -> bool:
    """Runs the campaign and prints its counts; whether there is no fault."""
    good = True
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        prepare(here)
        for name in only or commands(here):
            ends = campaign(name, here, steps)
            print(
                f"{name}: {', '.join(f'{n} {end}' for end, n in sorted(ends.items()))}", flush=True
            )
            good = good and not ends["faults"]
    return good


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME")
    torch.set_num_threads(1)
    arguments = parser.parse_args()
    sys.exit(not run(arguments.steps, arguments.only))
