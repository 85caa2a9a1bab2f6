"""Extraction of many videos: layout, windows, labels, resuming, failures, compatible features."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("soxr", reason="soxr is not installed")

from video_tools import make_video

from jca_fast import atomic
from jca_fast.cli import main
from jca_fast.data.ave import AVEDataset
from jca_fast.data.record import read_record, require_same_features
from jca_fast.models import AVELocalizer
from jca_fast.training import checkpoint
from jca_fast.training.config import Config
from jca_fast.training.start import start_model
from jca_fast.video import extractors, store
from jca_fast.video.settings import Extractor, Settings
from jca_fast.video.sources import find_videos
from jca_fast.video.windows import Window, average, cut

FAST = ["--frames-per-segment", "2"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Three videos of 3, 5 and 2 seconds, a file that is no video, and one without sound."""
    root = tmp_path_factory.mktemp("videos")
    for name, seconds in (("a", 3.0), ("b", 5.0), ("c", 2.0)):
        make_video(root / f"{name}.mp4", seconds)
    (root / "not.mp4").write_bytes(b"text " * 100)
    make_video(root / "mute.mp4", 1.0, audio=None)
    return root


@pytest.fixture(scope="module")
def unlabelled(videos, tmp_path_factory):
    """An extracted set of windows of 3 segments, and an untrained model whose features it has."""
    out = tmp_path_factory.mktemp("set")
    names = [str(videos / f"{name}.mp4") for name in "abc"]
    assert main(["extract", *names, "-o", str(out), "--num-segments", "3", *FAST]) == 0
    model = AVELocalizer(8, 8, 1, num_segments=3)
    checkpoint.save(out / "model.pt", model, features=read_record(out))
    return out


# ---- windows


@pytest.mark.parametrize(
    ("segments", "size", "hop", "expected"),
    [
        (10, 10, 10, [(0, 10)]),
        (3, 10, 10, [(0, 3)]),
        (12, 10, 10, [(0, 10), (10, 2)]),
        (12, 10, 5, [(0, 10), (5, 7)]),
        (20, 10, 5, [(0, 10), (5, 10), (10, 10)]),
        (1, 1, 1, [(0, 1)]),
    ],
)
def test_windows_cover_the_video(segments, size, hop, expected):
    windows = cut(segments, size, hop)
    assert [(w.start, w.length) for w in windows] == expected


def test_windows_that_leave_gaps_are_refused():
    for hop in (0, 11):
        with pytest.raises(ValueError, match="needed: 1 to 10"):
            cut(20, 10, hop)


def test_overlaps_are_averaged_and_padding_takes_no_part():
    values = np.array([[[1.0], [1.0], [1.0]], [[3.0], [5.0], [99.0]]])
    mean = average(values, [Window(0, 3), Window(2, 2)], 4)
    assert mean[:, 0].tolist() == [1.0, 1.0, 2.0, 5.0]


# ---- which files


def test_folders_globs_and_lists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("x/1.mp4", "x/deep/2.MKV", "x/readme.md", "y/3.webm"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("y/list.txt").write_text("3.webm\nx/1.mp4\n\nmissing.mp4\n")
    assert find_videos(["x"]) == [Path("x/1.mp4"), Path("x/deep/2.MKV")]
    assert find_videos(["*/*.mp4", "x"]) == [Path("x/1.mp4"), Path("x/deep/2.MKV")]
    assert [p.name for p in find_videos(["y/list.txt"])] == ["3.webm", "1.mp4", "missing.mp4"]
    for argument, text in (("*.avi", "matches no file"), ("empty", "no video in this folder")):
        Path("empty").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match=text):
            find_videos([argument])


# ---- the set


def test_layout_windows_and_record(unlabelled, videos):
    with h5py.File(unlabelled / "audio_feature.h5") as file:
        audio, record = file["avadataset"][:], json.loads(file.attrs["extraction"])
    with h5py.File(unlabelled / "visual_feature.h5") as file:
        visual = file["avadataset"][:]
        assert json.loads(file.attrs["extraction"]) == record
    assert audio.shape == (4, 3, 128)
    assert visual.shape == (4, 3, 7, 7, 512)
    assert audio.dtype == visual.dtype == np.float32
    with h5py.File(unlabelled / "clips.h5") as file:
        names = [Path(name.decode()).name for name in file["video"]]
        assert names == ["a.mp4", "b.mp4", "b.mp4", "c.mp4"]
        assert file["start"][:].tolist() == [0, 0, 3, 0]
        assert file["length"][:].tolist() == [3, 3, 2, 2]
    for features in (audio, visual):
        assert not features[2, 2].any()
        assert not features[3, 2].any()
        assert features[2, 1].any()
    assert record["visual"]["name"] == "embedded 1"
    assert len(record["visual"]["sha256"]) == 64
    assert record["frames_per_segment"] == 2
    assert set(record["versions"]) == {"jca_fast", "torch", "numpy", "av", "python"}


