"""Damaged runs, clips that are not finite, devices and counts: one line that names the fault."""

from __future__ import annotations

import csv
import json
import math
import os
import random
import re
import shutil

import h5py
import numpy as np
import pytest
import torch
from training_tools import MODEL, csv_rows, make_data, settings, train_here

from jca_fast.cli import main, told
from jca_fast.data import AVEDataset
from jca_fast.training import evaluate_checkpoint
from jca_fast.training.checkpoint import load_initial
from jca_fast.training.config import Config
from jca_fast.training.distributed import pick_device
from jca_fast.training.lr_finder import find_lr

ROUNDS = int(os.environ.get("JCA_FAST_CAMPAIGN", "6"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("made") / "data")


@pytest.fixture(scope="module")
def run(made, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    train_here(**settings(made, out, epochs=1, model=MODEL))
    return out


@pytest.fixture
def data(made, tmp_path):
    return shutil.copytree(made, tmp_path / "data")


@pytest.fixture
def out(run, tmp_path):
    return shutil.copytree(run, tmp_path / "out")


# ---- last.pt


def without(*path):
    def change(state):
        for key in path[:-1]:
            state = state[key]
        del state[path[-1]]

    return change


def with_value(value, *path):
    def change(state):
        for key in path[:-1]:
            state = state[key]
        state[path[-1]] = value

    return change


DAMAGE = {
    "no config": without("config"),
    "config is a list": with_value([], "config"),
    "no data": without("data"),
    "no optimizer": without("optimizer"),
    "optimizer of another model": with_value({"state": {}, "param_groups": []}, "optimizer"),
    "moments of another shape": lambda state: state["optimizer"]["state"][0].update(
        exp_avg=torch.zeros(3, 3, 3)
    ),
    "no moments": lambda state: state["optimizer"]["state"][0].clear(),
    "no schedule": without("schedule"),
    "schedule is empty": with_value({}, "schedule"),
    "schedule of another factor": with_value(0.9, "schedule", "factor"),
    "schedule waits for a text": with_value("x", "schedule", "patience"),
    "schedule has no last loss": with_value(math.nan, "schedule", "best"),
    "lr is a text": with_value("x", "optimizer", "param_groups", 0, "lr"),
    "lr is not a number": with_value(math.nan, "optimizer", "param_groups", 0, "lr"),
    "betas of another run": with_value((0.1, 0.2), "optimizer", "param_groups", 0, "betas"),
    "moments of whole numbers": lambda state: state["optimizer"]["state"][0].update(
        exp_avg=state["optimizer"]["state"][0]["exp_avg"].long()
    ),
    "moments of one weight lost": without("optimizer", "state", 0),
    "seconds are endless": with_value(math.inf, "run", "seconds"),
    "batch is huge": with_value(10**30, "run", "batch"),
    "step is of another epoch": with_value(6, "run", "step"),
    "stale is huge": with_value(10**30, "run", "stale"),
    "epoch is huge": with_value(10**30, "run", "epoch"),
    "best is a text": with_value({"epoch": 1, "val_accuracy": "x"}, "run", "best"),
    "a loss is a text": with_value("x", "run", "history", 0, "train_loss"),
    "a loss is not a number": with_value(math.nan, "run", "history", 0, "val_loss"),
    "sums of whole numbers": with_value(torch.zeros(2, dtype=torch.int64), "ranks", 0, "sums"),
    "classes are numbers": with_value([1] * 29, "classes"),
    "no ranks": without("ranks"),
    "ranks are empty": with_value([{}], "ranks"),
    "no random state": without("ranks", 0, "random"),
    "random state of another kind": with_value({"python": 3}, "ranks", 0, "random"),
    "sums of another shape": with_value(torch.zeros(3), "ranks", 0, "sums"),
    "run is a number": with_value(3, "run"),
    "no epoch": without("run", "epoch"),
    "epoch is a text": with_value("one", "run", "epoch"),
    "epoch is negative": with_value(-1, "run", "epoch"),
    "history is short": with_value([], "run", "history"),
    "history of numbers": with_value([1], "run", "history"),
    "model is a list": with_value([], "model"),
    "model of numbers": with_value({"a": 1}, "model"),
    "model_config is a list": with_value([1], "model_config"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_names_the_file(made, out, damage):
    state = torch.load(out / "last.pt", weights_only=True)
    DAMAGE[damage](state)
    torch.save(state, out / "last.pt")
    before = (out / "last.pt").read_bytes()
    with pytest.raises(ValueError, match=r"last\.pt: ") as caught:
        train_here(**settings(made, out, epochs=2, model=MODEL))
    assert "\n" not in str(caught.value)
    assert (out / "last.pt").read_bytes() == before


def test_random_damage_to_checkpoints_is_named(made, run, tmp_path, capsys):
    dice = random.Random(1)
    content = (run / "best.pt").read_bytes()
    for round_ in range(4 * ROUNDS):
        damaged = bytearray(content)
        if round_ % 2:
            damaged = damaged[: dice.randrange(len(damaged))]
        else:
            start = dice.randrange(len(damaged))
            damaged[start : start + 16] = dice.randbytes(16)
        path = tmp_path / "damaged.pt"
        path.write_bytes(damaged)
        status = main(["evaluate", str(path), "--data", str(made), "--device", "cpu"])
        error = capsys.readouterr().err
        assert status == 0 or (status == 2 and "damaged.pt" in error and error.count("\n") == 1)


WRONG_RECORDS = [3, [1], "x", torch.ones(3), {}, {"visual": 1}, {1: 2}, float("nan")]


@pytest.mark.parametrize("record", WRONG_RECORDS, ids=lambda value: type(value).__name__)
def test_a_wrong_record_of_the_features_names_the_file(made, run, tmp_path, record):
    state = torch.load(run / "best.pt", weights_only=True)
    torch.save({**state, "features": record}, tmp_path / "damaged.pt")
    with pytest.raises(ValueError, match=r"damaged\.pt: its record of the extraction is damaged"):
        evaluate_checkpoint(tmp_path / "damaged.pt", made, device="cpu")


WRONG_CLASSES = [3, "x" * 29, [1] * 29, ["a"], [["a"]] * 29, {"a": 1}, [""] * 29]


@pytest.mark.parametrize("classes", WRONG_CLASSES, ids=str)
@pytest.mark.parametrize("command", ["evaluate", "predict", "visualize"])
def test_wrong_names_of_classes_name_the_file(made, run, tmp_path, capsys, command, classes):
    state = torch.load(run / "best.pt", weights_only=True)
    torch.save({**state, "classes": classes}, tmp_path / "damaged.pt")
    target = {"evaluate": "m.json", "predict": "p.csv", "visualize": "pictures"}[command]
    flags = ["--data", str(made), "-o", str(tmp_path / target)]
    assert main([command, str(tmp_path / "damaged.pt"), *flags]) == 2
    assert "damaged.pt: the entry 'classes' is damaged" in capsys.readouterr().err
    assert not (tmp_path / target).exists()


@pytest.mark.parametrize("loss", [3, "x", None])
def test_a_wrong_loss_names_the_file(made, run, tmp_path, loss):
    state = torch.load(run / "best.pt", weights_only=True)
    torch.save({**state, "config": {"loss": loss}}, tmp_path / "damaged.pt")
    with pytest.raises(ValueError, match=r"damaged\.pt: expected a loss among"):
        evaluate_checkpoint(tmp_path / "damaged.pt", made, device="cpu")


@pytest.mark.parametrize("value", [3, "x" * 10**5, 10**5000], ids=["number", "text", "huge"])
def test_a_wrong_format_names_the_file(made, run, tmp_path, value):
    state = torch.load(run / "best.pt", weights_only=True)
    torch.save({**state, "format": value}, tmp_path / "damaged.pt")
    with pytest.raises(ValueError, match=r"damaged\.pt: expected a file of format") as caught:
        evaluate_checkpoint(tmp_path / "damaged.pt", made, device="cpu")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64], ids=str)
def test_weights_of_another_kind_of_number_name_the_file(made, run, tmp_path, dtype):
    state = torch.load(run / "best.pt", weights_only=True)
    key = next(iter(state["model"]))
    state["model"][key] = state["model"][key].to(dtype)
    torch.save(state, tmp_path / "damaged.pt")
    with pytest.raises(ValueError, match=rf"damaged\.pt: .*{key} holds {dtype}"):
        evaluate_checkpoint(tmp_path / "damaged.pt", made, device="cpu")
    with pytest.raises(ValueError, match=rf"damaged\.pt: .*{key} holds {dtype}"):
        load_initial(tmp_path / "damaged.pt")


def test_weights_to_start_from_are_finite(run, tmp_path):
    state = torch.load(run / "best.pt", weights_only=True)
    key = next(iter(state["model"]))
    state["model"][key].fill_(math.nan)
    torch.save(state, tmp_path / "damaged.pt")
    with pytest.raises(ValueError, match=rf"damaged\.pt: {key} holds numbers .* not finite"):
        load_initial(tmp_path / "damaged.pt")


HUGE = 10**5000
CONFIGS = [("num_segments", 10**30), ("audio_dim", HUGE), ("modalities", "x" * 10**5)]


@pytest.mark.parametrize(("key", "value"), CONFIGS, ids=["segments", "size", "name"])
@pytest.mark.parametrize("command", ["evaluate", "convert"])
def test_errors_are_one_short_line(made, run, tmp_path, capsys, command, key, value):
    """Even where PyTorch adds its stack of calls, or a file a word of any length."""
    state = torch.load(run / "best.pt", weights_only=True)
    state["model_config"][key] = value
    path = tmp_path / "damaged.pt"
    torch.save(state, path)
    more = ["--data", str(made)] if command == "evaluate" else [str(tmp_path / "w.safetensors")]
    assert main([command, str(path), *more]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert len(error) < 700
    assert "damaged.pt: " in error


def test_a_model_without_published_form_is_named(run, tmp_path, capsys):
    assert main(["convert", str(run / "best.pt"), str(tmp_path / "w.safetensors")]) == 2
    assert "best.pt: the published model has audio_features=128" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("std::bad_alloc"), "out of memory: std::bad_alloc"),
        (OSError(12, "Cannot allocate memory"), "out of memory: [Errno 12] Cannot allocate memory"),
        (
            SystemError("error return without exception set"),
            "out of memory: error return without exception set",
        ),
        (ValueError("a\n  b\x1b[31m\ud800"), "a b?[31m?"),
        (KeyError("config"), "'config'"),
        (RuntimeError("no\nException raised from f at g:1"), "no"),
    ],
)
def test_what_an_error_says(error, line):
    assert told(error) == line


