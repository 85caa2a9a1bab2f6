"""Fine-tuning, weak supervision, probabilities, events, calibration, pictures and reports."""

from __future__ import annotations

import csv
import json
import math
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from training_tools import MODEL, environment, make_data, settings, train_here, weights

from jca_fast.cli import main
from jca_fast.data import AVEDataset, synthesize
from jca_fast.training import Config, Objective, checkpoint, evaluate_checkpoint, logs, metrics
from jca_fast.training.objective import build_model

SHAPE = {"num_segments": 4, "audio_dim": 6, "visual_dim": 5, "grid": (2, 2), "noise": 0.3}
PAPER = {"audio_dim": 8, "visual_dim": 8, "num_layers": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("made") / "data")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    summary = train_here(**settings(data, out, epochs=4, model=PAPER))
    return out, summary


# ---- defaults


def test_features_are_taken_as_they_are_unless_asked_for(data):
    dataset = AVEDataset(data, "train")
    assert build_model(MODEL, dataset).config["normalize"] is False
    assert build_model({**MODEL, "normalize": True}, dataset).config["normalize"] is True


def few_classes(folder, count, **shape):
    """A planted set of three classes with other names."""
    rows = [f"event {i % 3}&clip{i}&good&{i % 2}&{2 + i % 3}" for i in range(count)]
    (folder / "A.txt").write_text("\n".join(rows))
    shape = {**SHAPE, "distractors": 1, **shape}
    return synthesize(folder / "few", annotations=folder / "A.txt", **shape)


def test_the_defaults_learn_more_than_the_most_frequent_class(tmp_path):
    root = few_classes(tmp_path, 120, audio_dim=32, visual_dim=32)
    model = {"audio_dim": 32, "visual_dim": 32, "num_layers": 2}
    run = {"data": str(root), "device": "cpu", "progress": False, "epochs": 20, "batch_size": 16}
    ours = train_here(out=str(tmp_path / "a"), model=model, **run)
    baseline = ours["val_majority_baseline"]
    assert ours["best"]["val_accuracy"] > baseline + 0.15
    assert baseline == metrics.majority_baseline(
        AVEDataset(root, "val").labels.argmax(-1), AVEDataset(root, "train").labels.argmax(-1)
    )


def test_a_run_on_the_baseline_says_so(data, tmp_path, capsys):
    summary = train_here(**settings(data, tmp_path, epochs=2, lr=0.0))
    printed = capsys.readouterr().out
    baseline = 100 * summary["val_majority_baseline"]
    assert f"baseline {baseline:.1f} % of the validation segments" in printed
    if summary["best"]["val_accuracy"] <= summary["val_majority_baseline"] + 0.005:
        assert printed.count("(baseline)") == 2
        assert "warning  the model does not beat the most frequent class" in printed
    row = {"epoch": 1, "train_loss": 1.0, "train_accuracy": 0.5, "val_loss": 1.0, "lr": 0.1}
    row |= {"seconds": 1.0}
    assert "(baseline)" in logs.epoch_line({**row, "val_accuracy": 0.24}, 3, True, 0.239)
    assert "(baseline)" not in logs.epoch_line({**row, "val_accuracy": 0.30}, 3, True, 0.239)
    assert "(baseline)" not in logs.epoch_line({**row, "val_accuracy": None}, 3, True, 0.239)


def test_slow_features_are_named_with_the_remedy(data, tmp_path, capsys):
    train_here(**settings(data, tmp_path / "a", epochs=1))
    assert "hint" not in capsys.readouterr().out
    root = synthesize(tmp_path / "data", num_clips=48, dtype="float64", **SHAPE)
    train_here(**settings(root, tmp_path / "b", epochs=1))
    assert f"`jca-fast data prepare {root}`" in capsys.readouterr().out


# ---- fine-tuning


def test_init_starts_from_the_weights_of_a_run(data, run, tmp_path):
    out, _ = run
    summary = train_here(**settings(data, tmp_path, epochs=1, lr=0.0, model={}, init=str(out)))
    assert summary["model"]["audio_dim"] == 8  # the sizes come from the checkpoint
    best, found = weights(out / "best.pt"), weights(tmp_path / "best.pt")
    assert all(torch.equal(found[key], best[key]) for key in best)


def test_init_with_other_classes_keeps_all_but_the_last_layer(run, tmp_path, capsys):
    out, _ = run
    few = few_classes(tmp_path, 24)
    run = settings(few, tmp_path / "run", epochs=1, lr=0.0, model={}, init=str(out / "best.pt"))
    train_here(**run)
    assert "it has other classes, so the last layer starts anew" in capsys.readouterr().out
    best, found = weights(out / "best.pt"), weights(tmp_path / "run" / "best.pt")
    fresh = [key for key in best if not torch.equal(best[key], found[key])]
    assert len(fresh) <= 2
    assert all(key.startswith("head.") for key in fresh)
    assert found[fresh[0]].shape[0] == 4