def test_hop_and_float16(videos, unlabelled, tmp_path):
    out = tmp_path / "set"
    command = ["extract", str(videos / "b.mp4"), "-o", str(out), "--num-segments", "3", *FAST]
    assert main([*command, "--hop", "1", "--dtype", "float16"]) == 0
    with h5py.File(out / "visual_feature.h5") as file:
        rows = file["avadataset"][:]
    assert rows.shape == (3, 3, 7, 7, 512)
    assert rows.dtype == np.float16
    np.testing.assert_array_equal(rows[0, 1], rows[1, 0])
    with h5py.File(unlabelled / "visual_feature.h5") as file:
        np.testing.assert_allclose(rows[0], file["avadataset"][1], rtol=1e-3, atol=1e-3)


def test_failures_are_named_and_the_rest_goes_on(videos, tmp_path, capsys):
    assert main(["extract", str(videos), "gone.mp4", "-o", str(tmp_path / "set"), *FAST]) == 1
    said = capsys.readouterr()
    errors = said.err.strip().splitlines()
    assert len(errors) == 3
    for name, text in (
        ("not.mp4", "not a readable video"),
        ("mute.mp4", "no audio stream"),
        ("gone.mp4", "no such file"),
    ):
        assert [line for line in errors if name in line and text in line]
        assert [line for line in said.out.splitlines() if name in line and text in line]
    assert "3 of 6 videos, 10 segments" in said.out
    assert "Traceback" not in said.err


def test_nothing_is_written_where_every_video_fails(videos, tmp_path, capsys):
    out = tmp_path / "set"
    assert main(["extract", str(videos / "not.mp4"), "-o", str(out)]) == 1
    assert "nothing was written" in capsys.readouterr().out
    assert not list(out.glob("*.h5"))


def test_workers_give_the_same_features(videos, unlabelled, tmp_path):
    names = [str(videos / f"{name}.mp4") for name in "abc"]
    out = tmp_path / "set"
    assert (
        main(["extract", *names, "-o", str(out), "--num-segments", "3", *FAST, "--workers", "2"])
        == 0
    )
    for name in ("audio_feature.h5", "visual_feature.h5"):
        with h5py.File(out / name) as mine, h5py.File(unlabelled / name) as theirs:
            np.testing.assert_allclose(mine["avadataset"][:], theirs["avadataset"][:], atol=1e-4)


def test_a_second_run_computes_only_what_is_new(videos, tmp_path, monkeypatch):
    out, computed = tmp_path / "set", []
    whole = store.store_features

    def watch(path, *rest):
        computed.append(Path(path).name)
        return whole(path, *rest)

    monkeypatch.setattr(store, "store_features", watch)
    shutil.copy(videos / "a.mp4", tmp_path / "a.mp4")
    shutil.copy(videos / "c.mp4", tmp_path / "c.mp4")
    command = ["extract", "-o", str(out), str(tmp_path / "a.mp4")]
    assert main([*command, *FAST]) == 0
    (out / ".videos" / f"{store.UNFINISHED}x").mkdir()  # of a run that was killed
    assert main([*command, str(tmp_path / "c.mp4"), *FAST]) == 0
    assert computed == ["a.mp4", "c.mp4"]
    assert not list((out / ".videos").glob(f"{store.UNFINISHED}*"))
    shutil.copy(videos / "b.mp4", tmp_path / "a.mp4")  # another video under the same name
    assert main([*command, *FAST]) == 0
    assert main([*command, "--frames-per-segment", "3"]) == 0  # other settings
    assert computed == ["a.mp4", "c.mp4", "a.mp4", "a.mp4"]


