"""Settings of `jca-fast train`: flags before TOML before defaults, and errors that name the key."""

from __future__ import annotations

import argparse

import pytest

from jca_fast.training.config import Config, resolve
from jca_fast.training.train import add_arguments


def parse(*flags: str) -> Config:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return resolve(Config, parser.parse_args(flags))


@pytest.fixture
def toml(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        'data = "d"\nlr = 1\nbatch-size = 16\ncompile = true\n[model]\nform = "released"\nnum_layers = 2\n'
    )
    return str(path)


def test_flags_go_before_the_file_and_the_file_before_the_defaults(toml):
    config = parse(
        "--config",
        toml,
        "--batch-size",
        "8",
        "--no-compile",
        "--model",
        "num-layers=3",
        "dropout=0.5",
    )
    assert (config.data, config.lr, config.batch_size, config.epochs) == ("d", 1.0, 8, 300)
    assert config.compile is False
    assert config.model == {"form": "released", "num_layers": 3, "dropout": 0.5}
    assert isinstance(config.lr, float)


def test_the_defaults_are_the_published_recipe():
    config = parse("--data", "d")
    assert (config.lr, config.epochs, config.batch_size) == (1e-4, 300, 64)
    assert (config.plateau, config.plateau_factor, config.plateau_patience) == (
        "train_loss",
        0.5,
        10,
    )
    assert config.resume is None
    assert parse("--data", "d", "--no-resume").resume is False


def test_values_of_model_arguments():
    model = parse("--data", "d", "--model", "a=1", "b=1e-3", "c=true", "d=none", "e=text").model
    assert model == {"a": 1, "b": 1e-3, "c": True, "d": None, "e": "text"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "data: no folder given"),
        (["--data", "d", "--epochs", "0"], "epochs: must be at least 1, got 0"),
        (["--data", "d", "--plateau-factor", "1.5"], "plateau_factor"),
        (["--data", "d", "--model", "form"], "--model: expected KEY=VALUE, got 'form'"),
    ],
)
def test_bad_flags_are_named(flags, message):
    with pytest.raises(ValueError, match=message):
        parse(*flags)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "unknown key 'epoch'; did you mean 'epochs'"),
        ("zzz = 3", "unknown key 'zzz'; known keys: batch_size, "),
        ("lr = 'fast'", "lr: expected float, got 'fast'"),
        ("seed = true", "seed: expected int, got True"),
        ("epochs = 2.5", "epochs: expected int, got 2.5"),
        ("loss = 'mse'", "loss: expected one of auto, softmargin"),
        ("model = 3", "model: expected dict, got 3"),
        ("lr = ", "not a valid TOML file"),
    ],
)
def test_bad_files_are_named(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        parse("--config", str(path), "--data", "d")
    with pytest.raises(FileNotFoundError, match=r"none\.toml"):
        parse("--config", str(tmp_path / "none.toml"))
