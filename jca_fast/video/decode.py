"""Decodes a video file with PyAV: the pictures and the sound of each segment, by time stamp.

Time 0 is the earliest start of the two streams. A segment has the pictures shown at the middles
of its T equal parts, even if the frame rate varies, and the sound of its span.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jca_fast.memory import require

from .logmel import RATE
from .sound import TOLERANCE, Mixer
from .sources import shown

KINDS = ("picture", "sound")

MAX_GAP = 600.0
"""The longest accepted step between the time stamps of a stream, in seconds."""

ROOM = (32 + 24 * min(17, 1 + (os.cpu_count() or 1))) * 2**20
"""Bytes that must be free before decoding. FFmpeg may abort if it gets no stacks of 8 MiB for the
threads of its decoders and of its scaler, one for each processor and one more.
"""

MAX_LOSS = 0.1
"""The largest accepted share of packets that are damaged or have a wrong time."""


class VideoError(ValueError):
    """A video that cannot be used; the message names the file and the fault."""


@dataclass(frozen=True)
class Segment:
    """One segment: pictures (T, height, width, 3) uint8 RGB, sound (n,) float32 at 16 kHz."""

    pictures: np.ndarray
    sound: np.ndarray


@dataclass
class VideoReader:
    """The segments of one video file.

    Args:
        path: the file.
        segment_seconds: length of a segment.
        frames_per_segment: T, pictures of a segment.
        size: width and height of the pictures, or the side of square ones; the whole picture is
            scaled to it.
        threads: number of threads of the decoder; 0 lets it choose.

    `info` describes the file. After the last segment, `packets` counts all packets and `damaged`
    those that could not be decoded or do not come after the packet before them. Every method
    raises VideoError.
    """

    path: Path
    segment_seconds: float = 1.0
    frames_per_segment: int = 16
    size: int | tuple[int, int] = 224
    threads: int = 0
    info: dict[str, Any] = field(init=False)
    damaged: int = field(init=False, default=0)
    packets: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.path = Path(self.path)
        self._shape = (self.size, self.size) if isinstance(self.size, int) else self.size
        with self._open() as container:
            video, audio = self._streams(container)
            starts = [_seconds(s.start_time, s) for s in (video, audio)]
            self._zero = min((t for t in starts if t is not None), default=0.0)
            lengths = [_seconds(s.duration, s) for s in (video, audio)]
            whole = container.duration / 1e6 if container.duration else None
            if whole and "matroska" in container.format.name:
                whole -= self._zero  # its length counts from 0, not from the first time stamp
            self.info = {
                "format": container.format.name,
                "duration": max((t for t in (*lengths, whole) if t), default=None),
                "size": [video.codec_context.width, video.codec_context.height],
                "video_codec": video.codec_context.name,
                "pixel_format": video.codec_context.pix_fmt,
                "pixel_aspect": float(video.sample_aspect_ratio or 1),
                "frame_rate": float(video.average_rate) if video.average_rate else None,
                "audio_codec": audio.codec_context.name,
                "audio_rate": audio.codec_context.sample_rate,
                "channels": audio.codec_context.channels,
                "start": self._zero,
            }
            self._lengths = lengths

    def segments(self) -> Iterator[Segment]:
        """The segments in order. The last one is included if the file has at least half of it.

        After the end of one stream, its last picture is repeated or its sound is silence.
        """
        self.damaged = self.packets = 0
        self._ends = [np.inf, np.inf]
        pictures = np.empty(0)
        silence = np.zeros(round(self.segment_seconds * RATE), np.float32)
        pairs = itertools.zip_longest(self._pictures(), self._sounds())
        for number, (new, sound) in enumerate(pairs):
            if number and max(self._ends) < (number + 0.5) * self.segment_seconds:
                break
            pictures = np.repeat(pictures[-1:], len(pictures), axis=0) if new is None else new
            yield Segment(pictures, silence if sound is None else sound)
        self._require_whole()
        if self.damaged > MAX_LOSS * self.packets:
            share = f"{self.damaged} of {self.packets} packets"
            raise self._error(f"{share} are damaged or have a wrong time")

    @property
    def display_size(self) -> tuple[int, int]:
        """Width and height of the picture on a screen: upright, with square pixels."""
        for _, _, frame in self._frames():
            aspect = float(self.info["pixel_aspect"] or 1)
            width, height = round(frame.width * aspect), frame.height
            return (height, width) if round(frame.rotation / 90) % 2 else (width, height)
        raise self._error("no picture could be decoded")

    def _pictures(self) -> Iterator[np.ndarray]:
        """The pictures of each segment, (T, height, width, 3) uint8 RGB.

        After the end of the stream its last picture fills one more segment.
        """
        count, segment = self.frames_per_segment, self.segment_seconds
        chosen: list[np.ndarray] = []
        number = 0
        shown = None
        end = 0.0
        for time, duration, frame in self._frames():
            if shown is None:
                shown = _Picture(frame, *self._shape)
            while (number + 0.5) / count * segment < time:
                chosen.append(shown.pixels)
                number += 1
                if len(chosen) == count:
                    yield np.stack(chosen)
                    chosen = []
            shown, end = _Picture(frame, *self._shape), time + duration
        if shown is None:
            raise self._error("no picture could be decoded")
        self._ends[0] = end
        while (number + 0.5) / count * segment < end or chosen:
            chosen.append(shown.pixels)
            number += 1
            if len(chosen) == count:
                yield np.stack(chosen)
                chosen = []
        yield np.repeat(shown.pixels[None], count, axis=0)

    def _sounds(self) -> Iterator[np.ndarray]:
        """The sound of each segment, (round(16,000 segment_seconds),) float32 at 16 kHz.

        The last one is padded with zeros.
        """
        length = round(self.segment_seconds * RATE)
        mixer = Mixer()
        waiting: list[np.ndarray] = []
        size = 0
        given = 0
        for block in itertools.chain(self._blocks(mixer), [None]):
            block = mixer.finish() if block is None else block
            waiting.append(block)
            size += len(block)
            if size >= length:
                joined = np.concatenate(waiting)
                for start in range(0, size - length + 1, length):
                    yield joined[start : start + length]
                    given += 1
                waiting = [joined[size // length * length :]]
                size = len(waiting[0])
        if not size and not given:
            raise self._error("no sound could be decoded")
        self._ends[1] = (given * length + size) / RATE
        yield np.pad(np.concatenate(waiting), (0, length - size))

    def _frames(self) -> Iterator[tuple[float, float, Any]]:
        """(time, duration, frame) of every video frame; one out of order counts as damaged."""
        last, usual = -1.0, 1 / (self.info["frame_rate"] or 25)
        for frame in self._decode(0):
            time = last + usual if frame.time is None else frame.time - self._zero
            if time <= last:
                self.damaged += 1
                continue
            self._require_step(max(last, 0.0), time)
            duration = float(frame.duration * frame.time_base) if frame.duration else usual
            yield time, min(duration, MAX_GAP), frame
            last = time

    def _blocks(self, mixer: Mixer) -> Iterator[np.ndarray]:
        """Pieces of mono sound at 16 kHz; gaps between time stamps are silence.

        A frame that ends before the sound so far counts as damaged.
        """
        for frame in self._decode(1):
            time = mixer.seconds if frame.time is None else frame.time - self._zero
            self._require_step(mixer.seconds, time)
            end = time + frame.samples / frame.sample_rate
            self.damaged += end < mixer.seconds - TOLERANCE
            yield mixer.feed(frame, time)

    def _decode(self, index: int) -> Iterator[Any]:
        """The frames of the video (0) or audio (1) stream; damaged packets are counted, skipped.

        An empty packet repeats the frame before it.
        """
        import av

        require(ROOM, "decoding a video")
        with self._open() as container:
            stream: Any = self._streams(container)[index]
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = self.threads
            packets = container.demux(stream)
            while True:
                try:
                    packet = next(packets, None)
                    if packet is None:
                        return
                    self.packets += 1
                    is_last = packet.dts is None
                    frames = packet.decode() if packet.size or is_last else ()
                except IndexError:  # of PyAV, at the end of a file in which another stream began
                    return
                except (av.error.FFmpegError, EOFError) as error:
                    _require_memory(error)
                    self.damaged += 1
                    continue
                yield from frames

    def _open(self) -> Any:
        """The opened container; VideoError if the file is missing or is not a video."""
        try:
            import av
        except ImportError:
            raise ImportError(
                "PyAV is not installed; needed: pip install 'jca-fast[video]'"
            ) from None

        try:
            str(self.path).encode()
        except UnicodeEncodeError:
            raise self._error("its name is not UTF-8 text; needed: a name that is") from None
        if not self.path.is_file():
            raise self._error("no such file")
        if not self.path.stat().st_size:
            raise self._error("the file is empty")
        try:
            # a relative path such as a:b.mp4 would name a protocol
            return av.open(str(self.path.absolute()), metadata_errors="ignore")
        except (av.error.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise self._error(f"not a readable video ({reason})") from None

    def _streams(self, container: Any) -> tuple[Any, Any]:
        """The first video stream that is not a cover, and the first audio stream."""
        from av.stream import Disposition

        covers = Disposition.attached_pic | Disposition.timed_thumbnails
        video = next((s for s in container.streams.video if not s.disposition & covers), None)
        audio = next(iter(container.streams.audio), None)
        if video is None or audio is None:
            missing = "video" if video is None else "audio"
            raise self._error(f"no {missing} stream" if video or audio else "no streams")
        for stream, kind in ((video, "video"), (audio, "audio")):
            if stream.codec_context is None:
                raise self._error(f"its {kind} stream has an unknown codec")
        return video, audio

    def _require_step(self, last: float, time: float) -> None:
        if time - last > MAX_GAP:
            raise self._error(f"the time stamps jump from {last:.1f} to {time:.1f} s")

    def _require_whole(self) -> None:
        """Raise VideoError for a video or a stream that ends a second before its stated end.

        Only files of the mp4 family state the length of each stream.
        """
        found = [("the video", max(self._ends), self.info["duration"])]
        if "mp4" in self.info["format"]:
            pairs = zip(self._ends, self._lengths, strict=True)
            found += [(f"the {kind}", *pair) for kind, pair in zip(KINDS, pairs, strict=True)]
        for part, end, length in found:
            if length and end < length - 1:
                raise self._error(f"truncated: {part} ends at {end:.1f} s of {length:.1f} s")

    def _error(self, text: str) -> VideoError:
        return VideoError(f"{shown(self.path)}: {text}")


class _Picture:
    """A frame, scaled to (height, width, 3) RGB and turned upright when it is first needed."""

    def __init__(self, frame: Any, width: int, height: int) -> None:
        self._frame, self._size = frame, (width, height)
        self._pixels: np.ndarray | None = None

    @property
    def pixels(self) -> np.ndarray:
        if self._pixels is None:
            self._pixels = upright(self._frame, *self._size)
            self._frame = None
        return self._pixels


def upright(frame: Any, width: int, height: int) -> np.ndarray:
    """A frame turned upright and scaled to (height, width, 3) uint8 RGB."""
    turns = round(frame.rotation / 90) % 4  # counter-clockwise
    if turns % 2:
        width, height = height, width
    try:
        scaled = frame.reformat(
            width, height, "rgb24", src_colorspace=_matrix(frame), interpolation="AREA"
        )
    except OSError as error:
        _require_memory(error)
        raise
    return np.ascontiguousarray(np.rot90(scaled.to_ndarray(), turns))


def _require_memory(error: Exception) -> None:
    """Raises MemoryError if FFmpeg failed because this process may have no more memory or threads.

    A damaged packet may ask for any amount of memory.
    """
    number = getattr(error, "errno", None)
    if number == errno.EAGAIN:
        raise MemoryError("FFmpeg cannot start a thread") from error
    if number == errno.ENOMEM:
        require(ROOM, "decoding a video")


def _matrix(frame: Any) -> str:
    """The colour matrix of a frame. If the file states none, it is BT.709 from 720 lines on."""
    known = {1: "ITU709", 5: "ITU601", 6: "ITU601", 7: "SMPTE240M"}
    return known.get(int(frame.colorspace), "ITU709" if frame.height >= 720 else "ITU601")


def _seconds(value: int | None, stream: Any) -> float | None:
    return None if value is None or stream.time_base is None else float(value * stream.time_base)
