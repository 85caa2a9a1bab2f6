"""Planted AVE: deterministic, in the published layout, faithful to annotations, with the documented
statistics."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import h5py
import numpy as np
import pytest

from jca_fast.cli import main
from jca_fast.data import CATEGORIES, read_annotations, segment_labels, synthesize
from jca_fast.data.planted import World, draw_clip

TINY = {"audio_dim": 8, "visual_dim": 6, "grid": (3, 2)}


def stored(root, stem, dataset="avadataset"):
    with h5py.File(root / f"{stem}.h5") as file:
        return file[dataset][:]


def contents(root):
    return {path.name: path.read_bytes() for path in root.iterdir()}


@pytest.fixture(scope="module")
def clips():
    """112 clips of the default world, four of each class: (world, clips, bounds of events)."""
    world, rng = World(seed=11), np.random.default_rng(0)
    bounds = [sorted(rng.integers(0, 11, 2)) if i % 2 else (0, 10) for i in range(112)]
    return world, [draw_clip(world, i, i % 28, *bounds[i]) for i in range(112)], bounds


def test_published_layout(tmp_path):
    synthesize(tmp_path, num_clips=40, num_noisy=2)
    for stem, shape in {
        "audio_feature": (40, 10, 128),
        "visual_feature": (40, 10, 7, 7, 512),
        "audio_feature_noisy": (2, 10, 128),
        "visual_feature_noisy": (2, 10, 7, 7, 512),
    }.items():
        with h5py.File(tmp_path / f"{stem}.h5") as file:
            assert list(file) == ["avadataset"]
            assert (file["avadataset"].shape, file["avadataset"].dtype) == (shape, np.float64)
            assert file["avadataset"].chunks is None
            values = file["avadataset"][:]
        assert np.array_equal(
            values.astype(np.float32), values
        )  # as the real ones, exact in float32
        assert values.min() == 0
    assert sorted(
        np.concatenate([stored(tmp_path, f"{s}_order", "order") for s in ("train", "val", "test")])
    ) == [*range(40)]
    assert [len(stored(tmp_path, f"{s}_order", "order")) for s in ("train", "val", "test")] == [
        28,
        6,
        6,
    ]
    events = read_annotations(tmp_path / "Annotations.txt")
    assert np.array_equal(stored(tmp_path, "labels"), segment_labels(events))
    assert {event.category for event in events} == set(CATEGORIES[:28])
    assert len({event.video_id for event in events}) == 40


def test_equal_arguments_give_equal_files(tmp_path):
    for name, seed in (("a", 4), ("b", 4), ("c", 5)):
        synthesize(tmp_path / name, num_clips=12, num_noisy=2, seed=seed, **TINY)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    a, c = contents(tmp_path / "a"), contents(tmp_path / "c")
    assert all(
        a[name] != c[name] for name in ("visual_feature.h5", "audio_feature.h5", "train_order.h5")
    )


def test_a_clip_does_not_depend_on_the_others(tmp_path):
    rows = [f"{CATEGORIES[i]}&{i}&good&{i % 3}&{9 - i % 4}\n" for i in range(20)]
    (tmp_path / "A.txt").write_text("".join(rows))
    (tmp_path / "B.txt").write_text(
        "".join([*rows[5::-1], *rows[6:12]])
    )  # rows 6..11 stay where they are
    for name in "AB":
        synthesize(tmp_path / name, annotations=tmp_path / f"{name}.txt", **TINY)
    assert np.array_equal(
        stored(tmp_path / "A", "visual_feature")[6:12], stored(tmp_path / "B", "visual_feature")[6:]
    )
    world = World(28, 10, 8, 6, (3, 2))
    assert np.array_equal(
        stored(tmp_path / "A", "audio_feature")[7], draw_clip(world, 7, 7, 1, 6).audio.astype(float)
    )


def test_float32_has_the_same_values(tmp_path):
    for dtype in ("float64", "float32"):
        synthesize(tmp_path / dtype, num_clips=9, dtype=dtype, **TINY)
    small, large = (
        stored(tmp_path / "float32", "visual_feature"),
        stored(tmp_path / "float64", "visual_feature"),
    )
    assert small.dtype == np.float32
    assert np.array_equal(small, large)


def test_real_annotations_and_splits(shared, tmp_path):
    ave = shared / "data" / "ave"
    synthesize(
        tmp_path,
        annotations=ave / "Annotations.txt",
        orders=ave,
        audio_dim=2,
        visual_dim=2,
        grid=(2, 2),
    )
    for stem in ("labels", "mil_labels", "labels_closs"):
        assert np.array_equal(stored(tmp_path, stem), stored(ave, stem))
    for split in ("train", "val", "test"):
        assert np.array_equal(
            stored(tmp_path, f"{split}_order", "order"), stored(ave, f"{split}_order", "order")
        )
    audible, visible = (
        stored(tmp_path, "planted", "audible"),
        stored(tmp_path, "planted", "visible"),
    )
    background = stored(tmp_path, "labels")[:, :, 28]
    assert np.array_equal(audible & visible, 1 - background)
    for kind in (audible > visible, audible < visible, (audible | visible) == 0):
        assert kind.sum() / background.sum() == pytest.approx(1 / 3, abs=0.03)


def test_event_is_heard_and_seen(clips):
    _, drawn, bounds = clips
    for clip, (start, end) in zip(drawn, bounds, strict=True):
        inside = np.isin(np.arange(10), np.arange(start, end))
        assert np.array_equal(clip.audible & clip.visible, inside)
        assert np.array_equal(clip.position.any(axis=1), clip.visible.astype(bool))
        for place in clip.position[clip.visible == 1].reshape(-1, 7, 7):
            rows, columns = np.flatnonzero(place.any(axis=1)), np.flatnonzero(place.any(axis=0))
            assert place.sum() == len(rows) * len(
                columns
            )  # one block, two or three regions each way
            assert (np.ptp(rows), np.ptp(columns)) in [(1, 1), (1, 2), (2, 1), (2, 2)]


def cosine(features, prototype):
    norms = np.linalg.norm(features, axis=-1) * np.linalg.norm(prototype)
    return features @ prototype / norms


def test_features_show_what_was_planted(clips):
    """After normalisation over channels, an object's regions are the nearest to its class."""
    world, drawn, _ = clips
    inside = []
    outside = []
    heard = []
    silent = []
    for i, clip in enumerate(drawn):
        near = cosine(clip.visual.reshape(10, 49, -1), world.visual_prototypes[i % 28])
        inside.append(near[clip.position == 1])
        outside.append(near[clip.position == 0])
        near = cosine(clip.audio, world.audio_prototypes[i % 28])
        heard.append(near[clip.audible == 1])
        silent.append(near[clip.audible == 0])
        for other in clip.silent_objects:
            near = cosine(clip.visual.reshape(10, 49, -1), world.visual_prototypes[other])
            assert near[clip.position == 1].max(initial=0) < 0.4 < near.max()
    assert np.concatenate(inside).mean() > 0.5 > 0.2 > np.concatenate(outside).mean()
    assert np.concatenate(heard).mean() > np.concatenate(silent).mean() + 0.2