# ---- clips that are not finite


def spoil(data, split, position, value=np.nan):
    row = int(AVEDataset(data, split).indices[position])
    with h5py.File(data / "audio_feature.h5", "r+") as file:
        file["avadataset"][row, 1, 0] = value
    return row


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_broken_validation_clip_is_named_and_training_goes_on(data, tmp_path, capsys, value):
    row, tested = spoil(data, "val", 2, value), spoil(data, "test", 1, value)
    summary = train_here(**settings(data, tmp_path / "run", epochs=2, model=MODEL))
    assert summary["status"] == "finished"
    printed = capsys.readouterr().out
    assert f"val: the scores of clips {row}:pl{row:09d} are not finite" in printed
    assert f"test: the scores of clips {tested}:pl{tested:09d} are not finite" in printed
    rows = csv_rows(tmp_path / "run" / "metrics.csv")
    assert [row["val_loss"] for row in rows] == ["", ""]
    assert all(0 <= float(row["val_accuracy"]) < 1 for row in rows)


def test_a_broken_test_clip_is_null_in_every_output(data, run, tmp_path, capsys):
    row = spoil(data, "test", 4)
    result = evaluate_checkpoint(run, data, device="cpu")
    assert result["not_finite"] == [f"{row}:pl{row:09d}"]
    assert result["loss"] is None
    assert json.dumps(result, allow_nan=False)
    assert sum(map(sum, result["confusion"])) == 6 * 4 + result["num_segments"] - 7 * 4
    assert sum(result["class_segments"]) == result["num_segments"]
    weighed = [
        (a or 0) * n
        for a, n in zip(result["per_class_accuracy"], result["class_segments"], strict=True)
    ]
    assert sum(weighed) == pytest.approx(result["accuracy"] * result["num_segments"])
    assert main(["evaluate", str(run), "--data", str(data), "--device", "cpu"]) == 0
    assert f"not finite, counted as wrong, in clips {row}:" in capsys.readouterr().out
    flags = ["predict", str(run), "--data", str(data), "--device", "cpu", "-o"]
    assert main([*flags, str(tmp_path / "p.json"), "--all-classes"]) == 0
    assert f"not finite in clips {row}:" in capsys.readouterr().err
    assert main([*flags, str(tmp_path / "p.csv")]) == 0
    content = json.loads((tmp_path / "p.json").read_text())
    broken = [r for r in content["segments"] if r["clip"].startswith(f"{row}:")]
    assert {r["class"] for r in broken} == {None}
    assert {r["score"] for r in broken} == {None}
    assert all(math.isfinite(event["score"]) for event in content["events"])
    with (tmp_path / "p.csv").open(newline="") as file:
        table = [r for r in csv.DictReader(file) if r["clip"].startswith(f"{row}:")]
    assert {(r["class"], r["score"]) for r in table} == {("", "")}