def test_labels_and_splits(videos, tmp_path, capsys):
    rows = ["Bark&a&good&0&2", "Cat&b&good&1&3", "Bark&nowhere&good&0&1", "Horse&c&good&0&2"]
    annotations, out = tmp_path / "Annotations.txt", tmp_path / "set"
    annotations.write_text("\n".join(rows))
    names = [str(videos / f"{name}.mp4") for name in "abc"]
    command = ["extract", *names, "-o", str(out), "--annotations", str(annotations), *FAST]
    assert main([*command, "--num-segments", "3"]) == 0
    assert "1 rows have no video" in capsys.readouterr().out
    assert (out / "Annotations.txt").read_text().splitlines() == [rows[0], rows[1], rows[3]]
    splits = {split: AVEDataset(out, split) for split in ("train", "val", "test")}
    assert sorted(int(i) for s in splits.values() for i in s.indices) == [0, 1, 2]
    assert main(["data", "check", str(out)]) == 0
    item = next(iter(splits["train"]))
    assert item[0].shape == (3, 128)
    assert item[2].shape == (3, 29)
    # a later run without annotations leaves no labels of other rows behind
    assert main(["extract", *names, "-o", str(out), *FAST]) == 0
    assert not (out / "labels.h5").exists()


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--hop", "11"], "--hop is 11; needed: 1 to 10"),
        (["--frames-per-segment", "0"], "--frames-per-segment is 0"),
        (["--workers", "0"], "--workers is 0"),
        (["--orders", "x"], "--orders was given without --annotations"),
        (["--visual", "none.pth"], "none.pth: no such file"),
        (["--annotations", "none.txt"], "none.txt"),
    ],
)
def test_bad_arguments(videos, tmp_path, capsys, flags, text):
    assert main(["extract", str(videos / "a.mp4"), "-o", str(tmp_path / "set"), *flags]) == 2
    assert text in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.h5"))


def test_a_folder_in_use_is_refused(videos, tmp_path, capsys):
    out = tmp_path / "set"
    writing = out / ".videos" / f"{store.UNFINISHED}x"
    writing.mkdir(parents=True)
    with atomic.locked(out / ".videos"):
        assert main(["extract", str(videos / "c.mp4"), "-o", str(out), *FAST]) == 2
    assert f"{out}: another jca-fast extract writes into it" in capsys.readouterr().err
    assert writing.is_dir()


def test_too_few_annotated_videos_are_refused(videos, tmp_path, capsys):
    """Before any work, or if videos fail, before a file of the set is written."""
    annotations, out = tmp_path / "Annotations.txt", tmp_path / "set"
    command = ["extract", str(videos), "-o", str(out), "--annotations", str(annotations), *FAST]
    annotations.write_text("Bark&a&good&0&2\nCat&b&good&0&2\n")
    assert main(command) == 2
    assert "2 annotated videos; needed: 3 or more" in capsys.readouterr().err
    assert not out.exists()
    annotations.write_text("Bark&a&good&0&2\nCat&c&good&0&2\nCat&mute&good&0&1\n")
    assert main(command) == 2
    assert "2 annotated videos; needed: 3 or more" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == [".videos"]


@pytest.mark.parametrize(
    ("text", "said"),
    [("\n \n", r"list\.txt: an empty list"), ("list.txt", r"list\.txt: this list .* names itself")],
)
def test_lists_without_videos(tmp_path, text, said):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ValueError, match=said):
        find_videos([str(tmp_path / "list.txt")])
    with pytest.raises(ValueError, match="VIDEO is empty"):
        find_videos([""])


def test_values_beyond_float16(videos, tmp_path):
    settings = Settings(frames_per_segment=1, num_segments=1, dtype="float16")
    large = extractors.Network("net", "", lambda frames: np.full((7, 7, 2), 1e5))
    extractor = Extractor(settings, large, extractors.audio_network())
    with pytest.raises(
        ValueError, match=r"returned 1e\+05, too much for float16; .*--dtype float32"
    ):
        store.store_features(videos / "c.mp4", extractor, tmp_path / "features")


# ---- compatible features


