"""The page of a video: self-contained, and in a real browser it plays, seeks and toggles."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("soxr", reason="soxr is not installed")

from video_tools import make_video

from jca_fast.video import preview, report
from jca_fast.video.decode import VideoReader
from jca_fast.video.events import Event, merge, webvtt
from jca_fast.video.localize import Result

NAMES = ["Church bell", "Bark", "Cat </script><b>", "Background"]


def result(video: Path, seconds: int = 8, attention: bool = True) -> Result:
    """A bell in seconds 1 and 2, a bark from 5 to the end."""
    probabilities = np.full((seconds, 4), 0.05)
    probabilities[:, 3] = 0.85
    for label, span in ((0, slice(1, 3)), (1, slice(5, seconds))):
        probabilities[span] = 0.1
        probabilities[span, label] = 0.7
    maps = np.full((seconds, 7, 7), 0.5 / 48)
    for second in range(seconds):
        maps[second, second % 7, 3] = 0.5
    return Result(
        video,
        VideoReader(video).info,
        1.0,
        NAMES,
        probabilities,
        maps if attention else None,
        np.abs(np.sin(np.arange(seconds * 20.0))).reshape(seconds, 20).astype(np.float32),
        merge(probabilities, NAMES, 1.0, seconds),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    video = make_video(root / "a & b.mp4", 8.0, size=(160, 120), options={"movflags": "faststart"})
    report.write_page(result(video), root)
    return root


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


# ---- in a browser


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    with api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        started = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield started
        started.close()


@pytest.fixture
def page(browser, folder):
    """The page at the size of a phone; errors and requests to a network fail the test."""
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page, problems = context.new_page(), []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.on("request", lambda r: None if is_local(r.url) else problems.append(r.url))
    page.goto((folder / "index.html").as_uri())
    page.wait_for_function("document.getElementById('video').readyState >= 2")
    yield page
    context.close()
    assert problems == []


def is_local(url: str) -> bool:
    return url.startswith(("file:", "blob:", "data:"))


def time_of(page) -> float:
    return page.evaluate("document.getElementById('video').currentTime")


def test_plays(page):
    page.click("#play")
    page.wait_for_function("document.getElementById('video').currentTime > 0.4", timeout=20000)
    assert page.inner_text("#play") == "Pause"
    head = page.evaluate("parseFloat(document.getElementById('head').style.left)")
    assert head > 0
    page.keyboard.press("Escape")
    page.click("#play")
    assert page.evaluate("document.getElementById('video').paused")


def test_seeks_by_mouse_keys_and_lists(page):
    box = page.locator("#tracks").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.5, box["y"] + 10)
    assert abs(time_of(page) - 4.0) < 0.1
    page.keyboard.press("ArrowRight")
    assert abs(time_of(page) - 5.0) < 0.1
    page.focus("#tracks")
    page.keyboard.press("Home")
    assert time_of(page) == 0
    page.keyboard.press("n")
    assert abs(time_of(page) - 1.0) < 0.05
    assert page.get_attribute("#row0", "aria-current") == "true"
    page.click("#next")
    assert abs(time_of(page) - 5.0) < 0.05
    assert "Bark" in page.inner_text("#now")
    page.click("#event0")
    assert abs(time_of(page) - 1.0) < 0.05
    page.click("#row1 button")
    assert abs(time_of(page) - 5.0) < 0.05


def test_toggles_the_attention(page):
    painted = """() => { const c = document.getElementById('overlay');
        return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v > 0) }"""
    assert not page.evaluate(painted)
    page.keyboard.press("a")
    assert page.is_checked("#toggle")
    assert page.evaluate(painted)
    peak = """() => { const c = document.getElementById('overlay');
        const y = Math.round(c.height * 0.357);
        const at = (x) => c.getContext('2d').getImageData(x, y, 1, 1).data[3];
        return [at(Math.round(c.width / 2)), at(3)] }"""
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    inside, outside = page.evaluate(peak)  # in second 2 the weight lies in row 2
    assert inside > outside + 50
    page.click("#toggle")
    assert not page.evaluate(painted)


def test_fits_a_phone(page):
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    small = page.evaluate(
        "[...document.querySelectorAll('.bar:not([hidden]) button')]"
        ".filter(b => b.getBoundingClientRect().height < 40).length"
    )
    assert small == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(page, scheme):
    """Text against paper by the WCAG formula."""
    page.emulate_media(color_scheme=scheme)
    ratios = page.evaluate(
        """() => { const style = getComputedStyle(document.documentElement);
        const light = (name) => { const h = style.getPropertyValue(name).trim();
            const c = [1, 3, 5].map((i) => parseInt(h.slice(i, i + 2), 16) / 255)
                .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2] };
        const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
            return (x + 0.05) / (y + 0.05) };
        const least = (n) => Math.min(ratio(n, '--paper'), ratio(n, '--panel'));
        return ['--ink', '--soft', '--accent'].map(least) }"""
    )
    assert min(ratios) > 4.5
