"""The page in a real browser: it plays, seeks, toggles, and fits phones, light and dark."""

from __future__ import annotations

import shutil

import pytest

pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("soxr", reason="soxr is not installed")

from video_tools import bunny, make_page, make_video, result

from jca_fast.video import report


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_page(tmp_path_factory.mktemp("page"))


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


def test_a_film(browser, tmp_path):
    """On a desktop, in the dark, by keys alone."""
    report.write_page(result(bunny(), 5), tmp_path)
    context = browser.new_context(color_scheme="dark")
    page, problems = context.new_page(), []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.goto((tmp_path / "index.html").as_uri())
    page.wait_for_function("document.getElementById('video').readyState >= 2")
    assert page.evaluate("document.getElementById('video').videoWidth") == 1280
    page.keyboard.press("n")
    assert abs(time_of(page) - 1.0) < 0.05
    page.keyboard.press("a")
    page.keyboard.press(" ")
    page.wait_for_function("document.getElementById('video').currentTime > 1.2", timeout=20000)
    assert page.is_checked("#toggle")
    context.close()
    assert problems == []


def test_buttons_without_effect_are_off(browser, tmp_path):
    video = make_video(tmp_path / "a.mp4", 1.0, size=(160, 120))
    report.write_page(result(video, 1), tmp_path)
    context = browser.new_context()
    page = context.new_page()
    page.goto((tmp_path / "index.html").as_uri())
    assert page.is_disabled("#next")
    assert page.is_disabled("#previous")
    assert page.is_hidden("#zoom")
    assert "No event in 0:01.0" in page.inner_text("#summary")
    context.close()
