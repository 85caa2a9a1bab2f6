"""A real film: features, events and page."""

from __future__ import annotations

import base64
import json
import re

import h5py
import numpy as np
import pytest

pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("soxr", reason="soxr is not installed")

from video_tools import bunny

from jca_fast.cli import main
from jca_fast.data.record import read_record
from jca_fast.models import AVELocalizer
from jca_fast.training import checkpoint


def test_extraction_and_page(tmp_path):
    film = bunny()
    out = tmp_path / "set"
    report = tmp_path / "report"
    command = ["extract", str(film), "-o", str(out), "--frames-per-segment", "2"]
    assert main(command) == 0
    with h5py.File(out / "clips.h5") as file:
        assert file["length"][:].tolist() == [5]  # 5.3 s: the last third of a second is left out
    for name in ("audio", "visual"):
        with h5py.File(out / f"{name}_feature.h5") as file:
            rows = file["avadataset"][0]
        assert np.isfinite(rows).all()
        assert not rows[5:].any()
        changes = np.abs(np.diff(rows[:5].reshape(5, -1), axis=0)).max(axis=1)
        assert (changes > 0.01).all(), f"{name}: two seconds of the film have the same features"
    model = AVELocalizer(8, 8, 1)
    checkpoint.save(tmp_path / "model.pt", model, features=read_record(out))
    command = ["localize", str(film), "--checkpoint", str(tmp_path / "model.pt")]
    assert main([*command, "-o", str(report)]) == 0
    found = json.loads((report / "events.json").read_text())
    assert found["info"]["size"] == [1280, 720]
    assert np.array(found["probabilities"]).shape == (5, 29)
    page = (report / "index.html").read_text(encoding="utf-8")
    inside = re.search(r'id="bytes">(.*?)</script>', page, re.DOTALL)
    assert inside is not None
    assert base64.b64decode(inside[1]) == film.read_bytes()
