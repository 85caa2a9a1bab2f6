"""Commands killed before each of their file operations: whole old or whole new files, and a second
run ends with the bytes of an undisturbed one.

A campaign at full size: JCA_FAST_CAMPAIGN=60 pytest tests/test_kills.py
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
from types import SimpleNamespace

import pytest
import torch
from training_tools import MODEL, PRELOAD, assert_same_run, make_data, settings, train_here

from jca_fast.atomic import TEMPORARY
from jca_fast.cli import main
from jca_fast.compat.released import DCNWithRCNN

KILLS = int(os.environ.get("JCA_FAST_CAMPAIGN", "1"))
OPERATIONS = ("open", "os.", "shutil.", "tempfile.")
"""The first parts of Python's audit events of file operations."""

OLD = b"an older file"

COMMANDS = {
    "labels": "data labels {data}/Annotations.txt -o {out}/labels.h5 --segments 4",
    "prepare": "data prepare {data} --out {out}/prepared",
    "synth": "data synth {out}/set --num-clips 9 --segments 4 --audio-dim 5 --visual-dim 6",
    "convert": "convert {made}/published.pt {out}/w.pt",
    "predict": "predict {made}/run --data {data} -o {out}/p.json --device cpu",
    "train": "train --data {data} --out {out}/run --epochs 2 --batch-size 16 --device cpu "
    "--checkpoint-every 2 --model " + " ".join(f"{k}={v}" for k, v in MODEL.items()),
    "extract": "extract {made}/video.mkv -o {out}/set --num-segments 3 --frames-per-segment 2",
}
REPLACED = {"labels": "labels.h5", "convert": "w.pt", "predict": "p.json"}


def child(arguments, at, count):
    """Runs a command; if `at` is above 0, it dies before its at-th operation on files.

    Imports do not count: their number depends on the byte code that is there.
    """
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    torch.set_num_threads(1)

    modules = tuple(folder for folder in (*sys.path, sys.pycache_prefix) if folder)

    def audit(event, args):
        if event.startswith(OPERATIONS) and not str(*args[:1]).startswith(modules):
            count.value += 1
            if count.value == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)
    sys.exit(main(arguments))


@pytest.fixture(scope="module")
def run():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)

    def run(arguments, at=0):
        """The exit status of a command, and the number of its operations on files."""
        count = context.Value("i", 0, lock=False)
        process = context.Process(target=child, args=(arguments, at, count))
        process.start()
        process.join(900)
        return process.exitcode, count.value

    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    data = make_data(folder / "data")
    train_here(**settings(data, folder / "run", epochs=1, model=MODEL))
    published = DCNWithRCNN(SimpleNamespace(audio_size=6, video_size=8, num_seq=2))
    torch.save(published.state_dict(), folder / "published.pt")
    return folder


def contents(folder):
    """The bytes of every file, without the temporary name that a killed `os.replace` leaves."""
    found = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    temporary = [name for name in found if name.match(TEMPORARY)]
    assert len(temporary) <= 1
    return {name: path.read_bytes() for name, path in found.items() if name not in temporary}


# `train`, `prepare` and `synth` have their own tests of kills.
@pytest.mark.parametrize("command", COMMANDS if KILLS > 1 else ("convert", "predict", "extract"))
def test_a_killed_command_loses_nothing_and_can_be_repeated(command, made, run, tmp_path):
    if command == "extract":
        pytest.importorskip("av")
        from video_tools import make_video

        if not (made / "video.mkv").exists():
            make_video(made / "video.mkv", 3.0)

    def arguments(out):
        return COMMANDS[command].format(out=out, made=made, data=made / "data").split()

    old = REPLACED.get(command)

    def folder(name):
        path = tmp_path / name
        path.mkdir()
        if old:
            (path / old).write_bytes(OLD)
        return path

    whole = folder("whole")
    assert run(arguments(whole))[0] == 0
    operations = run(arguments(folder("counted")))[1]  # a first run may have more of them
    dice = random.Random(command)
    for at in dice.sample(range(1, operations + 1), min(KILLS, operations)):
        out = folder(f"out{at}")
        assert run(arguments(out), at)[0] == -signal.SIGKILL
        check(command, contents(out), contents(whole), old)
        again = run(arguments(out))[0]
        if command == "train":
            assert again == 0
            assert_same_run(out / "run", whole / "run")
        else:  # a whole set is not made again unasked
            assert again == 0 or (command in ("synth", "extract") and again == 2)
            assert contents(out) == contents(whole)


def check(command, left, whole, old):
    """The files after a kill: one whole file, or no file under the final names but whole ones."""
    if old:
        (content,) = left.values()
        assert content in (OLD, next(iter(whole.values())))
    elif command == "prepare":
        final = {name: content for name, content in left.items() if name.parts[0] == "prepared"}
        assert final in ({}, whole)