def test_init_takes_converted_and_published_weights(tmp_path):
    from jca_fast.compat.native import to_published

    root = synthesize(tmp_path / "data", num_clips=28, dtype="float32")
    made, arguments = tmp_path / "made", {"form": "released", "normalize": True}
    sizes = {"audio_dim": 8, "visual_dim": 8, "num_layers": 1, **arguments}
    train_here(**settings(root, made, epochs=1, model=sizes))
    model, _ = checkpoint.load_model(made)
    torch.save(to_published(model).state_dict(), tmp_path / "published.pt")
    assert main(["convert", str(made / "best.pt"), str(tmp_path / "converted.safetensors")]) == 0
    for name in ("published.pt", "converted.safetensors"):
        run = settings(root, tmp_path / name[:4], epochs=1, lr=0.0, model={})
        train_here(**{**run, "init": str(tmp_path / name)})
        best, found = weights(made / "best.pt"), weights(tmp_path / name[:4] / "best.pt")
        assert all(torch.equal(found[key], best[key]) for key in best)


def test_init_names_a_missing_file(data, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.pt: no such checkpoint"):
        train_here(**settings(data, tmp_path / "run", init=str(tmp_path / "gone.pt")))
    assert not (tmp_path / "run").exists()


# ---- weak supervision


@pytest.mark.parametrize("loss", ["softmargin", "softmargin_logits", "cross_entropy"])
def test_loss_of_whole_clips(data, loss):
    torch.manual_seed(0)
    model = build_model({**MODEL, "dropout": 0.0, "rnn_dropout": 0.0}, AVEDataset(data, "train"))
    objective = Objective(model.eval(), loss)
    items = [AVEDataset(data, "train", weak=True, noisy=False)[i] for i in range(3)]
    audio, visual, labels = (torch.stack(tensors) for tensors in zip(*items, strict=True))
    value, predicted = objective(audio, visual, labels)
    if loss == "cross_entropy":
        shares = model.logits(audio, visual).softmax(-1).mean(dim=1)  # (B, C)
        wanted = -(labels * shares.log()).sum(-1).mean()
    else:
        scores = model(audio, visual) if loss == "softmargin" else model.logits(audio, visual)
        shares = scores.mean(dim=1)
        wanted = torch.nn.MultiLabelSoftMarginLoss()(shares, labels)
    torch.testing.assert_close(value, wanted)
    assert torch.equal(predicted, shares.argmax(-1))


def test_weak_supervision_learns_from_labels_of_clips(tmp_path, capsys):
    root = synthesize(tmp_path / "data", num_clips=96, num_noisy=8, dtype="float32", **SHAPE)
    arguments = settings(root, tmp_path / "run", epochs=6, supervision="weak", model=PAPER)
    summary = train_here(**arguments)
    assert "75 training and 15 validation clips, 4 segments, 29 classes, labels by clip" in (
        capsys.readouterr().out
    )
    losses = [
        row["train_loss"]
        for row in json.loads((tmp_path / "run/metrics.json").read_text())["history"]
    ]
    assert losses[-1] < 0.9 * losses[0]
    assert 0 <= summary["test"]["accuracy"] <= 1
    for path in root.glob("*_noisy.h5"):
        path.unlink()
    train_here(**{**arguments, "out": str(tmp_path / "without"), "epochs": 1})
    assert "67 training" in capsys.readouterr().out


# ---- probabilities, events, calibration


@pytest.mark.parametrize("loss", ["softmargin", "softmargin_logits", "cross_entropy"])
@pytest.mark.parametrize("form", ["paper", "released"])
def test_probabilities_fit_the_loss(data, form, loss):
    model = build_model({**MODEL, "form": form}, AVEDataset(data, "train")).eval()
    objective = Objective(model, loss)
    audio, visual, _ = (tensor[None] for tensor in AVEDataset(data, "test")[0])
    found = objective.probabilities(objective.scores(audio, visual))
    wanted = {
        "cross_entropy": lambda: model.logits(audio, visual).softmax(-1),
        "softmargin_logits": lambda: model.logits(audio, visual).sigmoid(),
        "softmargin": lambda: model(audio, visual),
    }[loss]()
    torch.testing.assert_close(found, wanted)


def test_predict_writes_all_classes_and_events(data, run, tmp_path):
    out, _ = run
    flags = ["predict", str(out), "--data", str(data), "--device", "cpu", "--all-classes"]
    events_file = ["--events", str(tmp_path / "e.csv")]
    assert main([*flags, "-o", str(tmp_path / "p.json"), *events_file]) == 0
    assert main([*flags, "-o", str(tmp_path / "p.csv")]) == 0
    content = json.loads((tmp_path / "p.json").read_text())
    for row in content["segments"]:
        assert math.fsum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert (
            row["probabilities"][row["class"]] == row["score"] == max(row["probabilities"].values())
        )
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["clip", "segment", "class", "score", *content["classes"]]
    clips = {}
    for row in content["segments"]:
        clips.setdefault(row["clip"], []).append(row["class"])
    painted = {clip: ["Background"] * 4 for clip in clips}
    for event in content["events"]:
        painted[event["clip"]][event["start"] : event["end"]] = [event["class"]] * (
            event["end"] - event["start"]
        )
        scores = [
            r["score"]
            for r in content["segments"]
            if r["clip"] == event["clip"] and event["start"] <= r["segment"] < event["end"]
        ]
        assert event["score"] == pytest.approx(np.mean(scores))
    assert painted == clips
    with (tmp_path / "e.csv").open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert [(e["clip"], int(e["start"])) for e in listed] == [
        (e["clip"], e["start"]) for e in content["events"]
    ]


def test_calibration_is_that_of_a_loop():
    torch.manual_seed(1)
    confidence, right = torch.rand(5, 40), torch.rand(5, 40) < 0.6
    confidence[0, :3] = torch.tensor([0.0, 1.0, 1 / 15])
    gap = 0.0
    for i in range(15):
        low, high = i / 15, (i + 1) / 15
        inside = (confidence > low) & (confidence <= high) | ((i == 0) & (confidence == 0))
        if inside.any():
            difference = right[inside].double().mean() - confidence[inside].double().mean()
            gap += float(inside.sum() / 200 * difference.abs())
    found = metrics.calibration(confidence, right)
    assert found["ece"] == pytest.approx(gap, abs=1e-6)
    assert sum(entry["segments"] for entry in found["reliability"]) == 200
    assert metrics.calibration(torch.tensor([math.nan]), torch.tensor([False]))["ece"] is None
    perfect = metrics.calibration(torch.ones(4), torch.ones(4, dtype=torch.bool))
    assert perfect["ece"] == 0


def test_evaluate_reports_calibration(data, run):
    result = evaluate_checkpoint(run[0], data, device="cpu")
    assert 0 <= result["ece"] <= 1
    assert sum(entry["segments"] for entry in result["reliability"]) == result["num_segments"]


def test_classes_of_the_set_are_told_by_their_names(data, tmp_path, capsys):
    root = shutil.copytree(data, tmp_path / "data")
    path, known = root / "Annotations.txt", {}
    rows = [line.split("&") for line in path.read_text().splitlines()]
    for row in rows:
        row[0] = known.setdefault(row[0], f"my event {len(known)}")
    path.write_text("\n".join("&".join(row) for row in rows))
    train_here(**settings(root, tmp_path / "run", epochs=1))
    flags = ["--data", str(root), "--device", "cpu"]
    assert main(["evaluate", str(tmp_path / "run"), *flags]) == 0
    printed = capsys.readouterr().out
    assert "my event 21" in printed
    assert "Chainsaw" not in printed
    clip = AVEDataset(root, "test")[0]
    np.savez(tmp_path / "a.npz", audio=clip[0][None], visual=clip[1][None])
    npz = ["--data", str(tmp_path / "a.npz"), "--device", "cpu", "-o", str(tmp_path / "p.json")]
    assert main(["predict", str(tmp_path / "run"), *npz]) == 0
    assert json.loads((tmp_path / "p.json").read_text())["classes"][21] == "my event 21"


# ---- the search for a learning rate


def test_find_lr_suggests_and_writes_nothing(data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = ["--model", "audio_dim=8", "visual_dim=8", "num_layers=1"]
    assert main(["train", "--data", str(data), "--device", "cpu", "--find-lr", *model]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert 1e-5 < float(last.split("--lr ")[1]) < 0.2
    assert not list(tmp_path.iterdir())


# ---- pictures and reports


def test_pictures_of_scores_and_curves(data, run, tmp_path, capsys):
    from matplotlib.image import imread

    out, _ = run
    flags = ["--data", str(data), "--device", "cpu", "--plots", str(tmp_path / "new" / "pictures")]
    assert main(["evaluate", str(out), *flags]) == 0
    names = {path.name for path in (tmp_path / "new" / "pictures").iterdir()}
    assert names == {"confusion.png", "classes.png", "reliability.png"}
    for path in [*(tmp_path / "new" / "pictures").iterdir(), out / "curves.png"]:
        assert imread(path)[..., :3].std() > 0.02


def test_progress_counts_the_whole_run(capsys, monkeypatch):
    bar = logs.Progress(20, 5, True)
    assert (bar.bar.total, bar.bar.n) == (20, 5)
    bar.step("epoch 1, batch 6 of 10")
    assert bar.bar.n == 6
    bar.close()
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    quiet, plain = logs.Progress(20, 0, False), logs.Progress(20, 0, None)
    plain.bar.disable = True  # as off a terminal
    capsys.readouterr()
    for i in range(1, 4):
        now[0] = 50.0 * i
        quiet.step(f"epoch 1, batch {i} of 10")
        plain.step(f"epoch 1, batch {i} of 10")
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["epoch 1, batch 2 of 10, 15 min left"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(12, "12 s"), (600, "10 min"), (3600 * 2 + 300, "2 h 5 min")]
)
def test_durations(seconds, text):
    assert logs.duration(seconds) == text


def test_log_files_hold_no_bars(data, tmp_path):
    command = [sys.executable, "-m", "jca_fast", "train", "--data", str(data), "--epochs", "2"]
    command += ["--out", str(tmp_path / "run"), "--device", "cpu", "--threads", "1"]
    command += ["--model", *(f"{name}={value}" for name, value in MODEL.items())]
    with (tmp_path / "log").open("w") as log:
        subprocess.run(command, env=environment(), stdout=log, stderr=log, check=True)
    text = (tmp_path / "log").read_text()
    assert "\r" not in text
    assert "epoch 2/2" in text
    assert "1 thread each" in text


def test_settings_of_a_run_are_read_back(run, data, tmp_path):
    out, _ = run
    config = json.loads((out / "config.json").read_text())
    assert Config(**config).supervision == "full"
    flags = ["--config", str(out / "config.json"), "--out", str(tmp_path), "--epochs", "1"]
    assert main(["train", *flags, "--no-progress"]) == 0
    assert json.loads((tmp_path / "config.json").read_text())["model"] == config["model"]


def test_visualize_writes_other_formats_without_titles_and_reads_npz(data, run, tmp_path, capsys):
    out, _ = run
    flags = ["--clips", "1", "--format", "pdf,svg", "--no-titles", "-o", str(tmp_path / "a")]
    assert main(["visualize", str(out), "--data", str(data), *flags]) == 0
    written = sorted(path for path in (tmp_path / "a").iterdir())
    assert {path.suffix for path in written} == {".pdf", ".svg"}
    assert all(path.read_bytes()[:4] in (b"%PDF", b"<?xm") for path in written)
    clip = AVEDataset(data, "test")[0]
    npz = tmp_path / "mine.npz"
    np.savez(npz, audio=clip[0][None], visual=clip[1][None], clips=["mine"])
    assert main(["visualize", str(out), "--data", str(npz), *flags[:2], "-o", str(tmp_path)]) == 0
    assert (tmp_path / "0_timeline.png").exists()
    capsys.readouterr()
    bad = ["--format", "gif", "-o", str(tmp_path / "b")]
    assert main(["visualize", str(out), "--data", str(data), *bad]) == 2
    assert "--format: expected png, pdf, svg, got ['gif']" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_legends_name_the_marks_that_are_there():
    from jca_fast.visualize.attention import draw_attention
    from jca_fast.visualize.clips import ClipView
    from jca_fast.visualize.timeline import draw_timeline

    position = np.zeros((4, 2, 2), bool)
    facts = {"row": 0, "video_id": "", "classes": ["a", "Background"]}
    right = np.zeros(4, np.int64)
    view = ClipView(
        **facts,
        target=right,
        predicted=right,
        audio_norm=np.ones(4),
        attention=np.full((4, 2, 2), 0.25),
        position=position,
        audible=np.ones(4, bool),
    )

    def legend(figure):
        return [text.get_text() for text in figure.legends[0].get_texts()]

    assert legend(draw_timeline(view)) == ["✓ right", "most attended"]
    assert legend(draw_attention(view)) == ["most attended region"]
    position[1, 0, 0] = True
    assert legend(draw_timeline(view)) == ["✓ right", "planted, heard", "most attended"]
    view.audible[1] = False
    assert legend(draw_attention(view)) == ["most attended region", "seen but silent"]
    assert draw_timeline(view, titles=False).texts[0].get_text().startswith("audio feature length")
