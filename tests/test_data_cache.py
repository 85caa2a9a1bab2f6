"""The prepared cache: same values, resumable after SIGKILL, atomic, and never silently stale."""

from __future__ import annotations

import fcntl
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
import torch

from jca_fast.cli import main
from jca_fast.data import AVEDataset, cast, check, prepare, synthesize

BLOCK_BYTES = 10 * 16 * 6 * 8 * 2  # two clips of visual features


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(cast, "BLOCK_BYTES", BLOCK_BYTES)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    root = tmp_path_factory.mktemp("planted")
    return synthesize(
        root, num_clips=301, num_noisy=3, audio_dim=8, visual_dim=6, grid=(4, 4), seed=1
    )


@pytest.fixture
def root(planted, tmp_path):
    """A copy to prepare and to damage."""
    return shutil.copytree(planted, tmp_path / "set")


def contents(folder):
    """The bytes of every file but the manifest, which holds times and a path."""
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if path.name != "prepared.json"
    }


def edit(root, row=7, value=1.5):
    with h5py.File(root / "visual_feature.h5", "r+") as file:
        file["avadataset"][row, 3, 2, 1, 0] = value


@pytest.mark.parametrize("split", ["train", "test"])
def test_dataset_reads_the_cache_by_itself(root, planted, split):
    before = AVEDataset(planted, split)
    reports = prepare(root)
    after, alone = (
        AVEDataset(root, split),
        AVEDataset(root / "prepared", split, weak=split == "train"),
    )
    assert after.root == alone.root == root / "prepared"
    assert torch.equal(after.labels, before.labels)
    for i in range(len(before)):
        for x, y, z in zip(before[i][:2], after[i][:2], alone[i][:2], strict=True):
            assert torch.equal(x, y)
            assert torch.equal(x, z)
    assert all(str(report).endswith("to float32: lossless") for report in reports)
    assert isinstance(np.load(root / "prepared" / "visual_feature.npy", mmap_mode="r"), np.memmap)


def test_float16_says_what_was_rounded(root, planted):
    report = {report.name: report for report in prepare(root, dtype="float16")}["visual_feature.h5"]
    with h5py.File(planted / "visual_feature.h5") as file:
        exact = file["avadataset"][:]
    cast = np.load(root / "prepared" / "visual_feature.npy")
    assert cast.dtype == np.float16
    assert np.array_equal(cast, exact.astype(np.float16))
    assert report.inexact == (cast.astype(np.float64) != exact).sum() > 0
    assert report.largest_error == np.abs(cast.astype(np.float64) - exact).max()
    assert "of the values rounded, by at most" in str(report)
    assert torch.equal(
        AVEDataset(root)[0][1], torch.from_numpy(cast[AVEDataset(root).indices[0]]).float()
    )


def test_float16_overflow_is_an_error_and_leaves_nothing(root):
    edit(root, value=70000.0)
    with pytest.raises(
        ValueError,
        match=r"rows 6 to 7: found the value 70000; needed: at most 65504, .*use float32",
    ):
        prepare(root, dtype="float16")
    assert not list(root.glob("prepared*"))
    prepare(root)


def test_values_that_vanish_and_values_that_are_not_finite(root):
    edit(root, row=1, value=1e-12)
    edit(root, row=5, value=np.nan)
    edit(root, row=6, value=-np.inf)
    report = {report.name: report for report in prepare(root, dtype="float16")}["visual_feature.h5"]
    assert (report.vanished, report.not_finite) == (1, 2)
    assert "1 became 0" in str(report)
    assert "2 values are NaN or infinite" in str(report)
    values = np.load(root / "prepared" / "visual_feature.npy")
    assert np.isnan(values[5, 3, 2, 1, 0])
    assert values[6, 3, 2, 1, 0] == -np.inf


