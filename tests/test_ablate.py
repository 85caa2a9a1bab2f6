"""`jca-fast ablate` at a tiny size: the table, a killed run, conflicting settings."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from training_tools import make_data

from jca_fast.bench import step
from jca_fast.cli import main
from jca_fast.models.tables import TABLE_2, TABLES, Row
from jca_fast.training import ablation
from jca_fast.training.ablate import Ablation
from jca_fast.training.ablation_table import CONTRADICTED, HOLDS, OPEN, RowResult, orderings

MEASURE = step.step_cost
TINY = ["--scale", "64", "--epochs", "1", "--batch-size", "16", "--device", "cpu"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _only_what_is_tested(monkeypatch):
    """One thread, no timing, no picture of each training."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cost = {"seconds": {"fused": 0.01, "reference": 0.02}, "mib": {"fused": 1, "reference": 2}}
    monkeypatch.setattr("jca_fast.bench.step.step_cost", lambda *_: cost)
    monkeypatch.setattr("jca_fast.training.logs.RunLog.draw", lambda *_: None)
    yield
    torch.set_num_threads(threads)


def command(data, out, *more):
    more = ("--recipe", "default", "--seeds", "1", *more)
    return main(["ablate", "--table", "2", "--data", str(data), "--out", str(out), *TINY, *more])


def rows(out):
    with (out / "table2.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_killed_ablation_continues_and_ends_the_same(data, tmp_path, monkeypatch, capsys):
    assert command(data, tmp_path / "whole") == 0
    page = (tmp_path / "whole" / "table2.md").read_text()
    assert page in capsys.readouterr().out
    for row in TABLE_2:
        assert f"| {row.label} | {row.accuracy:.1f} |" in page
    assert "Not finished" not in page
    assert "At least two seeds are needed" in page
    assert (tmp_path / "whole" / "table2.png").stat().st_size > 1000

    original, calls = ablation.Training.train_step, [0]

    def killed(self, *tensors):
        calls[0] += 1
        if calls[0] == 5:  # in the second training of three, each of three steps
            raise KeyboardInterrupt
        original(self, *tensors)

    monkeypatch.setattr(ablation.Training, "train_step", killed)
    assert command(data, tmp_path / "killed") == 130
    assert "**Not finished:** 2 trainings" in (tmp_path / "killed" / "table2.md").read_text()
    monkeypatch.setattr(ablation.Training, "train_step", counted := Counted(original))
    monkeypatch.setattr("jca_fast.bench.step.step_cost", lambda *_: {})
    assert command(data, tmp_path / "killed") == 0
    assert counted.calls == 2 * 3  # no finished training runs again
    names = ("row", "seeds", "accuracy", "accuracy_sd", "batch_mean_accuracy", "parameters")
    found, wanted = (
        [[row[name] for name in names] for row in rows(tmp_path / name)]
        for name in ("killed", "whole")
    )
    assert found == wanted
    assert [row["seeds"] for row in rows(tmp_path / "whole") if row["accuracy"]] == ["1"] * 3


class Counted:
    """train_step with a count of its calls."""

    def __init__(self, step):
        self.step, self.calls = step, 0

    def __get__(self, instance, owner):
        def call(*tensors):
            self.calls += 1
            self.step(instance, *tensors)

        return call


def test_the_full_model_of_all_tables_is_one_training():
    best = [max(rows, key=lambda row: row.accuracy) for rows in TABLES.values()]
    assert {row.accuracy for row in best} == {76.2}
    assert len({ablation.training_of(Ablation(), row, 0).out for row in best}) == 1


def test_a_step_is_measured_fused_and_in_plain_pytorch(monkeypatch, capsys):
    def here(module, *arguments):
        step.main(*arguments)
        return json.loads(capsys.readouterr().out)

    monkeypatch.setattr(step, "in_process", here)
    arguments = {"audio_dim": 4, "visual_dim": 4, "num_layers": 1, "region_features": 6}
    cost = MEASURE(arguments, 2, (2, 2), budget=0)
    assert cost["seconds"].keys() == cost["mib"].keys() == {"fused", "reference"}
    assert min(cost["seconds"].values()) > 0
    assert min(cost["mib"].values()) >= 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scale", "3"], "scale: must divide 64, got 3"),
        (["--seeds", "0"], "seeds: must be at least 1, got 0"),
        (["--data", "nowhere"], "nowhere"),
        (["--clips", "2"], "clips: must be at least 8"),
    ],
)
def test_bad_settings_are_named_and_nothing_is_written(tmp_path, capsys, arguments, said):
    out = tmp_path / "out"
    assert main(["ablate", "--table", "3", "--out", str(out), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_other_settings_or_files_in_the_folder_are_refused(data, tmp_path, capsys):
    (tmp_path / "ablation.json").write_text(json.dumps({"epochs": 7}))
    assert command(data, tmp_path) == 2
    assert "epochs: 1 given, but the trainings in" in capsys.readouterr().err
    (tmp_path / "ablation.json").write_text("{")
    assert command(data, tmp_path) == 2
    assert "ablation.json: not valid JSON" in capsys.readouterr().err
    (tmp_path / "ablation.json").rename(tmp_path / "mine.txt")
    assert command(data, tmp_path) == 2
    assert "holds other files" in capsys.readouterr().err
    assert command(data, tmp_path / "new", "--clips", "50") == 2
    assert "clips: 50 given, but" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert main(["ablate"]) == 2
    assert "--table 2, 3, 4 or 5" in capsys.readouterr().err


FINISHED = {
    "status": "finished",
    "test": {"accuracy": 0.5, "batch_mean_accuracy": 0.5},
    "num_parameters": 7,
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"test": None}, "test / accuracy is None"),
        (
            {"test": {"accuracy": float("nan"), "batch_mean_accuracy": 0.5}},
            "test / accuracy is nan",
        ),
        ({"test": {"accuracy": 0.5}}, "test / batch_mean_accuracy is None"),
        ({"num_parameters": "many"}, "num_parameters is 'many'"),
    ],
)
def test_a_damaged_result_of_a_training_names_the_file(tmp_path, change, said):
    settings = Ablation(out=str(tmp_path))
    config = ablation.training_of(settings, TABLE_2[0], 0)
    path = tmp_path / "runs" / ablation.row_name(config.model) / "seed0" / "metrics.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(FINISHED))
    assert ablation.finished(config) == FINISHED
    path.write_text(json.dumps(FINISHED | change | {"status": "running"}))
    assert ablation.finished(config) is None
    path.write_text(json.dumps(FINISHED | change))
    with pytest.raises(ValueError, match=f"metrics.json: {said}"):
        ablation.finished(config)