def test_distractors_are_other_classes(clips):
    for i, clip in enumerate(clips[1]):
        present = [i % 28, *clip.silent_objects] + [clip.offscreen_sound] * (
            clip.offscreen_sound >= 0
        )
        assert len(set(present)) == len(present)
    assert 0.35 < np.mean([clip.offscreen_sound >= 0 for clip in clips[1]]) < 0.65


def audio_facts(audio):
    unit = audio / np.linalg.norm(audio, axis=-1, keepdims=True)
    half = len(audio) // 2
    return {
        "zeros": (audio == 0).mean(),
        "norm": np.linalg.norm(audio, axis=-1).mean(),
        "neighbours": (unit[:, 1:] * unit[:, :-1]).sum(axis=-1).mean(),
        "clips": (unit[:half, 0] @ unit[half:, 0].T).mean(),
    }


def test_scale_and_sparsity_of_audio_are_those_of_vggish(clips, shared):
    real = audio_facts(stored(shared / "data" / "ave", "audio_feature_noisy"))
    made = audio_facts(np.stack([clip.audio for clip in clips[1]]))
    for name, tolerance in {"zeros": 0.05, "norm": 0.4, "neighbours": 0.06, "clips": 0.1}.items():
        assert made[name] == pytest.approx(real[name], abs=tolerance), name


