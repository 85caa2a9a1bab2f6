"""Videos for the page: previews of files that a browser cannot play, and annotated videos."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jca_fast.atomic import replacing

from .decode import VideoReader
from .logmel import RATE

if TYPE_CHECKING:
    from .localize import Result

FRAME_RATE, HEIGHT = 25, 480
"""The frame rate and the height of previews and annotated videos; smaller videos keep theirs."""

_CONTAINERS = ("mp4", "webm")
_VIDEO_CODECS = {"h264", "vp8", "vp9", "libdav1d", "av1"}
_AUDIO_CODECS = {"aac", "mp3", "mp3float", "opus", "vorbis", "flac"}


def is_playable(info: dict[str, Any]) -> bool:
    """Whether browsers can play the file directly, with the same time 0."""
    return (
        any(name in info["format"] for name in _CONTAINERS)
        and info["video_codec"] in _VIDEO_CODECS
        and info["pixel_format"] == "yuv420p"
        and info["audio_codec"] in _AUDIO_CODECS
        and abs(info["start"]) < 0.05
    )


def transcode(
    path: Path,
    target: Path,
    seconds: float = 1.0,
    draw: Callable[[np.ndarray, int], np.ndarray] = lambda picture, segment: picture,
) -> None:
    """Write a video as mp4 (H.264, AAC) with 25 pictures per second and mono sound at 16 kHz.

    `draw(picture, segment)` may change each picture (height, width, 3) uint8.
    """
    import av

    width, height = VideoReader(path).display_size
    scale = min(1.0, HEIGHT / height)
    even = [max(2, 2 * round(scale * side / 2)) for side in (width, height)]
    size = (even[0], even[1])
    count = max(1, round(FRAME_RATE * seconds))
    reader = VideoReader(path, seconds, count, size)
    with (
        replacing(target) as temporary,
        av.open(
            str(temporary.absolute()), "w", format="mp4", options={"movflags": "faststart"}
        ) as container,
    ):
        video: Any = container.add_stream("libx264", rate=Fraction(count / seconds))
        video.width, video.height = size
        video.pix_fmt = "yuv420p"
        video.options = {"preset": "veryfast", "crf": "26"}
        audio: Any = container.add_stream("aac", rate=RATE)
        audio.layout = "mono"
        num_samples = 0
        for number, segment in enumerate(reader.segments()):
            for picture in segment.pictures:
                drawn = np.ascontiguousarray(draw(picture, number))
                container.mux(video.encode(av.VideoFrame.from_ndarray(drawn, "rgb24")))
            frame = av.AudioFrame.from_ndarray(segment.sound[None], "fltp", "mono")
            frame.sample_rate = RATE
            frame.pts = num_samples
            frame.time_base = Fraction(1, RATE)
            num_samples += len(segment.sound)
            container.mux(audio.encode(frame))
        container.mux(video.encode())
        container.mux(audio.encode())


def render(result: Result, target: Path) -> None:
    """Write the annotated video: attention over the picture, the class in a bar below."""
    largest = result.attention.max() if result.attention is not None else 0.0

    def draw(picture: np.ndarray, segment: int) -> np.ndarray:
        if result.attention is not None:
            picture = overlay(picture, result.attention[segment] / largest)
        label = int(result.probabilities[segment].argmax())
        chance = result.probabilities[segment, label]
        return caption(picture, f"{result.names[label]}  {100 * chance:.0f} %")

    transcode(result.video, target, result.segment_seconds, draw)


def overlay(picture: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The picture overlaid in orange with weights (rows, columns) in 0 to 1."""
    from PIL import Image

    height, width = picture.shape[:2]
    small = Image.fromarray((255 * np.sqrt(weights)).astype(np.uint8))
    alpha = np.asarray(small.resize((width, height), Image.Resampling.BILINEAR)) / 255 * 0.6
    colour = np.array([255, 140, 0])
    mixed = picture * (1 - alpha[..., None]) + colour * alpha[..., None]
    return mixed.astype(np.uint8)


def caption(picture: np.ndarray, text: str) -> np.ndarray:
    """The picture with white text on a dark bar along its lower edge."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(picture)
    size = max(10, image.height // 16)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, image.height - 2 * size, image.width, image.height), fill=(20, 20, 20))
    corner = (size // 2, image.height - 1.6 * size)
    pen.text(corner, text, fill=(255, 255, 255), font=ImageFont.load_default(size))
    return np.asarray(image)