def test_predict_and_visualize_take_a_set_without_labels(unlabelled, tmp_path):
    model, out = str(unlabelled / "model.pt"), tmp_path / "events.json"
    assert main(["predict", model, "--data", str(unlabelled), "-o", str(out)]) == 0
    segments = json.loads(out.read_text())["segments"]
    clips = list(dict.fromkeys(segment["clip"] for segment in segments))
    assert clips == ["0:a@0s", "1:b@0s", "2:b@3s", "3:c@0s"]
    assert len(segments) == 3 + 3 + 2 + 2  # padding has no events
    pictures = tmp_path / "pictures"
    command = ["visualize", model, "--data", str(unlabelled), "--clips", "1", "--dpi", "50"]
    assert main([*command, "-o", str(pictures)]) == 0
    assert len(list(pictures.glob("*_timeline.png"))) == 1


def test_features_made_otherwise_are_refused(unlabelled, videos, tmp_path, capsys):
    other = tmp_path / "set"
    command = ["extract", str(videos / "a.mp4"), "-o", str(other), "--num-segments", "3"]
    assert main([*command, "--frames-per-segment", "3"]) == 0
    model = str(unlabelled / "model.pt")
    text = "frames per segment was 2, now 3"
    assert main(["predict", model, "--data", str(other), "-o", str(tmp_path / "x.csv")]) == 2
    assert text in capsys.readouterr().err
    assert main(["visualize", model, "--data", str(other), "-o", str(tmp_path / "p")]) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "x.csv").exists()
    with pytest.raises(ValueError, match=r"model\.pt does not fit .* was 2, now 3"):
        start_model(Config(data=str(other), out=str(tmp_path), init=model), None)
    localize = ["localize", str(videos / "a.mp4"), "--checkpoint", model, "-o", str(tmp_path / "r")]
    assert main([*localize, "--segment-seconds", "0.5"]) == 2
    assert "segment seconds was 1, now 0.5" in capsys.readouterr().err


def record(visual="embedded 1", audio="embedded 1", sha="a" * 64):
    networks = {"visual": {"name": visual, "sha256": sha}, "audio": {"name": audio, "sha256": sha}}
    return {**networks, "segment_seconds": 1.0, "frames_per_segment": 16}


def test_features_without_a_record_count_as_vgg():
    vgg = record("vgg19 (keras)", "vggish")
    for kept, found in ((None, None), (vgg, None), (None, vgg), (vgg, vgg)):
        require_same_features("c.pt", kept, "data", found)
    for kept, found in ((record(), None), (None, record())):
        with pytest.raises(ValueError, match=r"c\.pt does not fit data: .* embedded 1"):
            require_same_features("c.pt", kept, "data", found)
    with pytest.raises(ValueError, match=r"audio network was vggish, aaa.*now vggish, bbb"):
        require_same_features("c.pt", vgg, "data", record("vgg19 (keras)", "vggish", "b" * 64))


def test_sound_and_picture_of_different_extractions(unlabelled, tmp_path):
    for name in ("audio_feature.h5", "visual_feature.h5"):
        shutil.copy(unlabelled / name, tmp_path / name)
    with h5py.File(tmp_path / "audio_feature.h5", "a") as file:
        del file.attrs["extraction"]
    with pytest.raises(ValueError, match="come from different extractions"):
        read_record(tmp_path)


def test_localize_writes_everything(unlabelled, videos, tmp_path, capsys):
    out = tmp_path / "report"
    model = str(unlabelled / "model.pt")
    command = ["localize", str(videos / "b.mp4"), "--checkpoint", model, "-o", str(out)]
    assert main([*command, "--render"]) == 0
    assert str(out / "index.html") in capsys.readouterr().out
    made = {path.name for path in out.iterdir()}
    assert made == {"index.html", "events.json", "events.csv", "events.vtt", "annotated.mp4"}
    events = json.loads((out / "events.json").read_text())
    assert np.array(events["probabilities"]).shape == (5, 29)
    assert events["features"]["hop"] == 1
    # the probabilities are the means over the windows that hold a segment
    with (
        h5py.File(unlabelled / "audio_feature.h5") as a,
        h5py.File(unlabelled / "visual_feature.h5") as v,
    ):
        audio, visual = (np.concatenate(f["avadataset"][1:3])[:5] for f in (a, v))
    network, _ = checkpoint.load_model(model)
    with torch.no_grad():
        windows = [
            network(*(torch.from_numpy(x[i : i + 3])[None] for x in (audio, visual)))[0]
            for i in range(3)
        ]
    expected = (windows[0][2] + windows[1][1] + windows[2][0]) / 3
    np.testing.assert_allclose(events["probabilities"][2], expected, atol=2e-3)
