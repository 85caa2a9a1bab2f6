"""Commands with too little memory: a one-line error, whole old files, no temporary files.

    python tests/memory_limits.py --steps 40     # the campaign; the tests take a few steps

A process that has loaded everything forks for each run. The child may grow by a share, from none to
all, of the address space that the command needs.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from training_tools import MODEL, make_data, settings, train_here

from jca_fast.cli import main
from jca_fast.compat.released import DCNWithRCNN

OLD = b"an older file"


def commands(here: Path, video: bool) -> dict[str, tuple[list[str], list[str]]]:
    """Name -> (arguments, files that it replaces), in a folder made by `prepare`."""
    data = here / "data"
    run = here / "run"
    out = here / "out"
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
    }
    if video:
        every["extract"] = (f"extract {here}/video.mkv -o {out}/features", [])
        every["localize"] = (f"localize {here}/video.mkv --checkpoint {here}/av -o {out}/page", [])
    return {name: (line.split(), files) for name, (line, files) in every.items()}


def prepare(here: Path, video: bool) -> int:
    """Data, a trained run, a published checkpoint, and a video; 0 as a command."""
    data = make_data(here / "data")
    sizes = SimpleNamespace(audio_size=6, video_size=8, num_seq=2)
    published = DCNWithRCNN(sizes)
    train_here(**settings(data, here / "run", epochs=1, model=MODEL))
    torch.save(published.state_dict(), here / "published.pt")
    shapes = {"audio": (3, 4, 6), "visual": (3, 4, 2, 2, 5)}
    np.savez(here / "a.npz", **{key: np.ones(shape) for key, shape in shapes.items()})
    return 0


def in_a_child(work: Callable[[], int], log: Path) -> int:
    """The result of ``work`` in a forked process that prints into `log`; a negative number is its
    signal."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    status = 70
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(descriptor, 2)
        status = work()
    finally:
        sys.stderr.flush()
        os._exit(status)


def memory(name: str) -> int:
    """VmSize or VmPeak of this process in bytes."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) * 1024


def needed(arguments: list[str], here: Path) -> int:
    """The address space that a command takes without a limit."""

    def work() -> int:
        before = memory("VmSize")
        status = main(arguments)
        (here / "needed").write_text(str(memory("VmPeak") - before))
        return status

    status = in_a_child(work, here / "log")
    assert status == 0, (here / "log").read_text()
    return int((here / "needed").read_text())


def limited(arguments: list[str], room: int) -> int:
    """The command in this process, with this much more address space."""
    resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + room, resource.RLIM_INFINITY))
    return main(arguments)


def fault(status: int, here: Path, files: list[str]) -> str:
    """The fault of a run; empty if there is none."""
    text = (here / "log").read_text()
    lines = [line for line in text.splitlines() if line.startswith("jca-fast ")]
    left = [str(path) for path in here.rglob(".*.tmp")]
    if left:
        return f"left {left}"
    if status == 0:
        return "" if all((here / "out" / n).read_bytes() != OLD for n in files) else "wrote nothing"
    if status != 2 or "Traceback" in text or len(lines) != 1 or "memory" not in lines[0]:
        return f"status {status}: {text}"
    return "" if all((here / "out" / n).read_bytes() == OLD for n in files) else "lost an old file"


def campaign(here: Path, steps: int, video: bool) -> Iterator[tuple[str, float, int, str]]:
    """Name of the command, share of the memory, exit status, and what is wrong."""
    for name, (arguments, files) in commands(here, video).items():
        fresh(here, files)
        enough = needed(arguments, here)
        for step in range(steps + 1):
            room = int(1.1 * enough * step / steps)
            fresh(here, files)
            status = in_a_child(lambda a=arguments, r=room: limited(a, r), here / "log")
            yield name, room / 2**20, status, fault(status, here, files)


def fresh(here: Path, files: list[str]) -> None:
    """An output folder with older files."""
    shutil.rmtree(here / "out", ignore_errors=True)
    (here / "out").mkdir()
    for name in files:
        (here / "out" / name).write_bytes(OLD)


def run(steps: int) -> int:
    parts = Counter()
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        assert in_a_child(lambda: prepare(here, False), here / "log") == 0
        for name, room, status, wrong in campaign(here, steps, False):
            parts[status] += 1
            if wrong:
                parts["bad"] += 1
                print(f"{name}, {room:.1f} MiB: {wrong}")
    print(", ".join(f"{count} x {status}" for status, count in parts.items()))
    return parts["bad"] > 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=40)
    torch.set_num_threads(1)
    sys.exit(run(parser.parse_args().steps))
