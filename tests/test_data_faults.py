"""Damaged, locked, foreign and full: each error is one line that names the file and the reason.

A campaign at full size: JCA_FAST_CAMPAIGN=200 pytest tests/test_data_faults.py
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from training_tools import make_data

from jca_fast.cli import main
from jca_fast.data import AVEDataset, cast, check, files, prepare
from jca_fast.data.cache import CheckedTable, read_manifest, write_manifest
from jca_fast.data.clips import open_clips
from jca_fast.data.hdf5 import RowWriter, write_h5
from jca_fast.data.record import read_record
from jca_fast.data.splits import write_splits

ROUNDS = int(os.environ.get("JCA_FAST_CAMPAIGN", "6"))
UNREADABLE = Path("/proc/self/mem")  # reading its first bytes is an I/O error


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("made") / "data")


@pytest.fixture
def data(made, tmp_path):
    return shutil.copytree(made, tmp_path / "data")


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


# ---- a full disk


LIMITED = """
import resource, sys
from jca_fast.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(main(sys.argv[2:]))
"""


def limited(size, *arguments):
    """A command that may write files up to a size only; Python would cut byte code at it."""
    command = [sys.executable, "-B", "-c", LIMITED, str(size), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


WRITERS = {
    "labels": (1000, ["data", "labels", "{data}/Annotations.txt", "-o", "{out}/labels.h5"]),
    "synth": (9000, ["data", "synth", "{out}/set", "--num-clips", "30", "--visual-dim", "8"]),
    "prepare": (3000, ["data", "prepare", "{data}", "--out", "{out}/prepared"]),
    "split": (100, ["data", "split", "{data}", "--ratios", "8", "1", "1", "--overwrite"]),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_limit_on_files_is_one_line_and_leaves_nothing(writer, data, tmp_path):
    (tmp_path / "out").mkdir()
    size, arguments = WRITERS[writer]
    arguments = [text.format(data=data, out=tmp_path / "out") for text in arguments]
    before = {path: path.read_bytes() for path in data.iterdir()}
    done = limited(size, *arguments)
    assert done.returncode == 2, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("jca-fast data: error: ")
    assert line.endswith("cannot be written: File too large")
    assert str(tmp_path) in line
    assert [name for name in names(tmp_path / "out") if name != "set"] == []
    assert {path: path.read_bytes() for path in data.iterdir()} == before


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
@pytest.mark.parametrize("writer", ["labels", "synth"])
@pytest.mark.parametrize("room", [0, 3, 9])
def test_a_full_disk_is_one_line(writer, room, data, tmp_path):
    """On a tmpfs of 128 KB with a few kilobytes left, where HDF5 used to crash."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no small disk can be mounted")
    try:
        (disk / "fill").write_bytes(bytes(128 * 1024 - room * 4096))
        _, arguments = WRITERS[writer]
        arguments = [text.format(data=data, out=disk) for text in arguments]
        done = limited(2**30, *arguments)
        assert done.returncode == 2, (done.returncode, done.stderr)
        line = done.stderr.splitlines()[-1]
        assert line.startswith("jca-fast data: error: ")
        assert "No space left on device" in line or "MB free" in line
        assert str(disk) in line
        assert [name for name in names(disk) if name not in ("fill", "set")] == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_row_writer_makes_a_file_hdf5_reads(tmp_path):
    rows = np.random.default_rng(0).random((7, 3, 2))
    path = tmp_path / "a.h5"
    with RowWriter(path, "avadataset", rows.shape, "float32", path) as writer:
        for row in rows:
            writer.write(row)
    with h5py.File(path) as file:
        assert np.array_equal(file["avadataset"][:], rows.astype(np.float32))
        assert file["avadataset"].chunks is None
    first = path.read_bytes()
    with RowWriter(path, "avadataset", rows.shape, "float32", path) as writer:
        for row in rows:
            writer.write(row)
    assert path.read_bytes() == first


# ---- damaged and foreign files


def test_big_endian_features_are_read(data):
    want = [item.clone() for item in AVEDataset(data)[3]]
    for stem in ("audio_feature", "visual_feature"):
        with h5py.File(data / f"{stem}.h5") as file:
            values = file["avadataset"][:]
        (data / f"{stem}.h5").unlink()
        if stem == "audio_feature":
            write_h5(data / f"{stem}.h5", avadataset=values.astype(">f8"))
        else:
            np.save(data / f"{stem}.npy", values.astype(">f4"))
    assert all(map(torch.equal, AVEDataset(data)[3], want))
    prepare(data)
    assert all(map(torch.equal, AVEDataset(data)[3], want))


