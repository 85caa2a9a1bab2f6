"""Several processes: the same loss curve as one process for the same global batch, every clip
evaluated once."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from training_tools import MODEL, csv_rows, environment, make_data, settings, train_here, weights

from jca_fast.training.distributed import GlobalBatches, Group, pick_device
from jca_fast.training.inference import split_batches


def torchrun(*arguments: str) -> str:
    """Runs `jca-fast <arguments>` in two processes under torchrun; returns what they printed."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    done = subprocess.run(
        [*command, "-m", "jca_fast", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def two_processes(data, tmp_path_factory):
    """A run of two processes, resumed after two epochs, and what its first part printed.

    Batches of 11, so that the last holds one clip and one process has none; with seed 3 segments of
    that clip are predicted right, so that a double count is visible. No dropout.
    """
    out = tmp_path_factory.mktemp("two")
    model = [f"{name}={value}" for name, value in MODEL.items()]
    flags = [
        "--lr",
        "0.01",
        "--batch-size",
        "11",
        "--plateau-patience",
        "0",
        "--clip-norm",
        "0.05",
        "--seed",
        "3",
    ]
    flags += [
        "--loss",
        "cross_entropy",
        "--device",
        "cpu",
        "--model",
        *model,
        "dropout=0.0",
        "rnn_dropout=0.0",
    ]
    command = ["train", "--data", str(data), "--out", str(out), *flags]
    printed = torchrun(*command, "--epochs", "2")
    assert "resumed at epoch 3" in torchrun(*command, "--epochs", "3")
    return out, printed


def test_same_curve_and_weights_as_one_process(data, two_processes, tmp_path):
    out, printed = two_processes
    model = {**MODEL, "dropout": 0.0, "rnn_dropout": 0.0}
    arguments = settings(
        data, tmp_path, batch_size=11, clip_norm=0.05, loss="cross_entropy", seed=3, model=model
    )
    summary = train_here(**arguments)
    rows, expected = csv_rows(out / "metrics.csv"), csv_rows(tmp_path / "metrics.csv")
    assert [row["step"] for row in rows] == ["4", "8", "12"]
    for row, wanted in zip(rows, expected, strict=True):
        assert {k: float(v) for k, v in row.items()} == pytest.approx(
            {k: float(v) for k, v in wanted.items()}, rel=1e-5
        )
    for name in ("last.pt", "best.pt"):
        for key, wanted in weights(tmp_path / name).items():
            torch.testing.assert_close(weights(out / name)[key], wanted, rtol=1e-4, atol=1e-6)
    found = json.loads((out / "metrics.json").read_text())
    assert found["test"]["confusion"] == summary["test"]["confusion"]
    assert sum(map(sum, found["test"]["confusion"])) == 7 * 4  # 7 clips over 2 processes, each once
    assert printed.count("epoch 1/2") == 1  # only process 0 speaks


def test_every_process_draws_its_own_dropout(two_processes):
    ranks = torch.load(two_processes[0] / "last.pt", weights_only=True)["ranks"]
    assert len(ranks) == 2
    assert not torch.equal(ranks[0]["random"]["torch"], ranks[1]["random"]["torch"])


def test_evaluate_in_two_processes(data, two_processes, tmp_path):
    out, _ = two_processes
    arguments = ["evaluate", str(out), "--data", str(data), "--device", "cpu", "--batch-size", "2"]
    printed = torchrun(*arguments, "-o", str(tmp_path / "two.json"))
    assert printed.count("accuracy, all segments") == 1
    two = json.loads((tmp_path / "two.json").read_text())
    trained = json.loads((out / "metrics.json").read_text())["test"]
    assert (two["confusion"], two["num_clips"]) == (trained["confusion"], 7)
    assert two["loss"] == pytest.approx(trained["loss"], rel=1e-6)
    assert two["pointing_game"]["segments"] > 0


@pytest.mark.parametrize(
    ("clips", "size", "world"), [(34, 11, 2), (10, 4, 3), (5, 8, 4), (7, 1, 2)]
)
def test_shares_of_all_processes_make_up_the_batches_of_one(clips, size, world):
    whole = GlobalBatches(clips, size, seed=3)
    ranks = [GlobalBatches(clips, size, 3, rank, world) for rank in range(world)]
    for epoch in (0, 1):
        for batches in (whole, *ranks):
            batches.seek(epoch, 0)
        assert {len(batches) for batches in ranks} == {len(whole)}
        for i, (batch, *parts) in enumerate(zip(whole, *ranks, strict=True)):
            assert whole.size(i) == len(batch)
            shares = [rank.share(i) for rank in ranks]
            assert all(
                len(part) == max(share, 1) for part, share in zip(parts, shares, strict=True)
            )
            counted = [
                clip for part, share in zip(parts, shares, strict=True) for clip in part[:share]
            ]
            assert sorted(counted) == sorted(batch)
    assert sorted(clip for batch in whole for clip in batch) == list(range(clips))


def test_the_order_depends_on_seed_and_epoch_and_can_be_entered_anywhere():
    def order(seed, epoch, first=0):
        batches = GlobalBatches(50, 7, seed)
        batches.seek(epoch, first)
        return list(batches)

    assert order(1, 2)[3:] == order(1, 2, first=3)
    assert len({str(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_every_clip_is_evaluated_by_exactly_one_process():
    dataset = torch.utils.data.TensorDataset(torch.arange(23))
    seen = []
    for rank in range(3):
        for rows, (values,) in split_batches(dataset, 4, Group(torch.device("cpu"), rank, 3)):
            assert values.tolist() == rows
            seen += rows
    assert sorted(seen) == list(range(23))


def test_a_missing_device_is_named():
    with pytest.raises(
        ValueError, match="device: expected auto, cpu, cuda or cuda:<index>, got 'gpu'"
    ):
        pick_device("gpu")
    with pytest.raises(ValueError, match=r"device: 'cuda:99' requested \(GPU 99 in this process\)"):
        pick_device("cuda:99")
