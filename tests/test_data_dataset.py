"""AVEDataset: its items, lazy reading in any process, and errors on bad files."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from jca_fast.data import AVEDataset, read_annotations, segment_labels, synthesize
from jca_fast.data.files import write_h5


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A small set, with noisy clips; never written to."""
    root = tmp_path_factory.mktemp("planted")
    return synthesize(
        root, num_clips=24, num_noisy=5, audio_dim=8, visual_dim=6, grid=(3, 2), seed=3
    )


@pytest.fixture
def root(planted, tmp_path):
    """A copy to damage."""
    return shutil.copytree(planted, tmp_path / "set")


def stored(root, stem, dataset="avadataset"):
    with h5py.File(root / f"{stem}.h5") as file:
        return file[dataset][:]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_items_are_the_stored_clips_in_split_order(planted, split):
    dataset = AVEDataset(planted, split)
    order = stored(planted, f"{split}_order", "order")
    assert not np.array_equal(order, np.sort(order))  # as in the published splits
    assert len(dataset) == len(order) == len(list(dataset))
    assert dataset.indices.tolist() == order.tolist()
    audio, visual, labels = (
        stored(planted, stem) for stem in ("audio_feature", "visual_feature", "labels")
    )
    assert audio.dtype == visual.dtype == np.float64
    assert torch.equal(dataset.labels, torch.from_numpy(labels[order]))
    for i, row in enumerate(order):
        a, v, y = dataset[i]
        assert (a.shape, v.shape, y.shape) == ((10, 8), (10, 3, 2, 6), (10, 29))
        assert a.dtype == v.dtype == y.dtype == torch.float32
        assert np.array_equal(a.numpy(), audio[row].astype(np.float32))
        assert np.array_equal(v.numpy(), visual[row].astype(np.float32))
        assert np.array_equal(y.numpy(), labels[row])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_features_are_cast_once_to_dtype(planted, dtype):
    a, v, y = AVEDataset(planted, "val", dtype)[0]
    row = stored(planted, "val_order", "order")[0]
    assert torch.equal(a, torch.from_numpy(stored(planted, "audio_feature")[row]).to(dtype))
    assert v.dtype == dtype
    assert y.dtype == torch.float32


def test_flat_regions_and_npy_files(planted, root):
    visual = stored(planted, "visual_feature")
    (root / "visual_feature.h5").unlink()
    np.save(root / "visual_feature.npy", visual.reshape(24, 10, 6, 6).astype(np.float32))
    flat, grid = AVEDataset(root, "test"), AVEDataset(planted, "test")
    assert flat[0][1].shape == (10, 6, 6)
    assert torch.equal(flat[0][1], grid[0][1].flatten(1, 2))


def test_weak_labels_and_noisy_clips(planted):
    dataset = AVEDataset(planted, "train", weak=True)
    n = len(AVEDataset(planted, "train"))
    assert len(dataset) == n + 5
    assert dataset[0][2].shape == (29,)
    assert dataset.indices[n:].tolist() == [24, 25, 26, 27, 28]
    assert torch.equal(
        dataset.labels[:n], torch.from_numpy(stored(planted, "mil_labels"))[dataset.indices[:n]]
    )
    assert (dataset.labels[n:].argmax(dim=1) == 28).all()
    assert np.array_equal(
        dataset[n + 1][1].numpy(), stored(planted, "visual_feature_noisy")[1].astype(np.float32)
    )
    assert len(AVEDataset(planted, "train", weak=True, noisy=False)) == n
    assert len(AVEDataset(planted, "val", weak=True)) == len(AVEDataset(planted, "val"))


def test_weak_labels_come_from_annotations_when_their_file_is_missing(planted, root):
    (root / "mil_labels.h5").unlink()
    weak = AVEDataset(planted, "train", weak=True).labels
    assert torch.equal(AVEDataset(root, "train", weak=True).labels, weak)