def test_a_loop_of_links_is_named(data):
    with h5py.File(data / "labels.h5", "w") as file:
        file["avadataset"] = h5py.SoftLink("/avadataset")
    with pytest.raises(ValueError, match=r"labels\.h5: dataset 'avadataset' cannot be opened"):
        AVEDataset(data)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("weak", [False, True])
def test_labels_that_are_not_finite_are_named(data, value, weak):
    name = "mil_labels" if weak else "labels"
    with h5py.File(data / f"{name}.h5", "r+") as file:
        file["avadataset"][0, 0] = value
    with pytest.raises(ValueError, match=rf"{name}\.h5.*: found labels that are not finite"):
        AVEDataset(data, weak=weak)


def test_a_single_array_under_the_name_of_an_npz_is_named(tmp_path):
    with (tmp_path / "a.npz").open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(ValueError, match=r"a\.npz: not a whole \.npz file"):
        open_clips(tmp_path / "a.npz", "test")


def test_a_part_of_an_npz_that_is_no_array_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("audio.npy", b"no array")
    with pytest.raises(ValueError, match=r"a\.npz: not a whole \.npz file, audio is not an array"):
        open_clips(tmp_path / "a.npz", "test")


def test_names_of_two_axes_in_an_npz_are_refused(tmp_path):
    arrays = {"audio": np.ones((2, 4, 6)), "visual": np.ones((2, 4, 3, 5))}
    np.savez(tmp_path / "a.npz", **arrays, clips=np.array([["a", "b"], ["c", "d"]]))
    with pytest.raises(ValueError, match=r"a\.npz: found clips of shape \(2, 2\); needed: clips"):
        open_clips(tmp_path / "a.npz", "test")


def test_long_doubles_are_named(data):
    write_h5(data / "audio_feature.h5", avadataset=np.ones((48, 4, 6), np.longdouble))
    with pytest.raises(ValueError, match=r"audio_feature\.h5.*: found shape .*float128"):
        AVEDataset(data)


def link_to_a_pipe(file, name):
    file[name] = h5py.ExternalLink("pipe", "/a")


def link_to_a_link(file, name):
    file["other"] = h5py.ExternalLink("pipe", "/")
    file[name] = h5py.SoftLink("/other/a")


def numbers_of_a_missing_file(file, name):
    layout = h5py.VirtualLayout((48,), "f4")
    layout[:] = h5py.VirtualSource("gone.h5", "a", (48,))
    file.create_virtual_dataset(name, layout)  # HDF5 would read zeros


def numbers_of_a_device(file, name):
    file.create_dataset(name, (48,), "f4", external=[("/dev/zero", 0, h5py.h5f.UNLIMITED)])


@pytest.mark.parametrize(
    "make", [link_to_a_pipe, link_to_a_link, numbers_of_a_missing_file, numbers_of_a_device]
)
@pytest.mark.parametrize("name", ["labels", "clips", "planted"])
def test_files_that_read_other_files_are_refused(data, make, name):
    os.mkfifo(data / "pipe")  # HDF5 would wait for a writer
    with h5py.File(data / f"{name}.h5", "w") as file:
        make(file, {"labels": "avadataset", "clips": "length", "planted": "position"}[name])
    with pytest.raises(ValueError, match=rf"{name}\.h5: .*(in other files|is a link to 'pipe');"):
        AVEDataset(data).read_planted()


def test_a_small_file_that_claims_much_is_named(data):
    with h5py.File(data / "clips.h5", "w") as file:
        file.create_dataset("length", (2**44,), "i8", chunks=(1024,))
    with pytest.raises(ValueError, match=r"clips\.h5: length .*do not fit in memory"):
        AVEDataset(data)


def test_chunks_that_would_fill_the_memory_are_refused(data):
    shape = (48, 4, 7, 7, 2**22)
    with h5py.File(data / "visual_feature.h5", "w") as file:
        file.create_dataset("avadataset", shape, "f4", chunks=(1, *shape[1:]), compression="gzip")
    with pytest.raises(ValueError, match=r"'avadataset': found chunks of .*needed: at most"):
        AVEDataset(data)


def test_a_locked_file_is_called_locked(data, monkeypatch):
    def locked(*args, **kwargs):
        raise BlockingIOError(11, "Unable to open file (unable to lock file)")

    monkeypatch.setattr(h5py, "File", locked)
    with pytest.raises(ValueError, match=r"audio_feature\.h5: locked .* HDF5_USE_FILE_LOCKING"):
        AVEDataset(data)