@pytest.mark.parametrize(
    ("cost", "said"),
    [
        ({"seconds": 3, "mib": {}}, "seconds / fused is None"),
        ({"seconds": {"fused": 1, "reference": None}}, "seconds / reference is None"),
        ({"mib": {"fused": float("inf")}}, "mib / fused is inf"),
        ([], "holds a list"),
    ],
)
def test_a_damaged_cost_names_the_file(tmp_path, cost, said):
    path = tmp_path / "cost.json"
    assert ablation.read_cost(path) == {}
    path.write_text(json.dumps(cost))
    with pytest.raises(ValueError, match=f"cost.json: {said}"):
        ablation.read_cost(path)


def test_a_second_ablation_in_a_folder_in_use_is_refused(data, tmp_path, capsys):
    with ablation.locked(tmp_path):
        assert command(data, tmp_path) == 2
        assert f"another ablation runs in {tmp_path}" in capsys.readouterr().err
    assert not (tmp_path / "ablation.json").exists()
    ablation.claim(tmp_path, Ablation(out=str(tmp_path)))  # the lock of an ended run is no obstacle


def test_a_file_in_place_of_the_folder_is_named(data, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert command(data, tmp_path / "file") == 2
    assert "file is a file; needed: a folder to write" in capsys.readouterr().err


def test_the_help_shows_no_empty_choice_and_no_default_of_the_table(capsys):
    with pytest.raises(SystemExit):
        main(["ablate", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--table {2,3,4,5} table of the paper --seeds" in text
    assert "{,paper" not in text
    assert "--form {paper,released} paper or released" in text


def test_orderings_are_judged_against_their_standard_error():
    def result(label, printed, *scores):
        runs = [{"test": {"accuracy": score / 100}} for score in scores]
        return RowResult(Row(label, {}, printed), runs)

    found = orderings(
        [
            result("a", 70, 50, 51, 52),
            result("b", 75, 60, 61, 62),
            result("c", 76, 50, 51, 52),
            result("d", 76, 90),
        ]
    )
    verdicts = {(o.better, o.worse): o.verdict for o in found}
    assert verdicts == {("b", "a"): HOLDS, ("c", "a"): OPEN, ("c", "b"): CONTRADICTED}
    assert found[0].difference == pytest.approx(10)
    assert found[0].error == pytest.approx((2 / 3) ** 0.5)  # sd 1 in every row
