"""The page of a video: self-contained, with a preview if a browser needs one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("soxr", reason="soxr is not installed")

from video_tools import NAMES, make_page, make_video, result

from jca_fast.video import preview, report
from jca_fast.video.decode import VideoReader
from jca_fast.video.events import Event, merge, webvtt


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_page(tmp_path_factory.mktemp("page"))


def data_of(page: Path) -> dict:
    found = re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    return json.loads(found[1])


def test_events_are_merged_runs():
    probabilities = np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.2, 0.5, 0.3]])
    events = merge(probabilities, ["a", "b", "Background"], 0.5, 1.9)
    assert [(e.start, e.end, e.name) for e in events] == [(0.0, 1.0, "a"), (1.5, 1.9, "b")]
    assert abs(events[0].probability - 0.7) < 1e-9
    assert merge(np.array([[0.1, 0.9]]), ["a", "Background"], 1.0, 1.0) == []


def test_webvtt():
    text = webvtt([Event(3661.25, 3662.0, 0, "a < b", 0.876)])
    assert text == "WEBVTT\n\n01:01:01.250 --> 01:01:02.000\na &lt; b (88 %)\n"


def test_the_page_needs_nothing_else(folder):
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!#)""", text)
    assert "url(" not in text.replace("URL.createObjectURL(", "")
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert "default-src 'none'" in text
    assert "a &amp; b.mp4" in text
    assert "{{" not in text
    assert text.count("</script>") == 3  # nothing in the data ends a script
    data = data_of(folder / "index.html")
    assert [event["class"] for event in data["events"]] == ["Church bell", "Bark"]
    assert {lane["name"] for lane in data["lanes"]} == set(NAMES[:3])


def test_what_browsers_cannot_play_gets_a_preview(tmp_path):
    video = make_video(tmp_path / "a.avi", 2.0, codec="mpeg4", audio="pcm_s16le", rate=44100)
    assert not preview.is_playable(VideoReader(video).info)
    report.write_page(result(video, 2), tmp_path)
    made = tmp_path / "made.mp4"
    preview.transcode(video, made)
    info = VideoReader(made).info
    assert preview.is_playable(info)
    assert info["size"] == [96, 64]
    assert len(list(VideoReader(made).segments())) == 2
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_large_video_lies_beside_the_page(tmp_path, monkeypatch):
    video = make_video(tmp_path / "a.mp4", 2.0)
    monkeypatch.setattr(report, "EMBEDDED_BYTES", 100)
    report.write_page(result(video, 2), tmp_path)
    assert data_of(tmp_path / "index.html")["source"] == "video.mp4"
    assert VideoReader(tmp_path / "video.mp4").info["duration"] > 1.9
    monkeypatch.undo()
    report.write_page(result(video, 2), tmp_path)
    assert not (tmp_path / "video.mp4").exists()


def test_render(tmp_path):
    video = make_video(tmp_path / "a.mp4", 3.0, size=(160, 120))
    preview.render(result(video, 3), tmp_path / "annotated.mp4")
    before = list(VideoReader(video, size=64, frames_per_segment=2).segments())
    after = list(VideoReader(tmp_path / "annotated.mp4", size=64, frames_per_segment=2).segments())
    assert len(after) == 3
    change = np.abs(after[1].pictures[0].astype(float) - before[1].pictures[0]).mean(axis=2)
    assert change[5:13, 28:36].mean() > change[30:40, 5:20].mean() + 5  # where the attention is
    assert change[58:].mean() > 3  # the caption