def with_clips(data, **columns):
    """Write clips.h5 with the given columns beside plain ones."""
    plain = {"video": [b"a.mp4"] * 48, "start": np.zeros(48), "length": np.full(48, 4)}
    with h5py.File(data / "clips.h5", "w") as file:
        for name, values in (plain | columns).items():
            file[name] = values
    return data


WRONG_CLIPS = {
    "negative": {"length": np.full(48, -1)},
    "huge": {"length": np.full(48, 10**9)},
    "fractions": {"length": np.full(48, 3.5)},
    "text": {"length": [b"x"] * 48},
    "two axes": {"length": np.full((48, 2), 3)},
    "few": {"length": np.full(5, 3)},
    "a number": {"length": 3},
    "a loop": {"length": h5py.SoftLink("/length")},
    "names are numbers": {"video": np.arange(48)},
    "starts are text": {"start": [b"x"] * 48},
}


@pytest.mark.parametrize("wrong", WRONG_CLIPS)
def test_a_wrong_table_of_clips_is_named(data, wrong):
    with_clips(data, **WRONG_CLIPS[wrong])
    if "length" in WRONG_CLIPS[wrong]:
        with pytest.raises(ValueError, match=r"clips\.h5: "):
            AVEDataset(data)
    (data / "labels.h5").unlink()
    with pytest.raises(ValueError, match=r"clips\.h5: "):
        open_clips(data, "test")


@pytest.mark.parametrize("rows", [slice(5), np.s_[:, :2], np.s_[:, :, :3]])
def test_a_planted_table_of_other_features_is_named(data, rows):
    with h5py.File(data / "planted.h5", "r+") as file:
        for name in list(file):
            values = file[name][:]
            del file[name]
            file[name] = values[rows[: values.ndim] if isinstance(rows, tuple) else rows]
    with pytest.raises(ValueError, match=r"planted\.h5: found position of shape"):
        AVEDataset(data).read_planted()


@pytest.mark.parametrize("name", ["planted.h5", "clips.h5", "audio_feature.h5"])
def test_every_locked_file_is_called_locked(data, monkeypatch, name):
    with_clips(data)
    whole = h5py.File

    def locked(path, *args, **kwargs):
        if str(path).endswith(name):
            raise BlockingIOError(11, "Unable to open file (unable to lock file)")
        return whole(path, *args, **kwargs)

    monkeypatch.setattr(h5py, "File", locked)
    read = (
        read_record if name == "audio_feature.h5" else lambda root: AVEDataset(root).read_planted()
    )
    for use in (read, prepare):
        with pytest.raises(ValueError, match=rf"{name}: locked .* HDF5_USE_FILE_LOCKING"):
            use(data)


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs a file that fails")  # noqa: PTH110
@pytest.mark.parametrize("name", ["Annotations.txt", "prepared.json", "labels.h5"])
def test_a_disk_that_cannot_be_read_is_named(data, name):
    prepare(data)
    path = (data if name == "Annotations.txt" else data / "prepared") / name
    path.unlink()
    path.symlink_to(UNREADABLE)
    with pytest.raises((OSError, ValueError), match=name):
        _ = AVEDataset(data).class_names


@pytest.mark.parametrize(
    "row", ["Bark&id&good&0&" + "9" * 5000, "Bark&id&good&-1&3", "Bark&id&" * 99]
)
def test_odd_numbers_in_annotations_are_named_in_short(tmp_path, row, capsys):
    (tmp_path / "A.txt").write_text(row)
    assert main(["data", "labels", str(tmp_path / "A.txt"), "-o", str(tmp_path / "o.h5")]) == 2
    error = capsys.readouterr().err
    assert "A.txt, line 1: " in error
    assert len(error) < 500


def test_what_does_not_fit_in_memory_is_named(data, monkeypatch):
    def too_large(self, rows):
        raise MemoryError

    monkeypatch.setattr(files.Table, "_read_h5", too_large)
    with pytest.raises(ValueError, match=r"labels\.h5.*does not fit in memory"):
        files.Table(data, "labels")[:]


WRONG_MANIFESTS = [
    '{"format": 1}',
    "[]",
    '{"format": 1, "dtype": "float32", "source": 3, "files": {}}',
    '{"format": 1, "dtype": "float32", "source": ".", "files": []}',
    '{"format": 1, "dtype": "float32", "source": ".", "files": {"labels.h5": {}}}',
    '{"format": 1, "dtype": "float32", "source": ".", "files": {"labels.h5": '
    '{"fingerprint": {"size": 1, "mtime_ns": "x"}, "checksum": 1}}}',
    "[" * 100_000,
]