@pytest.mark.parametrize(
    ("command", "flags", "said"),
    [
        ("evaluate", ["--plots", "FILE"], "--plots"),
        ("evaluate", ["--plots", "FILE/new/pictures"], "--plots"),
        ("evaluate", ["-o", "FOLDER"], "--output"),
        ("evaluate", ["-o", "FOLDER/nowhere/a.json"], "--output"),
        ("predict", ["-o", "FOLDER/a.json", "--events", "FOLDER/e.txt"], "--events"),
        ("predict", ["-o", "FOLDER/a.json", "--events", "FOLDER/nowhere/e.csv"], "--events"),
        ("predict", ["-o", "FOLDER/a.csv", "--events", "FOLDER/a.csv"], "--events"),
        ("predict", ["-o", "FOLDER.csv"], "--output"),
        ("visualize", ["-o", "FILE"], "--out"),
    ],
)
def test_a_place_that_cannot_be_written_is_named_before_the_work(
    made, run, tmp_path, capsys, monkeypatch, command, flags, said
):
    """The flag is named, the checkpoint is not read, and nothing is written."""
    monkeypatch.setattr("jca_fast.training.checkpoint.load_model", lambda *_: pytest.fail("read"))
    (tmp_path / "file").touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out.csv").mkdir()
    places = {"FILE": str(tmp_path / "file"), "FOLDER": str(tmp_path / "out")}
    for name, place in places.items():
        flags = [flag.replace(name, place) for flag in flags]
    assert main([command, str(run), "--data", str(made), *flags]) == 2
    assert f"error: {said} {tmp_path}" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "out", "out.csv"]


