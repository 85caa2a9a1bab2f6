"""The demo from end to end on few clips: its output, its files, its errors, and its seed."""

from __future__ import annotations

import contextlib
import io
import json

import pytest
import torch

from jca_fast import demo
from jca_fast.cli import main

CLIPS = 28
EPOCHS = 1
SEED = 3


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder and the printed text of one demo."""
    out = tmp_path_factory.mktemp("demo") / "nested" / "out"
    threads = torch.get_num_threads()
    with contextlib.redirect_stdout(io.StringIO()) as text:
        status = main(
            [
                "demo",
                "--clips",
                str(CLIPS),
                "--epochs",
                str(EPOCHS),
                "--seed",
                str(SEED),
                "--out",
                str(out),
            ]
        )
    assert status == 0
    assert torch.get_num_threads() == threads
    return out, text.getvalue().rstrip("\n")


def test_table_names_all_scores_and_fits_the_screen(ran):
    out, text = ran
    lines = text.split("\n")
    names = (
        "joint co-attention",
        "audio only",
        "visual only",
        "most frequent class",
        "pointing game",
        "backend",
        "time",
    )
    for name in names:
        assert sum(line.startswith(f"  {name} ") for line in lines) >= 1, name
    assert "by chance" in text
    assert str(out / "pictures") in lines[-1]
    assert len(lines) <= 25
    assert max(len(line) for line in lines if str(out) not in line) <= 80


def test_numbers_pictures_and_logs_are_written(ran):
    out, _ = ran
    summary = json.loads((out / "demo.json").read_text())
    assert summary["status"] == "finished"
    assert sorted(summary["accuracy"]) == ["audio only", "joint", "visual only"]
    assert 0 < summary["pointing_game"]["chance"] < 0.5
    assert {entry.split(":")[0] for entry in summary["backends"]} == {
        "visual_reduction",
        "joint_coattention",
    }
    assert len(summary["pictures"]) == 9
    assert sorted(map(str, (out / "pictures").iterdir())) == sorted(summary["pictures"])
    assert all(
        "epoch 1/1" in (out / kind / "train.log").read_text()
        for kind in ("both", "audio", "visual")
    )


def test_seed_fixes_data_weights_and_scores(ran, tmp_path):
    out, _ = ran
    demo.plant(tmp_path / "data", CLIPS, SEED)
    with demo.one_thread():
        result = demo.train_one(tmp_path, "both", EPOCHS, SEED)
    assert result["accuracy"] == json.loads((out / "demo.json").read_text())["accuracy"]["joint"]
    first, second = (
        torch.load(folder / "both" / "best.pt", weights_only=True)["model"]
        for folder in (out, tmp_path)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--clips", "27"], "--clips must be at least 28, got 27"),
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
    ],
)
def test_wrong_argument_is_named_and_nothing_is_written(tmp_path, capsys, flags, message):
    assert main(["demo", "--out", str(tmp_path / "out"), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_folder_of_other_files_is_refused_and_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "holds other files; needed: a new or empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert main(["demo", "--out", str(tmp_path / "thesis.txt")]) == 2
    assert "is a file; needed: a folder" in capsys.readouterr().err


def test_folder_of_an_earlier_demo_is_used_again(tmp_path):
    demo.claim(tmp_path / "out")
    demo.claim(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "demo.json").read_text()) == {"status": "running"}