def kill_while_preparing(root, blocks=20):
    """Start a real process, and SIGKILL it once it has recorded a number of blocks."""
    code = (
        "from jca_fast.data import cast, prepare;"
        f"cast.BLOCK_BYTES = {BLOCK_BYTES}; prepare({str(root)!r})"
    )
    path = os.pathsep.join([str(Path.cwd()), *sys.path])
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    journal, deadline = root / "prepared.partial" / "journal.json", time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if journal.exists() and journal.read_text().count('"cache"') >= blocks:
            break
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (root / "prepared").exists()


@pytest.mark.parametrize("harm", ["none", "temporary left", "last block lost", "journal lost"])
def test_killed_run_goes_on_and_ends_with_the_same_bytes(
    root, planted, tmp_path, monkeypatch, harm
):
    prepare(planted, tmp_path / "whole")
    kill_while_preparing(root)
    with pytest.raises(
        (FileNotFoundError, ValueError)
    ):  # half a cache must not be mistaken for a whole one
        AVEDataset(root / "prepared.partial")
    partial, journal = root / "prepared.partial", root / "prepared.partial" / "journal.json"
    done = journal.read_text().count('"cache"')
    if harm == "temporary left":
        (partial / ".0123456789abcdef.tmp").write_text("{")
    if harm == "last block lost":
        os.truncate(max(partial.glob("*.npy"), key=lambda path: path.stat().st_mtime_ns), 300)
    if harm == "journal lost":
        journal.write_text("")
    done_now = []
    monkeypatch.setattr(
        cast, "cast_block", lambda *a, real=cast.cast_block: done_now.append(a[2]) or real(*a)
    )
    prepare(root)
    assert contents(root / "prepared") == contents(tmp_path / "whole")
    total = (root / "prepared" / "prepared.json").read_text().count('"cache"')
    assert {
        "none": len(done_now) == total - done,
        "temporary left": len(done_now) == total - done,
        "last block lost": total - done < len(done_now) < total + 1,
        "journal lost": len(done_now) == total,
    }[harm]
    assert not partial.exists()


def test_half_made_cache_of_another_dtype_or_source(root):
    kill_while_preparing(root)
    with pytest.raises(
        ValueError,
        match="half-made cache of another source or dtype; needed: delete it, or --overwrite",
    ):
        prepare(root, dtype="float16")
    edit(root)
    with pytest.raises(ValueError, match="half-made cache of another source"):
        prepare(root)
    prepare(root, overwrite=True)
    assert np.load(root / "prepared" / "visual_feature.npy")[7, 3, 2, 1, 0] == 1.5


def test_finished_cache_is_left_alone(root):
    first = prepare(root)
    stamp = (root / "prepared" / "visual_feature.npy").stat().st_mtime_ns
    assert prepare(root) == first
    assert (root / "prepared" / "visual_feature.npy").stat().st_mtime_ns == stamp
    with pytest.raises(
        ValueError, match="holds a float32 cache; needed: another --out for float16, or --overwrite"
    ):
        prepare(root, dtype="float16")
    prepare(root, dtype="float16", overwrite=True)
    assert np.load(root / "prepared" / "visual_feature.npy").dtype == np.float16
    assert [path.name for path in root.glob("prepared*")] == ["prepared"]


def test_stale_cache_is_refused_until_made_anew(root):
    prepare(root)
    edit(root)
    with pytest.raises(
        ValueError, match=r"stale: .*visual_feature.h5 has been written since.*data prepare"
    ):
        AVEDataset(root)
    with pytest.raises(
        ValueError, match=r"stale: .*visual_feature.h5 has been written since. Needed: --overwrite"
    ):
        prepare(root)
    prepare(root, overwrite=True)
    assert AVEDataset(root).root == root / "prepared"


def test_touched_source_is_compared_by_contents(root):
    prepare(root)
    for name in ("visual_feature.h5", "labels.h5"):
        os.utime(root / name)
    with pytest.raises(ValueError, match="stale"):
        AVEDataset(root)
    prepare(root)
    assert AVEDataset(root).root == root / "prepared"


def test_source_of_another_size(root):
    before = (root / "labels.h5").stat()
    prepare(root)
    with (root / "labels.h5").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ValueError, match=r"labels.h5 has [\d,]+ bytes and had"):
        AVEDataset(root)
    os.truncate(root / "labels.h5", before.st_size)
    os.utime(root / "labels.h5", ns=(before.st_atime_ns, before.st_mtime_ns))
    AVEDataset(root)