def test_real_labels_and_splits(shared, tmp_path):
    ave = shared / "data" / "ave"
    for name in ("labels.h5", "train_order.h5", "val_order.h5", "test_order.h5"):
        shutil.copyfile(ave / name, tmp_path / name)
    virtual_features(tmp_path, 4143)
    labels = segment_labels(read_annotations(ave / "Annotations.txt"))
    for split, size, background in (
        ("train", 3339, 0.169),
        ("val", 402, 0.182),
        ("test", 402, 0.178),
    ):
        dataset = AVEDataset(tmp_path, split)
        assert len(dataset) == size
        assert np.array_equal(dataset.labels.numpy(), labels[dataset.indices.numpy()])
        assert dataset.labels[:, :, 28].mean().item() == pytest.approx(background, abs=5e-4)


def virtual_features(root, clips, shape=(10, 7, 7, 512)):
    """Features of the published shape that occupy no disk space, because they are never written."""
    for stem, clip in (("audio_feature", (shape[0], 128)), ("visual_feature", shape)):
        with h5py.File(root / f"{stem}.h5", "w") as file:
            file.create_dataset("avadataset", shape=(clips, *clip), dtype="float64")
    assert (root / "visual_feature.h5").stat().st_size < 10_000


def test_no_more_than_an_item_is_in_memory(tmp_path):
    virtual_features(tmp_path, 500)  # 1 GB if it were read
    write_h5(tmp_path / "labels.h5", avadataset=np.zeros((500, 10, 29), np.float32))
    write_h5(tmp_path / "train_order.h5", order=np.arange(500)[::-1])
    AVEDataset(tmp_path, "train")[0]  # imports and other overhead
    tracemalloc.start()
    dataset = AVEDataset(tmp_path, "train")
    for i in range(0, 500, 50):
        dataset[i]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    clip = 10 * 49 * 512 * 8
    assert clip < peak < 5 * clip


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_the_same_items(planted, context):
    dataset = AVEDataset(planted, "train")
    alone = [dataset[i] for i in range(len(dataset))]  # leaves the parent's files open, as users do
    loader = DataLoader(dataset, batch_size=4, num_workers=2, multiprocessing_context=context)
    audio, visual, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert torch.equal(audio, torch.stack([item[0] for item in alone]))
    assert torch.equal(visual, torch.stack([item[1] for item in alone]))
    assert torch.equal(labels, torch.stack([item[2] for item in alone]))


def test_a_forked_process_opens_its_own_file(planted):
    dataset = AVEDataset(planted, "train")
    dataset[0]
    table = dataset._tables[0][1]
    handle, table._pid = table._handle, os.getpid() + 1  # as a child finds it
    dataset[0]
    assert table._handle is not handle
    assert table._pid == os.getpid()


def test_pickle_leaves_open_files_behind(planted):
    dataset = AVEDataset(planted, "train")
    dataset[0]
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy._tables[0][1]._handle is None
    assert torch.equal(copy[2][1], dataset[2][1])


def rewrite(root, stem, values, dataset="avadataset"):
    (root / f"{stem}.h5").unlink()
    write_h5(root / f"{stem}.h5", **{dataset: values})


def truncate(path):
    os.truncate(path, path.stat().st_size - 1000)