def test_a_broken_training_clip_is_named(data, tmp_path):
    row = spoil(data, "train", 5)
    with pytest.raises(RuntimeError, match=f"audio features of train clip {row}:.* not finite"):
        train_here(**settings(data, tmp_path / "run", epochs=1, model=MODEL))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_broken_clip_is_not_drawn(data, run, tmp_path, capsys, value):
    row = spoil(data, "test", 0, value)
    flags = ["--data", str(data), "--clips", f"{row}:", "-o", str(tmp_path / "pictures")]
    assert main(["visualize", str(run), *flags]) == 2
    assert f"test clip {row}:pl{row:09d}: its scores are not finite" in capsys.readouterr().err
    assert not (tmp_path / "pictures").exists()


def test_no_learning_rate_is_suggested_from_broken_clips(data, tmp_path):
    row = int(AVEDataset(data).indices[0])
    for position in range(len(AVEDataset(data))):
        spoil(data, "train", position)
    with pytest.raises(RuntimeError, match=f"audio features of train clip {row}:.* not finite"):
        find_lr(Config(data=str(data), device="cpu", model=dict(MODEL)))


# ---- home folders


def test_a_tilde_stands_for_the_home_folder_in_every_command(made, run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path / "data")
    shutil.copytree(run, tmp_path / "run")
    for command in (
        ["data", "labels", "~/data/Annotations.txt", "-o", "~/labels.h5", "--segments", "4"],
        ["data", "prepare", "~/data", "--out", "~/cache"],
        ["evaluate", "~/run", "--data", "~/data", "-o", "~/m.json", "--device", "cpu"],
        ["predict", "~/run", "--data", "~/cache", "-o", "~/p.csv", "--events", "~/e.csv"],
        ["visualize", "~/run", "--data", "~/data", "--clips", "1", "-o", "~/pictures"],
        ["convert", "~/run/best.pt", "~/w.safetensors"],
    ):
        assert main(command) == (2 if command[0] == "convert" else 0)  # no published form
    made_files = ("labels.h5", "cache", "m.json", "p.csv", "e.csv", "pictures")
    assert all((tmp_path / name).exists() for name in made_files)
    assert not (tmp_path / "~").exists()


