"""A training run: learning, selection, logs and files; evaluate and predict on its checkpoint."""

from __future__ import annotations

import csv
import json
import statistics
import sys

import numpy as np
import pytest
import torch
from training_tools import MODEL, csv_rows, make_data, settings, train_here, weights

from jca_fast.cli import main
from jca_fast.data import AVEDataset
from jca_fast.training import Config, Objective, Trainer, checkpoint, evaluate_checkpoint, metrics
from jca_fast.training.distributed import Group
from jca_fast.training.inference import evaluate_split
from jca_fast.training.objective import build_model


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A finished run of the paper form and its summary."""
    out = tmp_path_factory.mktemp("run")
    model = {"audio_dim": 8, "visual_dim": 8, "num_layers": 1}
    summary = train_here(
        **settings(data, out, epochs=6, loss="cross_entropy", model=model, tensorboard=True)
    )
    return out, summary


def test_the_loss_falls(finished):
    losses = [float(row["train_loss"]) for row in csv_rows(finished[0] / "metrics.csv")]
    assert losses[-1] < 0.9 * losses[0]


def test_all_logs_tell_the_same(finished, data):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out, summary = finished
    assert json.loads((out / "metrics.json").read_text()) == summary | {
        "history": summary_rows(out)
    }
    rows = csv_rows(out / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    train_here(
        **settings(
            data,
            out,
            epochs=7,
            loss="cross_entropy",
            model=summary["config"]["model"],
            tensorboard=True,
        )
    )
    board = EventAccumulator(str(out / "tensorboard")).Reload()
    for name in ("train_loss", "val_accuracy", "lr"):
        points = board.Scalars(name)
        assert [point.step for point in points] == [1, 2, 3, 4, 5, 6, 7]
        values = [float(row[name]) for row in csv_rows(out / "metrics.csv")]
        assert [point.value for point in points] == pytest.approx(values, rel=1e-6)


def summary_rows(out):
    return json.loads((out / "metrics.json").read_text())["history"]


def test_the_best_epoch_on_validation_is_kept_and_tested(data, tmp_path, monkeypatch):
    scores = iter([0.2, 0.5, 0.5, 0.4])
    seen = []

    def scripted(self, dataset):
        value = next(scores) if dataset is self.val_set else 0.9
        seen.append({key: tensor.clone() for key, tensor in self.model.state_dict().items()})
        return {"loss": 1.0, "accuracy": value, "batch_mean_accuracy": value}

    monkeypatch.setattr(Trainer, "evaluate", scripted)
    summary = train_here(**settings(data, tmp_path, epochs=4))
    assert summary["best"] == {"epoch": 2, "val_accuracy": 0.5}  # the first of equals
    assert summary["test"]["accuracy"] == 0.9
    best = weights(tmp_path / "best.pt")
    assert all(torch.equal(best[key], seen[1][key]) for key in best)
    assert all(
        torch.equal(best[key], seen[-1][key]) for key in best
    )  # the test split was scored with best.pt
    assert any(not torch.equal(best[key], seen[3][key]) for key in best)


def test_early_stop_counts_validations_without_progress(data, tmp_path, monkeypatch):
    scores = iter([0.3, 0.2, 0.4, 0.4, 0.1, 0.9])

    def scripted(self, dataset):
        value = next(scores) if dataset is self.val_set else 0.0
        return {"loss": 1.0, "accuracy": value, "batch_mean_accuracy": value}

    monkeypatch.setattr(Trainer, "evaluate", scripted)
    summary = train_here(**settings(data, tmp_path, epochs=20, early_stop=2, eval_every=2))
    assert (summary["epochs"], summary["stopped_early"], summary["best"]["epoch"]) == (10, True, 6)
    assert [row["val_accuracy"] for row in csv_rows(tmp_path / "metrics.csv")][:4] == [
        "",
        "0.3",
        "",
        "0.2",
    ]


def test_the_plateau_schedule_watches_what_it_is_told(data, tmp_path):
    never = train_here(**settings(data, tmp_path / "a", plateau="none", lr=0.0))
    assert {row["lr"] for row in summary_rows(tmp_path / "a")} == {0.0}
    stuck = settings(
        data, tmp_path / "b", plateau="val_accuracy", lr=1e-9, plateau_factor=0.1, epochs=4
    )
    train_here(**stuck)
    assert [row["lr"] for row in summary_rows(tmp_path / "b")] == pytest.approx(
        [1e-9, 1e-9, 1e-9, 1e-9]
    )  # eps of torch
    train_here(**{**stuck, "lr": 1e-6, "out": str(tmp_path / "c")})
    assert [row["lr"] for row in summary_rows(tmp_path / "c")] == pytest.approx(
        [1e-6, 1e-6, 1e-7, 1e-8]
    )
    assert never["status"] == "finished"


def test_clipping_bounds_the_gradient(data, tmp_path, monkeypatch):
    norms = []
    step = torch.optim.Adam.step

    def watched(self, *args, **kwargs):
        grads = [
            p.grad for group in self.param_groups for p in group["params"] if p.grad is not None
        ]
        norms.append(float(torch.nn.utils.get_total_norm(grads)))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    train_here(**settings(data, tmp_path / "a", epochs=1))
    free, norms = max(norms), norms.clear() or norms
    train_here(**settings(data, tmp_path / "b", epochs=1, clip_norm=free / 10))
    assert 0 < max(norms) <= free / 10 * 1.0001


def test_several_seeds_report_mean_and_sd(data, tmp_path, capsys):
    summary = train_here(**settings(data, tmp_path, epochs=1, seed=4, seeds=3))
    single = train_here(**settings(data, tmp_path / "single", epochs=1, seed=5))
    assert [run["seed"] for run in summary["runs"]] == [4, 5, 6]
    assert summary["runs"][1]["test_accuracy"] == single["test"]["accuracy"]
    for key, value in weights(tmp_path / "single" / "last.pt").items():
        assert torch.equal(weights(tmp_path / "seed5" / "last.pt")[key], value)
    values = [run["val_accuracy"] for run in summary["runs"]]
    score = summary["scores"]["val_accuracy"]
    assert score == {"mean": statistics.mean(values), "sd": statistics.stdev(values)}
    assert json.loads((tmp_path / "seeds.json").read_text()) == summary
    assert (
        f"val_accuracy: {100 * score['mean']:.2f} ± {100 * score['sd']:.2f} %"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("form", ["released", "paper"])
def test_bfloat16_autocast_trains(data, tmp_path, form):
    arguments = settings(
        data, tmp_path, epochs=1, precision="bfloat16", model={**MODEL, "form": form}
    )
    summary = train_here(**arguments)
    assert np.isfinite(summary_rows(tmp_path)[0]["train_loss"])
    assert all(tensor.dtype == torch.float32 for tensor in weights(tmp_path / "last.pt").values())
    assert 0 <= summary["test"]["accuracy"] <= 1


def test_compiled_training_gives_the_same_curve(data, tmp_path):
    """On the smallest model there is, in batches of one size: compiling is slow.
    tests/test_contract.py has the ops."""
    model = {
        "form": "released",
        "modalities": "audio",
        "audio_dim": 4,
        "unimodal_rnn": False,
        "joint_rnn": False,
    }
    arguments = settings(
        data, tmp_path / "a", epochs=1, batch_size=17, model={**model, "dropout": 0.0}
    )
    train_here(**arguments)
    train_here(**{**arguments, "out": str(tmp_path / "b"), "compile": True})
    for name in ("train_loss", "val_loss"):
        compiled, eager = (summary_rows(tmp_path / folder)[0][name] for folder in "ba")
        assert compiled == pytest.approx(eager, rel=1e-5)
    assert weights(tmp_path / "a" / "last.pt").keys() == weights(tmp_path / "b" / "last.pt").keys()


def test_a_loss_that_is_not_finite_stops_the_run(data, tmp_path):
    with pytest.raises(RuntimeError, match="the loss of epoch 1 is nan"):
        train_here(**settings(data, tmp_path, lr=1e30, loss="cross_entropy"))
    assert not (tmp_path / "last.pt").exists()


def test_losses(data):
    train_set = AVEDataset(data, "train")
    audio, visual, labels = (
        torch.stack(tensors) for tensors in zip(*(train_set[i] for i in range(3)), strict=True)
    )
    for form, automatic in (("released", "softmargin"), ("paper", "softmargin_logits")):
        model = build_model({**MODEL, "form": form}, train_set).eval()
        logits, probabilities = model.logits(audio, visual), model(audio, visual)
        values = {
            name: Objective(model, name)(audio, visual, labels)[0]
            for name in ("auto", "cross_entropy")
        }
        given = {"softmargin": probabilities, "softmargin_logits": logits}[automatic]
        wanted = torch.nn.MultiLabelSoftMarginLoss()(given.flatten(0, 1), labels.flatten(0, 1))
        torch.testing.assert_close(values["auto"], wanted)
        wanted = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.argmax(-1).flatten()
        )
        torch.testing.assert_close(values["cross_entropy"], wanted)
    with pytest.raises(ValueError, match="loss: expected one of auto, "):
        Objective(model, "mse")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"forms": "paper"}, "model: unknown key 'forms'; did you mean 'form'"),
        ({"num_segments": 10}, r"model: num_segments is 10, but the data in .* have 4"),
        ({"form": "mine"}, "form must be one of 'paper', 'released'; got 'mine'"),
    ],
)
def test_model_arguments_are_checked_before_anything_is_written(data, tmp_path, model, message):
    with pytest.raises(ValueError, match=message):
        train_here(**settings(data, tmp_path / "out", model=model))
    assert not (tmp_path / "out").exists()


def test_the_start_says_what_runs(data, tmp_path, capsys):
    train_here(**settings(data, tmp_path, epochs=1))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        f"data     {data}: 34 training and 7 validation clips, 4 segments, 29 classes"
    )
    assert "million parameters, audio_dim=4" in lines[1]
    assert any(line.startswith("backend  released_attention: ") for line in lines)


def test_without_tensorboard_one_line_says_so(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    train_here(**settings(data, tmp_path, epochs=1, tensorboard=True))
    assert capsys.readouterr().out.count("TensorBoard is not installed") == 1
    assert (tmp_path / "metrics.csv").exists()


# ---- evaluate and predict


def test_evaluate_counts_what_a_loop_counts(data, finished):
    out, summary = finished
    result = evaluate_checkpoint(out, data, batch_size=3, device="cpu")
    model, _ = checkpoint.load_model(out)
    test_set, train_set = AVEDataset(data, "test"), AVEDataset(data, "train")
    predicted = torch.cat([model(a[None], v[None]).argmax(-1) for a, v, _ in test_set])
    target = test_set.labels.argmax(-1)
    assert result["accuracy"] == pytest.approx(float((predicted == target).float().mean()))
    assert result["confusion"] == metrics.confusion_matrix(predicted, target, 29).tolist()
    assert result["confusion"] == summary["test"]["confusion"]
    assert result["majority_baseline"] == metrics.majority_baseline(
        target, train_set.labels.argmax(-1)
    )
    assert 0 < result["pointing_game"]["chance"] < 1


def test_the_pointing_game_is_played_on_events_of_the_split(data, finished):
    import h5py

    out, _ = finished
    model, _ = checkpoint.load_model(out)
    dataset = AVEDataset(data, "test")
    hits = total = 0
    with h5py.File(data / "planted.h5") as file:
        for item, row in enumerate(dataset.indices.tolist()):
            audio, visual, _ = dataset[item]
            attention = model(audio[None], visual[None], return_maps=True)[1]["visual_attention"][0]
            for segment in range(4):
                if file["audible"][row, segment] and file["visible"][row, segment]:
                    total += 1
                    hits += int(
                        file["position"][row, segment][int(attention[segment].argmax())] > 0
                    )
    game = evaluate_checkpoint(out, data, device="cpu")["pointing_game"]
    assert (game["segments"], game["accuracy"]) == (total, pytest.approx(hits / total))


def test_no_pointing_game_without_attention_or_planted_places(data, tmp_path):
    train_here(**settings(data, tmp_path / "run", epochs=1, model={**MODEL, "modalities": "audio"}))
    assert evaluate_checkpoint(tmp_path / "run", data, device="cpu")["pointing_game"] is None
    for path in data.iterdir():
        if path.name != "planted.h5":
            (tmp_path / path.name).symlink_to(path)
    assert evaluate_checkpoint(tmp_path / "run", tmp_path, device="cpu")["pointing_game"] is None


def test_evaluate_command_prints_a_table_and_writes_json(data, finished, tmp_path, capsys):
    out, _ = finished
    arguments = [
        "evaluate",
        str(out / "best.pt"),
        "--data",
        str(data),
        "--split",
        "val",
        "--device",
        "cpu",
    ]
    assert main([*arguments, "-o", str(tmp_path / "val.json")]) == 0
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "val.json").read_text())
    line = next(line for line in printed.splitlines() if "accuracy, all segments" in line)
    assert line.split()[-2:] == [f"{100 * result['accuracy']:.2f}", "%"]
    assert "Church bell" in printed
    assert "Background" in printed
    assert main(["evaluate", str(tmp_path / "no.pt"), "--data", str(data)]) == 2
    assert "no.pt: no such checkpoint" in capsys.readouterr().err


def test_evaluation_leaves_the_random_generators_alone(data, finished):
    model, _ = checkpoint.load_model(finished[0])
    before = torch.get_rng_state()
    evaluate_split(
        Objective(model), AVEDataset(data, "val"), Group(torch.device("cpu")), batch_size=2
    )
    assert torch.equal(torch.get_rng_state(), before)


def test_predict_writes_every_segment(data, finished, tmp_path):
    out, _ = finished
    flags = ["predict", str(out), "--data", str(data), "--device", "cpu"]
    assert main([*flags, "-o", str(tmp_path / "p.csv")]) == 0
    assert main([*flags, "-o", str(tmp_path / "p.json"), "--batch-size", "2"]) == 0
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    content = json.loads((tmp_path / "p.json").read_text())
    model, _ = checkpoint.load_model(out)
    dataset = AVEDataset(data, "test")
    from jca_fast.data import CATEGORIES

    assert len(rows) == len(content["segments"]) == len(dataset) * 4
    audio, visual, _ = dataset[1]
    best = model.logits(audio[None], visual[None])[0].detach().softmax(-1).max(-1)  # (4,)
    for row, segment, score, label in zip(
        rows[4:8], content["segments"][4:8], best.values, best.indices, strict=True
    ):
        assert row["clip"].startswith(f"{int(dataset.indices[1])}:")
        assert row["class"] == segment["class"] == CATEGORIES[label]
        assert float(row["score"]) == pytest.approx(float(score), rel=1e-5)
        assert (row["segment"], row["clip"]) == (str(segment["segment"]), segment["clip"])


def test_predict_takes_an_npz(data, finished, tmp_path, capsys):
    out, _ = finished
    dataset = AVEDataset(data, "test")
    audio, visual, _ = (torch.stack(tensors).numpy() for tensors in zip(*dataset, strict=True))
    np.savez(
        tmp_path / "mine.npz",
        audio=audio,
        visual=visual,
        clips=[f"clip{i}" for i in range(len(audio))],
    )
    flags = ["--device", "cpu", "-o"]
    assert (
        main(
            [
                "predict",
                str(out),
                "--data",
                str(tmp_path / "mine.npz"),
                *flags,
                str(tmp_path / "a.csv"),
            ]
        )
        == 0
    )
    assert main(["predict", str(out), "--data", str(data), *flags, str(tmp_path / "b.csv")]) == 0
    a, b = ((tmp_path / name).read_text().splitlines() for name in ("a.csv", "b.csv"))
    assert a[5].startswith("clip1,0,")
    assert [line.split(",", 1)[1] for line in a] == [line.split(",", 1)[1] for line in b]
    capsys.readouterr()
    np.savez(tmp_path / "bad.npz", audio=audio)
    (tmp_path / "damaged.npz").write_bytes((tmp_path / "mine.npz").read_bytes()[:-50])
    for name, output, message in [
        ("bad.npz", "c.csv", "needed: visual (n, N, 7, 7, d_v)"),
        ("damaged.npz", "c.csv", "not a whole .npz file"),
        ("none.npz", "c.csv", "none.npz: no such file"),
        ("mine.npz", "c.txt", "must end in .json or .csv"),
        ("mine.npz", "no/c.csv", "no such folder"),
    ]:
        assert (
            main(
                [
                    "predict",
                    str(out),
                    "--data",
                    str(tmp_path / name),
                    *flags,
                    str(tmp_path / output),
                ]
            )
            == 2
        )
        assert message in capsys.readouterr().err
        assert not (tmp_path / output).exists()


def test_config_is_written_beside_the_checkpoint(finished):
    out, _ = finished
    config = json.loads((out / "config.json").read_text())
    assert Config(**config).batch_size == 8
