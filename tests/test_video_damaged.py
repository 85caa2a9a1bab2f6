"""Damaged and odd files: each is used or named in an error, and no run hangs."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("soxr", reason="soxr is not installed")

from video_tools import make_video

from jca_fast import atomic
from jca_fast.cli import main
from jca_fast.video.settings import Settings, load_extractor
from jca_fast.video.store import store_features


def cut(share: float) -> Callable[[bytes], bytes]:
    return lambda content: content[: int(share * len(content))]


def flip(seed: int, count: int, start: float = 0.0) -> Callable[[bytes], bytes]:
    """Flip one bit in each of `count` bytes, from a share of the file on."""

    def damage(content: bytes) -> bytes:
        random, values = np.random.default_rng(seed), np.frombuffer(content, np.uint8).copy()
        places = random.integers(int(start * len(values)), len(values), count)
        values[places] ^= (1 << random.integers(0, 8, count)).astype(np.uint8)
        return values.tobytes()

    return damage


def blank(first: float, last: float, byte: bytes = b"\0") -> Callable[[bytes], bytes]:
    def damage(content: bytes) -> bytes:
        a, b = int(first * len(content)), int(last * len(content))
        return content[:a] + byte * (b - a) + content[b:]

    return damage


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    **{f"cut{share}": cut(share / 100) for share in (1, 20, 50, 80, 99)},
    **{f"flip{seed}": flip(seed, 3 * 8**seed) for seed in (0, 1, 2, 3)},
    **{f"flip_data{seed}": flip(seed, 40, start=0.3) for seed in (4, 5)},
    "blank_head": blank(0.0, 0.01),
    "blank_middle": blank(0.4, 0.6),
    "ones_end": blank(0.9, 1.0, b"\xff"),
    "shifted": lambda content: content[7:],
    "doubled": lambda content: content + content,
    "tail": lambda content: content + b"\x55" * 4000,
}

ODD: dict[str, dict] = {
    "one_frame.mkv": {"times": [0.0], "audio": "pcm_s16le"},
    "tiny.mp4": {"size": (16, 16)},
    "odd_size.mkv": {"size": (98, 66), "codec": "ffv1", "pixels": "yuv444p"},
    "ten_bit.mkv": {"codec": "libx265", "pixels": "yuv420p10le"},
    "grey.mkv": {"codec": "ffv1", "pixels": "gray"},
    "vp9.webm": {"codec": "libvpx-vp9", "audio": "libopus", "rate": 48000},
    "late_sound.mkv": {"audio": "pcm_s16le", "audio_start": 1.5, "audio_seconds": 0.5},
    "no_sound.mp4": {"audio": None},
    "no_picture.m4a": {"video": False},
    "negative.mkv": {"start": 3600.0, "audio": "pcm_s16le"},
    "jump.mkv": {"times": [0.0, 1.0, 90_000.0], "audio": "pcm_s16le"},
    "rapid.mkv": {"times": [i / 500 for i in range(1000)], "fps": 500, "audio": "pcm_s16le"},
}


@pytest.mark.timeout(300)
def test_every_file_is_used_or_named(tmp_path, capfd):
    folder, out = tmp_path / "videos", tmp_path / "set"
    folder.mkdir()
    sources = {
        "mp4": make_video(tmp_path / "a.mp4", 2.0, options={"movflags": "faststart"}),
        "mkv": make_video(tmp_path / "a.mkv", 2.0),
    }
    for name, damage in DAMAGES.items():
        suffix = "mp4" if len(name) % 2 else "mkv"
        (folder / f"{name}.{suffix}").write_bytes(damage(sources[suffix].read_bytes()))
    for name, settings in ODD.items():
        made = make_video(tmp_path / name, settings.pop("seconds", 2.0), **settings)
        shutil.move(made, folder / name)
    (folder / "folder.mp4").mkdir()
    (folder / "link.mp4").symlink_to("nowhere.mp4")
    files = sorted(path for path in folder.iterdir() if not path.is_dir())
    assert len(files) >= 30
    capfd.readouterr()  # what encoders say
    status = main(["extract", *map(str, files), "-o", str(out), "--frames-per-segment", "1"])
    said = capfd.readouterr()
    assert status == 1
    assert "Traceback" not in said.err
    assert "Error: " not in said.err, "an error that no message explains"
    rows = {line.split()[0]: line for line in said.out.splitlines()[1:-1]}
    assert len(rows) == len(files)
    refused = said.err.splitlines()
    strange = [line for line in refused if not line.startswith(str(folder))]
    assert not strange, said.err
    good = [name for name, line in rows.items() if line.split()[1] != "-"]
    assert len(good) + len(refused) == len(files)
    for name in ("one_frame.mkv", "tiny.mp4", "ten_bit.mkv", "vp9.webm", "rapid.mkv", "grey.mkv"):
        assert any(name in row for row in good), said.err
    for name in ("no_sound.mp4", "no_picture.m4a", "jump.mkv", "link.mp4", "cut1.mkv"):
        assert any(name in line for line in refused)


NAMES = [
    "with space.mp4",
    "a:b.mp4",
    "file:c.mp4",
    "concat|d.mp4",
    "[e]*.mp4",
    "%03d.mp4",
    "ünï 日本.mp4",
    "a'quote\".mp4",
    "two\nlines.mp4",
    "-o.mp4",
    "no suffix",
]


def test_names_of_every_kind(tmp_path, monkeypatch, capfd):
    """Seen from the working folder, where "a:b.mp4" could be taken for a protocol."""
    monkeypatch.chdir(tmp_path)
    content = make_video(tmp_path / "a.mkv", 1.0, audio="pcm_s16le").read_bytes()
    for name in NAMES:
        (tmp_path / name).write_bytes(content)
    no_text = os.fsdecode(b"byte\xff.mp4")
    (tmp_path / no_text).write_bytes(content)
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / NAMES[0]).write_bytes(content)
    (tmp_path / "link.mp4").symlink_to(NAMES[0])  # the same file once more
    os.mkfifo(tmp_path / "pipe.mp4")
    names = [*NAMES, no_text, "loop.mp4", "other/" + NAMES[0], "link.mp4", "pipe.mp4"]
    status = main(["extract", "-o", "a:set", "--frames-per-segment", "1", "--", *names])
    said = capfd.readouterr()
    assert status == 1
    refused = said.err.splitlines()
    assert len(refused) == 3, said.err
    for name, text in (
        ("byte\\udcff.mp4", "its name is not UTF-8 text"),
        ("loop.mp4", "no such file"),
        ("pipe.mp4", "no such file"),
    ):
        assert any(line.startswith(f"{name}: {text}") for line in refused)
    lines = said.out.splitlines()
    assert len(lines) == len(names) - 1 + 2  # the link is the file it leads to
    assert any(line.startswith("two\\nlines.mp4 ") for line in lines)
    assert lines[-1] == "12 of 15 videos, 12 segments -> a:set"


def test_a_disk_that_is_full(tmp_path, capfd, monkeypatch):
    """A limit on the size of files fails as a full disk does: in the middle of a write."""
    make_video(tmp_path / "a.mkv", 4.0, audio="pcm_s16le")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Python would cut byte code at the limit
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (250_000, hard))
    try:
        out = tmp_path / "set"
        status = main(["extract", str(tmp_path), "-o", str(out), "--frames-per-segment", "1"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = capfd.readouterr()
    assert status == 1
    reason = f"{out / '.videos'}: cannot be written: File too large"
    assert said.err == f"{tmp_path / 'a.mkv'}: {reason}\n"
    assert "0 of 1 videos" in said.out
    assert [path.name for path in out.rglob("*")] == [".videos"]


def test_a_folder_for_scratch_on_a_full_disk_is_named(tmp_path, monkeypatch):
    video = make_video(tmp_path / "a.mkv", 1.0, audio="pcm_s16le")
    extractor = load_extractor(Settings(num_segments=1, frames_per_segment=1))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Python would cut byte code at the limit
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def write():
        with atomic.scratch(tmp_path) as folder:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
            store_features(video, extractor, folder / "features")

    try:
        with pytest.raises(OSError, match=f"^{tmp_path}: cannot be written: File too large$"):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["a.mkv"]


DECODER = """
import os, resource, sys
from jca_fast.video.decode import ROOM, VideoReader
def pictures():
    reader = VideoReader(sys.argv[1], 1.0, 4, 32)
    found = [segment.pictures.sum() for segment in reader.segments()]
    return found, reader.damaged
expected = pictures()
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
ends = []
for room in range(0, ROOM + 2**26, 2**23):
    pid = os.fork()
    if not pid:
        resource.setrlimit(resource.RLIMIT_AS, (size + room, resource.RLIM_INFINITY))
        try:
            same = pictures() == expected
        except MemoryError:
            os._exit(3)
        except ValueError as error:
            os._exit(3 if "memory" in str(error) else 5)
        os._exit(0 if same else 4)
    ends.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(*ends)
"""


def test_too_little_memory_is_an_error_and_not_a_damaged_packet(tmp_path):
    video = make_video(tmp_path / "a.mkv", 1.0)
    done = subprocess.run(
        [sys.executable, "-c", DECODER, video], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) == {"0", "3"}, done.stdout + done.stderr
