"""Checkpoints: atomic writes, detected damage, no execution on loading."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import zipfile

import pytest
import torch

from jca_fast.models import AVELocalizer
from jca_fast.training import checkpoint
from jca_fast.training.reproducible import random_state, set_random_state

CONFIG = {"form": "released", "audio_dim": 4, "visual_dim": 4, "num_layers": 1}


@pytest.fixture
def saved(tmp_path):
    model = AVELocalizer(**CONFIG)
    checkpoint.save(tmp_path / "best.pt", model, note={"epoch": 3})
    return model, tmp_path / "best.pt"


def test_a_checkpoint_rebuilds_its_model(saved):
    model, path = saved
    for place in (path, path.parent):  # a run's folder stands for its best.pt
        loaded, content = checkpoint.load_model(place)
        assert loaded.config == model.config
        assert not loaded.training
        assert all(
            torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True)
        )
        assert content["note"] == {"epoch": 3}
        assert set(content["versions"]) == {"jca_fast", "torch", "python"}


def test_a_flipped_bit_and_a_missing_tail_are_found(saved):
    model, path = saved
    content = path.read_bytes()
    place = content.index(model.head[0].weight.detach().numpy().tobytes()) + 9
    for damaged in (
        content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :],
        content[:-100],
        b"",
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"best\.pt: not a readable checkpoint"):
            checkpoint.load(path)


def test_code_in_a_file_does_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"format": checkpoint.FORMAT, "model": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match=r"not a readable checkpoint .*jca-fast convert --native"):
        checkpoint.load(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_other_files_are_refused(tmp_path, saved):
    model, path = saved
    with pytest.raises(FileNotFoundError, match=r"none\.pt: no such checkpoint"):
        checkpoint.load(tmp_path / "none.pt")
    torch.save({"net": model.state_dict()}, path)
    with pytest.raises(
        ValueError, match="expected a file of format 'jca_fast checkpoint 1', found None"
    ):
        checkpoint.load(path)
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        checkpoint.load(tmp_path / "pickle.pt")


def test_weights_that_do_not_fit_are_named(saved):
    model, path = saved
    other = AVELocalizer(**{**CONFIG, "visual_dim": 6, "num_layers": 2})
    with pytest.raises(
        ValueError, match=r"best\.pt: the weights do not fit the model: .*is missing.* more"
    ):
        checkpoint.load_weights(other, checkpoint.load(path)["model"], path)
    wider = AVELocalizer(**{**CONFIG, "num_classes": 5})
    with pytest.raises(ValueError, match=r"has shape \(29, 1\), the model needs \(5, 1\)"):
        checkpoint.load_weights(wider, model.state_dict(), path)


def test_a_failed_write_leaves_the_old_file(saved, monkeypatch):
    model, path = saved
    before = path.read_bytes()

    def full_disk(content, file):
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, model)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_checksums_are_written(saved):
    _, path = saved
    with zipfile.ZipFile(path) as archive:
        assert all(
            entry.CRC
            for entry in archive.infolist()
            if entry.file_size and "data/" in entry.filename
        )


def test_random_state_survives_a_checkpoint(saved):
    import random

    import numpy as np

    model, path = saved
    checkpoint.save(path, model, random=random_state())
    drawn = random.random(), np.random.rand(), np.random.randn(), torch.rand(())
    set_random_state(checkpoint.load(path)["random"])
    assert (random.random(), np.random.rand(), np.random.randn(), torch.rand(())) == drawn


LIMITED = """
import resource, sys, torch
from jca_fast.models import AVELocalizer
from jca_fast.training import checkpoint
model = AVELocalizer(form="released", audio_dim=64, visual_dim=64)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
checkpoint.save(sys.argv[1], model)
"""


def test_a_write_beyond_the_limit_names_file_and_reason(tmp_path):
    path = tmp_path / "best.pt"
    path.write_text("old")
    done = subprocess.run(
        [sys.executable, "-B", "-c", LIMITED, path], capture_output=True, text=True
    )
    assert done.stderr.splitlines()[-1] == f"OSError: {path}: cannot be written: File too large"
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
