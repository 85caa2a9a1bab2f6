"""A run killed with SIGKILL at any moment and restarted ends with the bits of an undisturbed run.

The processes are real. To hit the critical moments, a child counts the calls of one
function (renaming a finished file, flushing one to the disk, a step of the optimiser) and kills
itself at a given one; further runs are killed from outside at random times.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from training_tools import (
    PRELOAD,
    assert_same_run,
    csv_rows,
    environment,
    make_data,
    settings,
    train_here,
)

from jca_fast import atomic


def child(arguments, target=None, at=0, when="before"):
    """Trains; if target ("<module>.<function>") is given, this process dies before or after its
    at-th call."""
    sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    if target:
        die_at_call(target, at, when)
    train_here(**arguments)


def die_at_call(target, at, when):
    owner, name = {
        "put": (atomic, "_put"),
        "replace": (os, "replace"),
        "fsync": (os, "fsync"),
        "step": (adam(), "step"),
    }[target]
    original, calls = getattr(owner, name), [0]

    def counted(*args, **kwargs):
        calls[0] += 1
        if calls[0] == at and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if calls[0] == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, counted)


def adam():
    import torch

    return torch.optim.Adam


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


@pytest.fixture(scope="module")
def run(processes):
    def run(arguments, *how) -> int:
        process = processes.Process(target=child, args=(arguments, *how))
        process.start()
        process.join(900)
        return process.exitcode

    return run


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, run):
    """Arguments of a run that also saves inside its epochs, and the folder of an undisturbed
    one."""
    folder = tmp_path_factory.mktemp("resume")
    data = make_data(folder / "data")
    arguments = settings(data, folder / "reference", checkpoint_every=2)
    assert run(arguments) == 0
    return arguments, folder / "reference"


# A first epoch writes config.json, last.pt (step 2), last.pt (step 4), best.pt, last.pt,
# metrics.csv, metrics.json.
@pytest.mark.parametrize(
    ("target", "at", "when"),
    [
        ("put", 2, "before"),  # the first last.pt is written but has no name yet: begin again
        ("replace", 1, "before"),  # the second last.pt has a temporary name
        ("fsync", 7, "before"),  # inside the write of best.pt or last.pt
        ("put", 4, "after"),  # best.pt is one epoch ahead of last.pt
        ("put", 5, "after"),  # last.pt is ahead of the logs
        ("put", 6, "after"),  # metrics.csv is ahead of metrics.json
        ("step", 9, "after"),  # in the middle of the second epoch
        ("step", 15, "before"),  # before the last step
        ("put", 18, "after"),  # near the end
    ],
)
def test_killed_at_a_chosen_moment(uninterrupted, run, tmp_path, target, at, when):
    arguments, reference = uninterrupted
    arguments = {**arguments, "out": str(tmp_path / "run")}
    assert run(arguments, target, at, when) == -signal.SIGKILL
    assert run(arguments) == 0
    assert_same_run(tmp_path / "run", reference)


def test_killed_again_and_again_at_random_moments(uninterrupted, processes, run, tmp_path):
    arguments, reference = uninterrupted
    arguments = {**arguments, "out": str(tmp_path / "run")}
    dice, killed = random.Random(7), 0
    for _ in range(6):
        process = processes.Process(target=child, args=(arguments,))
        process.start()
        while process.is_alive() and not (tmp_path / "run").exists():
            time.sleep(0.005)
        process.join(dice.uniform(0.0, 0.3))
        killed += process.is_alive()
        process.kill()
        process.join()
    assert killed
    assert run(arguments) == 0
    assert_same_run(tmp_path / "run", reference)


def test_the_command_killed_and_started_again(uninterrupted, tmp_path):
    """The same through the command line, with data workers, against the run without them."""
    arguments, reference = uninterrupted
    flags = [
        "--lr",
        "0.01",
        "--batch-size",
        "8",
        "--plateau-patience",
        "0",
        "--epochs",
        "3",
        "--device",
        "cpu",
    ]
    flags += ["--model", *(f"{name}={value}" for name, value in arguments["model"].items())]
    command = [
        sys.executable,
        "-m",
        "jca_fast",
        "train",
        "--data",
        arguments["data"],
        "--out",
        str(tmp_path / "run"),
    ]
    command += [*flags, "--checkpoint-every", "1", "--num-workers", "1"]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "last.pt").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    done = subprocess.run(
        [*command, "--resume"], env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "resumed at epoch" in done.stdout
    assert_same_run(tmp_path / "run", reference)


def test_more_epochs_continue_a_finished_run(uninterrupted, tmp_path, run):
    arguments, reference = uninterrupted
    longer = {**arguments, "out": str(tmp_path / "run")}
    assert run({**longer, "epochs": 1}) == 0
    assert len(csv_rows(tmp_path / "run" / "metrics.csv")) == 1
    assert run(longer) == 0
    assert_same_run(tmp_path / "run", reference)


def test_another_run_in_the_folder_is_not_overwritten(uninterrupted, tmp_path):
    arguments, reference = uninterrupted
    before = {path.name: path.read_bytes() for path in reference.iterdir()}
    for changed, message in [
        ({"lr": 0.02}, r"last\.pt: belongs to a run with other settings \(lr was 0.01, now 0.02\)"),
        (
            {"model": {**arguments["model"], "form": "paper"}},
            "model form was 'released', now 'paper'",
        ),
        (
            {"data": str(make_data_with_other_labels(tmp_path / "data"))},
            "training data was '34 clips",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            train_here(**{**arguments, **changed})
    with pytest.raises(FileNotFoundError, match=r"last\.pt: nothing to resume"):
        train_here(**{**arguments, "out": str(tmp_path / "new"), "resume": True})
    assert not (tmp_path / "new").exists()
    assert {path.name: path.read_bytes() for path in reference.iterdir()} == before


def make_data_with_other_labels(root):
    from jca_fast.data import synthesize

    shape = {"num_segments": 4, "audio_dim": 6, "visual_dim": 5, "grid": (2, 2), "dtype": "float32"}
    return synthesize(root, num_clips=48, seed=5, **shape)


def test_no_resume_starts_anew(uninterrupted, tmp_path, run):
    arguments, reference = uninterrupted
    arguments = {**arguments, "out": str(tmp_path / "run")}
    assert run({**arguments, "seed": 9}) == 0
    assert run({**arguments, "resume": False}) == 0
    assert_same_run(tmp_path / "run", reference)


def test_a_second_training_in_a_folder_in_use_is_refused(uninterrupted):
    arguments, out = uninterrupted
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with (
        atomic.exclusive(out, RuntimeError("locked")),
        pytest.raises(RuntimeError, match=f"another training runs in {out}"),
    ):
        train_here(**arguments | {"resume": False, "lr": 0.1})
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
