"""Training and evaluation of padded clips: the padding has no effect."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch
from training_tools import make_data, settings, train_here, weights

from jca_fast.cli import main
from jca_fast.data.ave import AVEDataset
from jca_fast.training import metrics


def write_lengths(root, lengths):
    with h5py.File(root / "clips.h5", "w") as file:
        file["length"] = lengths


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two sets that differ in the features and the labels of their padding, and the lengths."""
    folders = [tmp_path_factory.mktemp(name) for name in ("clean", "noisy")]
    lengths = np.random.default_rng(0).integers(1, 5, 48)
    padding = np.arange(4) >= lengths[:, None]
    for folder in folders:
        make_data(folder)
        write_lengths(folder, lengths)
    for name in ("audio_feature", "visual_feature", "labels"):
        with h5py.File(folders[1] / f"{name}.h5", "r+") as file:
            (table,) = file.values()
            values = table[:]
            values[padding] = np.roll(values[padding], 1, axis=-1) if name == "labels" else 77
            table[...] = values
    return folders, lengths


def test_items_end_with_their_length(sets):
    (folder, _), lengths = sets
    dataset = AVEDataset(folder, "train")
    assert dataset.lengths.tolist() == lengths[dataset.indices].tolist()
    assert [int(dataset[i][3]) for i in range(len(dataset))] == dataset.lengths.tolist()


def test_a_set_without_padding_has_no_lengths(tmp_path):
    make_data(tmp_path)
    assert AVEDataset(tmp_path, "val").lengths is None
    write_lengths(tmp_path, np.full(48, 4))
    dataset = AVEDataset(tmp_path, "val")
    assert dataset.lengths is None
    assert len(dataset[0]) == 3


@pytest.mark.parametrize("lengths", [np.full(48, 5), np.full(48, 0), np.full(47, 3)])
def test_lengths_that_cannot_be(tmp_path, lengths):
    make_data(tmp_path)
    write_lengths(tmp_path, lengths)
    with pytest.raises(ValueError, match=r"clips\.h5: found lengths .*; needed: 48 from 1 to 4"):
        AVEDataset(tmp_path, "train")


def test_training_and_evaluation_do_not_see_the_padding(sets, tmp_path):
    results = []
    for folder in sets[0]:
        out = tmp_path / folder.name
        train_here(**settings(folder, out, epochs=2))
        report = tmp_path / f"{folder.name}.json"
        flags = ["--split", "val", "--device", "cpu", "-o", str(report)]
        assert main(["evaluate", str(out / "best.pt"), "--data", str(folder), *flags]) == 0
        found = json.loads(report.read_text())
        dropped = ("checkpoint", "data", "pointing_game")
        results.append((weights(out / "last.pt"), {k: found[k] for k in found if k not in dropped}))
    (clean, shown), (noisy, same) = results
    assert all(torch.equal(clean[name], noisy[name]) for name in clean)
    assert shown == same
    dataset = AVEDataset(sets[0][0], "val")
    assert shown["num_segments"] == int(dataset.lengths.sum())


def test_weak_labels_of_padded_clips(sets, tmp_path):
    dataset = AVEDataset(sets[0][0], "train", weak=True, noisy=False)
    assert len(dataset[0]) == 4


def test_metrics_of_the_segments_in_use():
    target = torch.tensor([[0, 0, 2], [1, 2, 2]])
    predicted = torch.tensor([[0, 0, 0], [1, 1, 1]])
    used = torch.tensor([[True, True, False], [True, False, False]])
    found = metrics.summarize(predicted, target, 3, used=used)
    assert found["accuracy"] == found["batch_mean_accuracy"] == found["event_f1"] == 1.0
    assert (found["num_segments"], found["background_share"]) == (3, 0.0)