def test_file_that_came_later_makes_the_cache_stale(root):
    (root / "mil_labels.h5").rename(root / "later.h5")
    prepare(root)
    (root / "later.h5").rename(root / "mil_labels.h5")
    with pytest.raises(ValueError, match=r"mil_labels.h5 is new. Needed: --overwrite"):
        prepare(root)


def test_cache_outlives_its_source(root, tmp_path):
    prepare(root, tmp_path / "elsewhere")
    assert AVEDataset(root).root == root
    shutil.rmtree(root)
    assert len(AVEDataset(tmp_path / "elsewhere")) == 211


def test_two_runs_at_once_do_not_mix(root):
    (root / "prepared.partial").mkdir()
    with (root / "prepared.partial" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another run is preparing this cache"):
            prepare(root)
    prepare(root)


def test_disk_space_is_checked_first(root, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6, 1000))
    with pytest.raises(OSError, match=r"0.00 MB free; needed: 1.\d\d MB for the cache"):
        prepare(root)
    assert not list(root.glob("prepared*"))


def test_other_folders_are_not_overwritten(root, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="exists and is not a cache"):
            prepare(root, tmp_path / "mine", overwrite=overwrite)
    with pytest.raises(ValueError, match="exists and is not a cache"):
        prepare(root, root, overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").exists()
    (tmp_path / "empty").mkdir()
    prepare(root, tmp_path / "empty")
    assert AVEDataset(tmp_path / "empty").root == tmp_path / "empty"


def test_damaged_cache_is_found_by_its_checksums(root):
    prepare(root)
    assert {finding.level for finding in check(root, full=True)} == {"ok"}
    with (root / "prepared" / "visual_feature.npy").open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff\xff\xff\xff")
    errors = [str(finding) for finding in check(root, full=True) if finding.level == "error"]
    assert len(errors) == 1
    assert "damaged since it was made: visual_feature.h5" in errors[0]
    (root / "prepared" / "prepared.json").write_text("{")
    with pytest.raises(ValueError, match=r"prepared.json: not a whole manifest .* delete"):
        AVEDataset(root)


def test_memory_does_not_grow_with_the_set(tmp_path):
    code = """
import resource, sys
import h5py, numpy as np
from jca_fast.data import AVEDataset, check, files, prepare
root = sys.argv[1]
for stem, clip in (("audio_feature", (10, 128)), ("visual_feature", (10, 7, 7, 512))):
    with h5py.File(f"{root}/{stem}.h5", "w") as file:  # takes no room: nothing is written
        file.create_dataset("avadataset", shape=(400, *clip), dtype="float64")
files.write_h5(f"{root}/labels.h5", avadataset=np.zeros((400, 10, 29)))
for split in files.SPLITS:
    files.write_h5(f"{root}/{split}_order.h5", order=np.arange(400))
AVEDataset(root)[0]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
prepare(root)
dataset = AVEDataset(root)
assert dataset.root.name == "prepared"
for i in range(len(dataset)):
    dataset[i]
check(root, full=True)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    path = os.pathsep.join([str(Path.cwd()), *sys.path])
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(result.stdout) < 150  # MB, of the 800 MB of the source and 400 MB of the cache
    (tmp_path / "prepared" / "visual_feature.npy").unlink()  # pytest keeps temporary folders


def test_command(root, tmp_path, capsys, monkeypatch):
    assert main(["data", "prepare", str(root), "--out", str(tmp_path / "other")]) == 0
    assert not capsys.readouterr().err  # no bar in a log file
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert main(["data", "prepare", str(root), "--dtype", "float16"]) == 0
    printed = capsys.readouterr()
    assert "visual_feature.h5 to float16" in printed.out
    assert "GB, ready" in printed.out
    assert "visual_feature: 100%" in printed.err
    assert main(["data", "prepare", str(root)]) == 2
    assert "holds a float16 cache" in capsys.readouterr().err