def test_a_home_folder_that_does_not_exist_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "~nobody-of-this-name/run", "--data", "x"])
    assert "~nobody-of-this-name/run" in capsys.readouterr().err
    with pytest.raises(ValueError, match="~nobody-of-this-name/x: "):
        Config(data="~nobody-of-this-name/x")


# ---- devices and counts


@pytest.mark.parametrize("device", ["cpu:1", "xpu", "meta", "mps", "cuda:x", "cuda:-1", "", "gpu"])
def test_other_devices_are_refused(device):
    with pytest.raises(ValueError, match="device: expected auto, cpu, cuda or cuda:<index>, got"):
        pick_device(device)


@pytest.mark.parametrize("command", ["evaluate", "predict"])
@pytest.mark.parametrize("size", ["-1", "0"])
def test_batches_without_clips_are_refused(command, size, made, run, tmp_path, capsys):
    flags = ["-o", str(tmp_path / "p.json"), "--device", "cpu", "--batch-size", size]
    assert main([command, str(run), "--data", str(made), *flags]) == 2
    assert f"batch_size is {size}; needed: 1 or more" in capsys.readouterr().err
    assert not (tmp_path / "p.json").exists()


# ---- npz


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"audio": np.zeros(3), "visual": np.zeros((1, 4, 2, 2, 5))}, r"audio of shape \(3,\)"),
        ({"audio": np.zeros((1, 4, 6)), "visual": np.zeros((1, 4))}, r"visual of shape \(1, 4\)"),
        ({"audio": np.array([["a"]])}, "audio of shape"),
        ({"audio": np.zeros(()), "visual": np.zeros(())}, "audio of shape"),
        (
            {"audio": np.zeros((1, 5, 6)), "visual": np.zeros((1, 5, 2, 2, 5))},
            "num_segments is 5; needed: 4",
        ),
    ],
)
def test_arrays_of_wrong_shape_are_named(run, tmp_path, capsys, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    flags = ["--device", "cpu", "-o", str(tmp_path / "p.csv")]
    assert main(["predict", str(run), "--data", str(tmp_path / "a.npz"), *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "a.npz: " in error
    assert re.search(message, error)
    assert not (tmp_path / "p.csv").exists()