DAMAGE = {
    "missing": (
        lambda r: (r / "visual_feature.h5").unlink(),
        FileNotFoundError,
        ["visual_feature.h5", "'avadataset'"],
    ),
    "no order": (
        lambda r: (r / "train_order.h5").unlink(),
        FileNotFoundError,
        ["train_order.h5", "dataset 'order'"],
    ),
    "truncated": (
        lambda r: truncate(r / "visual_feature.h5"),
        ValueError,
        ["visual_feature.h5: not a whole HDF5 file"],
    ),
    "not h5": (
        lambda r: (r / "labels.h5").write_bytes(b"<html>"),
        ValueError,
        ["labels.h5: not a whole HDF5 file, 6"],
    ),
    "dataset": (
        lambda r: rewrite(r, "audio_feature", np.zeros((24, 10, 8)), "features"),
        ValueError,
        ["audio_feature.h5: found datasets ['features']; needed: dataset 'avadataset'"],
    ),
    "axes": (
        lambda r: rewrite(r, "visual_feature", np.zeros((24, 10, 512))),
        ValueError,
        [
            "visual_feature.h5, dataset 'avadataset': found shape (24, 10, 512), float64",
            "(clips, segments, 7, 7, d_v)",
        ],
    ),
    "empty": (
        lambda r: rewrite(r, "audio_feature", np.zeros((0, 10, 8))),
        ValueError,
        ["found shape (0, 10, 8)"],
    ),
    "text": (
        lambda r: rewrite(r, "audio_feature", np.full((24, 10, 8), b"x")),
        ValueError,
        ["found shape (24, 10, 8), |S1", "numbers"],
    ),
    "clips differ": (
        lambda r: rewrite(r, "audio_feature", np.zeros((23, 10, 8))),
        ValueError,
        [
            "visual_feature.h5",
            "found (24, 10) (clips, segments); needed: (23, 10), as in",
            "audio_feature.h5",
        ],
    ),
    "labels differ": (
        lambda r: rewrite(r, "labels", np.zeros((24, 9, 29), np.float32)),
        ValueError,
        ["labels.h5", "found shape (24, 9, 29); needed: (24, 10)", "audio_feature.h5"],
    ),
    "row too large": (
        lambda r: rewrite(r, "train_order", np.array([3, 24]), "order"),
        ValueError,
        ["train_order.h5, dataset 'order': found row 24 at position 1; needed: rows from 0 to 23"],
    ),
    "row negative": (
        lambda r: rewrite(r, "train_order", np.array([-1]), "order"),
        ValueError,
        ["found row -1"],
    ),
    "order of floats": (
        lambda r: rewrite(r, "train_order", np.zeros(3), "order"),
        ValueError,
        ["float64", "whole numbers"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_bad_files_are_named_with_what_is_needed(root, damage):
    harm, error, words = DAMAGE[damage]
    harm(root)
    with pytest.raises(error) as caught:
        AVEDataset(root, "train")
    for text in words:
        assert text in str(caught.value)


def test_truncated_npy(root, planted):
    (root / "audio_feature.h5").unlink()
    np.save(root / "audio_feature.npy", stored(planted, "audio_feature"))
    truncate(root / "audio_feature.npy")
    with pytest.raises(ValueError, match=r"audio_feature.npy: not a whole .npy file"):
        AVEDataset(root, "train")


def test_npy_in_fortran_order(root, planted):
    (root / "audio_feature.h5").unlink()
    np.save(root / "audio_feature.npy", np.asfortranarray(stored(planted, "audio_feature")))
    with pytest.raises(
        ValueError, match=r"audio_feature.npy: found an array in Fortran order; needed: C order"
    ):
        AVEDataset(root, "train")


def test_npy_that_shrinks_later(root, planted):
    (root / "audio_feature.h5").unlink()
    np.save(root / "audio_feature.npy", stored(planted, "audio_feature"))
    dataset = AVEDataset(root, "train")
    truncate(root / "audio_feature.npy")
    with pytest.raises(ValueError, match=r"audio_feature.npy: rows \d+ cannot be read"):
        dataset[0]


def test_import_is_lean():
    code = (
        "import sys, jca_fast.data, jca_fast.data.cli;"
        "print(sorted({'h5py', 'tqdm'} & set(sys.modules)))"
    )
    path = os.pathsep.join([str(Path.cwd()), *sys.path])
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "[]"


def test_noisy_files_are_needed_for_weak_training(root):
    (root / "visual_feature_noisy.h5").unlink()
    with pytest.raises(FileNotFoundError, match=r"visual_feature_noisy.h5"):
        AVEDataset(root, "train", weak=True)
    AVEDataset(root, "train", weak=True, noisy=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"split": "dev"}, "split is 'dev'; needed: one of train, val, test"),
        ({"dtype": torch.int32}, "dtype is torch.int32"),
        ({"noisy": True}, "noisy=True without weak=True"),
    ],
)
def test_bad_arguments(planted, arguments, words):
    with pytest.raises(ValueError, match=words):
        AVEDataset(planted, **arguments)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        AVEDataset(planted / "nowhere")
