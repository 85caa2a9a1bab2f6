"""`check`: damage is an error of its kind, peculiarities are notes, and a valid set has no
errors."""

from __future__ import annotations

import json
import os
import shutil

import h5py
import numpy as np
import pytest

from jca_fast.cli import main
from jca_fast.data import check, synthesize
from jca_fast.data.files import write_h5


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A small set, with noisy clips; never written to."""
    root = tmp_path_factory.mktemp("planted")
    return synthesize(
        root, num_clips=80, num_noisy=3, audio_dim=8, visual_dim=6, grid=(2, 2), seed=5
    )


@pytest.fixture
def root(planted, tmp_path):
    """A copy to damage."""
    return shutil.copytree(planted, tmp_path / "set")


def found(root, level, **options):
    return [
        f"{finding.file}: {finding.text}"
        for finding in check(root, **options)
        if finding.level == level
    ]


def stored(root, stem):
    with h5py.File(root / f"{stem}.h5") as file:
        return file["order"][:]


def edit(root, stem, where, value, dataset="avadataset"):
    with h5py.File(root / f"{stem}.h5", "r+") as file:
        file[dataset][where] = value


def rewrite(root, stem, values, dataset="avadataset", **options):
    with h5py.File(root / f"{stem}.h5", "w") as file:
        file.create_dataset(dataset, data=values, **options)


def lines(root, change):
    path = root / "Annotations.txt"
    path.write_text("\n".join(change(path.read_text().splitlines())))


def shift(rows):
    """The second clip gets the category of the last."""
    fields = rows[1].split("&")
    return [rows[0], "&".join([rows[-1].split("&")[0], *fields[1:]]), *rows[2:]]


def claim(path, shape, name="avadataset"):
    """A small file whose dataset would fill the memory."""
    with h5py.File(path, "w") as file:
        file.create_dataset(name, shape, "i8", chunks=(1,) * len(shape))


def damage_chunk(path):
    """Compressed features whose first chunk is no longer what the compressor wrote."""
    with h5py.File(path) as file:
        values = file["avadataset"][:]
    with h5py.File(path, "w") as file:
        rows = file.create_dataset("avadataset", data=values, compression="gzip")
        rows.id.write_direct_chunk((0,) * values.ndim, b"not compressed")


def test_sound_set(planted):
    for full in (False, True):
        assert {finding.level for finding in check(planted, full=full)} == {"ok"}
    texts = [str(finding) for finding in check(planted)]
    assert "ok     visual_feature.h5: (80, 10, 2, 2, 6) float64, 0.15 MB, contiguous" in texts
    assert "ok     splits: every clip is in a split" in texts
    assert "ok     labels.h5: agrees with Annotations.txt" in texts
    assert any("64 of 80 clips looked at" in text for text in texts)
    assert any("all 80 clips looked at" in str(finding) for finding in check(planted, full=True))


DAMAGE = {
    "missing": (
        lambda r: (r / "visual_feature.h5").unlink(),
        "visual_feature.h5: missing; needed: dataset 'avadataset'",
    ),
    "truncated": (
        lambda r: os.truncate(r / "audio_feature.h5", 3000),
        "audio_feature.h5: not a whole HDF5 file",
    ),
    "dataset": (
        lambda r: rewrite(r, "labels", [1.0], "x"),
        "labels.h5: found datasets ['x']; needed: dataset 'avada",
    ),
    "clips": (
        lambda r: rewrite(r, "audio_feature", np.ones((79, 10, 8))),
        "clips: their number differs: 79 in audio",
    ),
    "segments": (
        lambda r: rewrite(r, "audio_feature", np.ones((80, 9, 8))),
        "segments: their number differs: 9 in a",
    ),
    "noisy": (
        lambda r: rewrite(r, "labels_noisy", np.ones((4, 29))),
        "clips: their number differs: 3 in audio_feature",
    ),
    "NaN": (
        lambda r: edit(r, "visual_feature", (0, 1, 1, 1, 1), np.nan),
        "visual_feature.h5: NaN in row 0;",
    ),
    "infinite": (
        lambda r: edit(r, "audio_feature", (79, 1, 1), -np.inf),
        "audio_feature.h5: infinite values in row 79",
    ),
    "labels": (
        lambda r: edit(r, "labels", (4, 2), 1.0),
        "labels.h5: not one class per segment in row 4",
    ),
    "labels shape": (
        lambda r: rewrite(r, "labels", np.eye(7)[np.zeros((80, 10), int)]),
        "found shape (80, 10, 7); nee",
    ),
    "annotations": (lambda r: lines(r, shift), "labels.h5: differs from Annotations.txt in row 1"),
    "annotation row": (lambda r: lines(r, lambda x: [*x[:3], "?"]), "Annotations.txt: "),
    "annotation rows": (lambda r: lines(r, lambda x: x[:-1]), "79 in Annotations.txt"),
    "late": (
        lambda r: lines(r, lambda x: ["Bark&x&good&0&12", *x[1:]]),
        "events that end after segment 10 in row 0",
    ),
    "range": (lambda r: edit(r, "val_order", 0, 80, "order"), "val_order.h5: "),
    "repeat": (
        lambda r: rewrite(r, "val_order", [3, 3, 4], "order"),
        "val_order.h5: 3 clips, 1 of them repeated",
    ),
    "planted": (
        lambda r: edit(r, "planted", (6, slice(None)), 0, "audible"),
        "planted.h5: differs from the labels in r",
    ),
    "clips file": (lambda r: (r / "clips.h5").write_bytes(b"x"), "clips.h5: not a whole HDF5 file"),
    "lengths": (
        lambda r: write_h5(
            r / "clips.h5", video=np.array([b"a"] * 80), start=np.ones(80), length=np.full(80, 11)
        ),
        "clips.h5: found lengths of shape (80,) from 11 to 11",
    ),
    "claimed sizes": (
        lambda r: claim(r / "labels.h5", (2**30, 2**20, 4)),
        "labels: ",
    ),
    "order of a claimed size": (
        lambda r: claim(r / "val_order.h5", (2**44,), "order"),
        "val_order.h5: ",
    ),
    "chunk": (
        lambda r: damage_chunk(r / "audio_feature.h5"),
        "audio_feature.h5, dataset 'avadataset': rows 0 cannot be read",
    ),
    "manifest": (lambda r: (r / "prepared.json").write_text("[]"), "prepared cache: "),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_an_error(root, damage):
    harm, words = DAMAGE[damage]
    harm(root)
    assert any(words in text for text in found(root, "error"))
    assert main(["data", "check", str(root)]) == 1


def test_overlap_of_splits(root):
    val = stored(root, "val_order")
    write_h5(root / "train_order.h5", order=np.append(stored(root, "train_order"), val[:2]))
    assert any("train and val share 2 rows" in text for text in found(root, "error"))


def test_peculiarities_are_notes(root):
    def change(rows):
        bark, other = (row.split("&") for row in (rows[0], rows[-1]))
        return [
            "&".join([bark[0], "twin", "good", "4", "4"]),
            *rows[1:-1],
            "&".join([other[0], "twin", *other[2:]]),
        ]

    lines(root, change)
    edit(root, "visual_feature", (0, 0, 0, 0, 0), -1.0)
    edit(root, "audio_feature", 79, 0.0)
    rewrite(root, "test_order", stored(root, "test_order")[:-1], "order")
    rewrite(
        root, "visual_feature_noisy", np.ones((3, 10, 2, 2, 6)), chunks=True, compression="gzip"
    )
    (root / "labels_closs.h5").unlink()
    notes = "\n".join(found(root, "note"))
    for words in (
        "video ids that repeat, one clip under several labels: 1 in 2 rows each",
        "events of no length, all background, in row 0",
        "negative values in row 0",
        "nothing but zeros in row 79",
        "1 clips are in no split",
        "gzip compression (contiguous storage reads faster)",
        "absent, used for weak supervision: labels_closs.h5",
    ):
        assert words in notes


def test_only_full_sees_every_clip(root):
    looked = set(np.linspace(0, 79, 64).astype(int))
    row = next(row for row in range(80) if row not in looked)
    edit(root, "visual_feature", (row, 0, 0, 0, 0), np.nan)
    assert not found(root, "error")
    assert found(root, "error", full=True) == [
        text for text in found(root, "error", full=True) if f"row {row};" in text
    ]
    assert len(found(root, "error", full=True)) == 1


def test_real_files(shared):
    ave = shared / "data" / "ave"
    errors, notes = found(ave, "error"), "\n".join(found(ave, "note"))
    assert [text.split(":")[0] for text in errors] == ["audio_feature.h5", "visual_feature.h5"]
    assert "events of no length, all background, in row 26" in notes
    assert "44 in 2 rows each, 1 in 3 rows each" in notes
    assert "train and val share 10 video ids" in notes
    assert "train and test share 8 video ids" in notes


def test_command(planted, root, capsys):
    assert main(["data", "check", str(planted)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{planted}: no errors"
    (root / "labels.h5").unlink()
    assert main(["data", "check", str(root), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["errors"] == 1
    assert {"level": "error", "file": "labels.h5"}.items() <= report["findings"][2].items()
    assert main(["data", "check", str(root / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