def test_scale_and_sparsity_of_pictures(clips):
    visual = np.stack([clip.visual for clip in clips[1]])
    assert visual.dtype == np.float32
    assert visual.min() == 0
    assert 0.7 < (visual == 0).mean() < 0.8
    assert 20 < np.linalg.norm(visual, axis=-1).mean() < 40


def test_settings_are_stored(tmp_path):
    synthesize(
        tmp_path, num_clips=8, seed=2**64 - 1, noise=1.5, distractors=0, offscreen=0.0, **TINY
    )
    with h5py.File(tmp_path / "planted.h5") as file:
        settings = json.loads(file.attrs["settings"])
        assert file["silent_objects"].shape == (8, 0)
        assert (file["offscreen_sound"][:] == -1).all()
        assert file["position"].shape == (8, 10, 6)
    assert (
        settings.items()
        >= {"seed": 2**64 - 1, "noise": 1.5, "distractors": 0, "grid": [3, 2]}.items()
    )


def test_a_difficulty_names_settings_and_given_ones_go_first(tmp_path):
    def stored_settings(name, **options):
        with h5py.File(
            synthesize(tmp_path / name, num_clips=8, **options, **TINY) / "planted.h5"
        ) as file:
            settings = json.loads(file.attrs["settings"])
        return tuple(settings[key] for key in ("noise", "distractors", "offscreen"))

    assert stored_settings("a") == (1.0, 2, 0.5)
    assert stored_settings("b", difficulty="hard") == (1.15, 3, 1.0)
    assert stored_settings("c", difficulty="hard", noise=0.0, distractors=0) == (0.0, 0, 1.0)
    with pytest.raises(ValueError, match="difficulty is 'harder'; needed: standard or hard"):
        synthesize(tmp_path / "d", num_clips=8, difficulty="harder", **TINY)
    assert not (tmp_path / "d").exists()


def test_noise_makes_it_harder():
    def separation(noise):
        world = World(noise=noise)
        clip = draw_clip(world, 0, 0, 0, 10)
        return cosine(clip.visual.reshape(10, 49, -1), world.visual_prototypes[0])[
            clip.position == 1
        ].mean()

    assert separation(0.5) > separation(1.0) + 0.1 > separation(2.0) + 0.2


def test_other_sizes(tmp_path):
    synthesize(
        tmp_path, num_clips=8, num_segments=1, audio_dim=1, visual_dim=1, grid=(2, 2), distractors=3
    )
    assert stored(tmp_path, "visual_feature").shape == (8, 1, 2, 2, 1)
    assert stored(tmp_path, "labels").shape == (8, 1, 29)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dtype": "float16"}, "dtype is 'float16'; needed: 'float64' or 'float32'"),
        ({"num_clips": 7}, "num_clips is 7; needed: 8 or more"),
        ({"num_clips": 9, "annotations": "A.txt"}, "num_clips and annotations were both given"),
        ({"orders": "."}, "orders were given without annotations"),
        ({"num_noisy": -1}, "num_noisy is -1"),
        ({"full_length": 2}, "full_length is 2"),
        ({"seed": -1}, "seed is -1; needed: 0 to"),
        ({"grid": (1, 7)}, "rows of grid is 1; needed: 2"),
        ({"distractors": 4}, "distractors is 4; needed: 0 to 3"),
        ({"offscreen": 1.1}, "offscreen is 1.1; needed: 0 to 1"),
        ({"noise": -1}, "noise is -1"),
        ({"num_segments": 0}, "num_segments is 0; needed: 1"),
    ],
)
def test_bad_arguments_write_nothing(tmp_path, arguments, words):
    with pytest.raises(ValueError, match=words):
        synthesize(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_set_is_not_overwritten_unasked(tmp_path):
    synthesize(tmp_path, num_clips=8, num_noisy=1, **TINY)
    (tmp_path / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match=r"already holds Annotations.txt, audio_feature.h5"):
        synthesize(tmp_path, num_clips=9, **TINY)
    assert contents(tmp_path) == before
    synthesize(tmp_path, num_clips=9, overwrite=True, **TINY)
    assert len(stored(tmp_path, "labels")) == 9
    assert not (tmp_path / "labels_noisy.h5").exists()  # of the old set
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_disk_space_is_checked_first(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12, 10**9))
    with pytest.raises(OSError, match=r"1.00 GB free; needed: 8.\d\d GB for the planted set"):
        synthesize(tmp_path, num_clips=4143)
    assert not list(tmp_path.iterdir())