@pytest.mark.parametrize("content", WRONG_MANIFESTS)
def test_a_manifest_with_wrong_content_is_named(data, content):
    prepare(data)
    (data / "prepared" / "prepared.json").write_text(content)
    with pytest.raises(ValueError, match=r"prepared\.json: not a whole manifest"):
        AVEDataset(data)
    assert any("prepared.json" in str(finding) for finding in check(data))


def test_damaged_files_are_always_named(made, tmp_path):
    """Random damage to any file of the set: it is read, or one line names the file."""
    dice = random.Random(0)
    for round_ in range(4 * ROUNDS):
        data = shutil.copytree(made, tmp_path / "damaged")
        path = dice.choice(sorted(p for p in data.iterdir() if p.name != "planted.h5"))
        content = bytearray(path.read_bytes())
        kind = round_ % 3
        if kind == 0:
            content = content[: dice.randrange(len(content))]
        elif kind == 1:
            for _ in range(dice.choice([1, 8, 64])):
                content[dice.randrange(len(content))] = dice.randrange(256)
        else:
            start = dice.randrange(len(content))
            content[start : start + 64] = bytes(64)
        path.write_bytes(content)
        error = error_of_reading(data)
        assert error == "" or any(other.stem in error for other in data.iterdir()), error
        assert "\n" not in error
        shutil.rmtree(data)


def error_of_reading(data):
    """The error of reading all clips of a set; empty where there is none."""
    try:
        dataset = AVEDataset(data)
        list(dataset)
        _ = dataset.class_names
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return ""


# ---- damage to a cache


@pytest.fixture
def cached(data, monkeypatch):
    monkeypatch.setattr(cast, "BLOCK_BYTES", 2000)
    prepare(data)
    return data


def damage(path, at):
    with path.open("r+b") as file:
        file.seek(at, os.SEEK_END)
        byte = file.read(1)
        file.seek(at, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))


def test_a_flipped_bit_in_a_cache_is_found_when_its_block_is_read(cached):
    path = cached / "prepared" / "visual_feature.npy"
    damage(path, -3)
    dataset = AVEDataset(cached)
    with pytest.raises(ValueError, match=r"visual_feature\.npy, rows \d+ to 47: damaged since"):
        list(dataset)
    rows = read_manifest(cached / "prepared" / "prepared.json")["files"]["visual_feature.h5"][
        "rows"
    ]
    intact = [i for i, row in enumerate(dataset.indices) if int(row) < 48 - rows]
    assert len(dataset[intact[0]]) == 3  # other blocks can still be read


def test_two_whole_blocks_of_a_cache_that_changed_places_are_found(cached):
    path = cached / "prepared" / "visual_feature.npy"
    manifest = read_manifest(cached / "prepared" / "prepared.json")
    rows = manifest["files"]["visual_feature.h5"]["rows"]
    values = np.load(path, mmap_mode="r+")
    values[:rows], values[rows : 2 * rows] = values[rows : 2 * rows], values[:rows].copy()
    values.flush()
    with pytest.raises(ValueError, match=r"visual_feature\.npy, rows \d+ to \d+: damaged since"):
        list(AVEDataset(cached))


def test_a_flipped_bit_in_the_labels_of_a_cache_is_found(cached):
    damage(cached / "prepared" / "labels.h5", -3000)
    with pytest.raises(ValueError, match=r"labels\.h5: damaged since the cache was made"):
        AVEDataset(cached)


def test_blocks_are_verified_once_for_all_workers(cached, monkeypatch):
    dataset = AVEDataset(cached)
    table = dataset._tables[0][1]
    assert isinstance(table, CheckedTable)
    assert not table._verified.any()
    for _ in DataLoader(dataset, batch_size=8, num_workers=2):
        pass
    seen = table._verified.clone()
    assert seen.any()  # what the workers verified is known to the parent
    monkeypatch.setattr(CheckedTable, "_verify", lambda self, block: pytest.fail("verified twice"))
    list(dataset)
    assert torch.equal(table._verified, seen)


def test_a_flipped_bit_anywhere_in_a_cache_is_found(cached):
    """In the features, the labels, the manifest, or a checksum itself."""
    dice = random.Random(2)
    folder = cached / "prepared"
    paths = sorted(folder.iterdir())
    for round_ in range(4 * ROUNDS):
        path = paths[round_ % len(paths)]
        good = path.read_bytes()
        bad = bytearray(good)
        header = 128 if path.suffix == ".npy" else 0
        bad[dice.randrange(header, len(bad))] ^= 1 << dice.randrange(8)
        path.write_bytes(bad)
        error = error_of_reading(cached)
        assert path.name in error, path
        path.write_bytes(good)
    assert error_of_reading(cached) == ""


