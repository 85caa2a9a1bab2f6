"""Settings of `jca-fast train`: flags before TOML before defaults, and errors that name the key."""

from __future__ import annotations

import argparse

import pytest

from jca_fast.cli import main
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
        'data = "d"\nlr = 1\nbatch-size = 16\ncompile = true\n'
        '[model]\nform = "released"\nnum_layers = 2\n'
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


def test_the_published_recipe_has_a_name(tmp_path):
    (tmp_path / "run.toml").write_text('recipe = "published"\nlr = 0.5')
    config = parse("--data", "d", "--recipe", "published")
    assert (config.lr, config.epochs, config.batch_size, config.loss) == (1e-4, 300, 64, "auto")
    assert (config.plateau, config.plateau_factor) == ("train_loss", 0.5)
    assert config.plateau_patience == 10
    assert config.model == {"normalize": True}
    changed = parse("--data", "d", "--recipe", "published", "--lr", "0.1", "--model", "form=paper")
    assert (changed.lr, changed.loss) == (0.1, "auto")
    assert changed.model == {"normalize": True, "form": "paper"}
    from_file = parse("--data", "d", "--config", str(tmp_path / "run.toml"))
    assert (from_file.lr, from_file.loss) == (0.5, "auto")


def test_the_defaults_learn_and_resume():
    config = parse("--data", "d")
    assert (config.loss, config.model) == ("cross_entropy", {})
    assert config.lr >= 1e-3
    assert config.resume is None
    assert parse("--data", "d", "--no-resume").resume is False


def test_a_json_file_is_read_too(tmp_path):
    (tmp_path / "run.json").write_text('{"data": "d", "batch-size": 5, "model": {"form": "paper"}}')
    config = parse("--config", str(tmp_path / "run.json"))
    assert (config.data, config.batch_size, config.model) == ("d", 5, {"form": "paper"})
    for text, message in [
        ("{", "not a valid JSON file"),
        ("[1]", "found a list; needed: a table"),
        ('{"lr": "fast"}', "lr: expected float, got 'fast'"),
        ('{"lr": 1' + "0" * 5000 + "}", "not a valid JSON file"),
    ]:
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            parse("--config", str(tmp_path / "bad.json"), "--data", "d")


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run.toml").write_text('data = "~/data"\nout = "~/runs"\ninit = "~/a.pt"')
    config = parse("--config", "~/run.toml")
    assert config.data == str(tmp_path / "data")
    assert (config.out, config.init) == (str(tmp_path / "runs"), str(tmp_path / "a.pt"))


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "visualize", "data check"])
def test_a_prefix_of_a_flag_is_refused(command, capsys):
    prefix = {
        "train": ["--data", "d", "--epoch", "3"],
        "evaluate": ["a.pt", "--data", "d", "--spl", "val"],
        "predict": ["a.pt", "--data", "d", "-o", "p.csv", "--prec", "float32"],
        "visualize": ["a.pt", "--data", "d", "--dp", "100", "-o", "p"],
        "data check": ["d", "--ful"],
    }[command]
    with pytest.raises(SystemExit):
        main([*command.split(), *prefix])
    assert "unrecognized arguments" in capsys.readouterr().err


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
    path = path.rename(tmp_path / "bad.yaml")
    with pytest.raises(ValueError, match=r"bad\.yaml: a YAML file; needed: TOML or JSON"):
        parse("--config", str(path))