def test_killed_run_leaves_no_files_and_can_be_repeated(tmp_path):
    root = tmp_path / "set"
    code = (
        "from jca_fast.data import synthesize;"
        f"synthesize({str(root)!r}, num_clips=1000, dtype='float32')"
    )
    path = os.pathsep.join([str(Path.cwd()), *sys.path])
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    growing, deadline = root / ".synth.partial" / "visual_feature.h5", time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if growing.exists() and growing.stat().st_size > 5_000_000:
            break
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert [path.name for path in root.iterdir()] == [".synth.partial"]
    synthesize(root, num_clips=8, **TINY)
    assert not (root / ".synth.partial").exists()
    assert len(stored(root, "visual_feature")) == 8


@pytest.mark.parametrize("moved", [1, 5])
def test_a_run_killed_while_it_moves_its_files_is_finished(tmp_path, monkeypatch, moved):
    synthesize(tmp_path / "whole", num_clips=8, **TINY)
    root, left, move = tmp_path / "set", [moved], Path.replace

    def killed(self, target):
        left[0] -= 1
        if left[0] < 0:
            raise SystemExit
        return move(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    monkeypatch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
    with pytest.raises(SystemExit):
        synthesize(root, num_clips=8, **TINY)
    monkeypatch.undo()
    with pytest.raises(FileExistsError, match="already holds"):
        synthesize(root, num_clips=8, **TINY)
    assert contents(root) == contents(tmp_path / "whole")
    assert not (root / ".synth.partial").exists()


def test_a_log_file_gets_no_bar(tmp_path, capsys):
    flags = ["--num-clips", "8", "--num-noisy", "2", "--segments", "4", "--visual-dim", "6"]
    assert main(["data", "synth", str(tmp_path / "a"), *flags]) == 0
    assert not capsys.readouterr().err


def test_command_takes_every_option(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    options = "--num-noisy 2 --seed 3 --dtype float32 --segments 4 --grid 2 3 --audio-dim 5"
    more = "--visual-dim 6 --noise 0.5 --distractors 1 --offscreen 0.2"
    args = ["data", "synth", str(tmp_path / "a"), "--num-clips", "9", "--full-length", "0.1"]
    assert main([*args, *options.split(), *more.split()]) == 0
    printed = capsys.readouterr()
    assert "a: 0.00 GB in" in printed.out
    assert "clips: 100%" in printed.err
    synthesize(
        tmp_path / "b",
        num_clips=9,
        num_noisy=2,
        seed=3,
        dtype="float32",
        num_segments=4,
        grid=(2, 3),
        audio_dim=5,
        visual_dim=6,
        noise=0.5,
        distractors=1,
        offscreen=0.2,
        full_length=0.1,
    )
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert main([*args, *options.split()]) == 2
    assert "already holds" in capsys.readouterr().err
    rows = [
        "data",
        "synth",
        str(tmp_path / "c"),
        "--annotations",
        str(tmp_path / "a" / "Annotations.txt"),
    ]
    assert main([*rows, "--orders", str(tmp_path / "a"), "--visual-dim", "2"]) == 0
    assert np.array_equal(
        stored(tmp_path / "c", "val_order", "order"), stored(tmp_path / "a", "val_order", "order")
    )