@pytest.mark.parametrize(("old", "new"), [('"not_finite": 0', '"not_finite": 1'), ('".."', '".,"')])
def test_a_change_that_only_the_checksum_of_the_manifest_shows(cached, old, new):
    path = cached / "prepared" / "prepared.json"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=r"prepared\.json: .*wrong checksum"):
        AVEDataset(cached)


def test_a_file_that_the_manifest_lacks_is_damage(cached):
    path = cached / "prepared" / "prepared.json"
    manifest = read_manifest(path)
    del manifest["files"]["visual_feature.h5"]
    write_manifest(path, manifest)
    with pytest.raises(ValueError, match=r"visual_feature\.npy: not a file in prepared\.json"):
        AVEDataset(cached)


def test_a_manifest_of_an_earlier_version_is_read(cached):
    path = cached / "prepared" / "prepared.json"
    manifest = read_manifest(path)
    path.write_text(json.dumps(manifest))
    assert read_manifest(path) == manifest
    assert len(list(AVEDataset(cached))) > 0


def test_a_cache_without_a_file_is_a_finding(cached):
    (cached / "prepared" / "visual_feature.npy").unlink()
    found = [str(finding) for finding in check(cached, full=True) if finding.level == "error"]
    assert any("visual_feature.h5" in text for text in found)


# ---- class names


def test_class_names_are_those_of_the_set(data):
    path = data / "Annotations.txt"
    categories = {}
    rows = [line.split("&") for line in path.read_text().splitlines()]
    for row in rows:
        row[0] = categories.setdefault(row[0], f"my event {len(categories)}")
    path.write_text("\n".join("&".join(row) for row in rows))
    assert AVEDataset(data).class_names == [f"my event {i}" for i in range(28)] + ["Background"]
    path.unlink()
    assert AVEDataset(data).class_names[0] == "Church bell"


# ---- order files


def test_split_from_the_published_lists(data, tmp_path):
    rows = (data / "Annotations.txt").read_text().splitlines()
    lists = tmp_path / "lists"
    lists.mkdir()
    parts = {"train": rows[3:40], "val": rows[:3], "test": rows[:39:-1]}
    for split, part in parts.items():
        (lists / f"{split}Set.txt").write_text("\n".join(part) + "\n")
    command = ["data", "split", str(data), "--lists", str(lists), "--segments", "4"]
    assert main(command) == 2  # the order files exist
    assert main([*command, "--overwrite"]) == 0
    assert AVEDataset(data, "train").indices.tolist() == list(range(3, 40))
    assert AVEDataset(data, "test").indices.tolist() == list(range(47, 39, -1))
    (lists / "valSet.txt").write_text(rows[5] + "\n")
    with pytest.raises(ValueError, match=r"valSet\.txt: .* is listed twice, first in trainSet"):
        write_splits(data, lists=lists, num_segments=4, overwrite=True)
    assert AVEDataset(data, "val").indices.tolist() == [0, 1, 2]


def test_split_from_ratios_keeps_videos_together(data):
    path = data / "Annotations.txt"
    rows = [line.split("&") for line in path.read_text().splitlines()]
    for row, first in zip(rows[1::2], rows[::2], strict=True):
        row[1] = first[1]  # two clips of one video
    path.write_text("\n".join("&".join(row) for row in rows))
    command = ["data", "split", str(data), "--ratios", "60", "20", "20", "--segments", "4"]
    assert main([*command, "--overwrite"]) == 0
    orders = {split: files.read_order(data, split) for split in files.SPLITS}
    assert sorted(np.concatenate(list(orders.values())).tolist()) == list(range(48))
    videos = {split: {rows[i][1] for i in order} for split, order in orders.items()}
    assert not videos["train"] & (videos["val"] | videos["test"])
    assert len(orders["train"]) == pytest.approx(0.6 * 48, abs=3)
    again = {split: order.tolist() for split, order in orders.items()}
    assert main([*command, "--overwrite"]) == 0
    assert {split: files.read_order(data, split).tolist() for split in files.SPLITS} == again


@pytest.mark.parametrize("count", ["0", "-3"])
def test_labels_of_no_segments_are_refused(data, tmp_path, count, capsys):
    output = tmp_path / "o.h5"
    flags = ["-o", str(output), "--segments", count]
    assert main(["data", "labels", str(data / "Annotations.txt"), *flags]) == 2
    assert "needed: 1 or more" in capsys.readouterr().err
    assert not output.exists()


def test_json_of_the_check_is_whole(data):
    assert json.loads(json.dumps([vars(finding) for finding in check(data)]))
