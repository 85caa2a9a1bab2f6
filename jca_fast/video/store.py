"""Computes and stores the features of one video, segment by segment during the decoding."""

from __future__ import annotations

import contextlib
import hashlib
import json
import queue
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jca_fast.data.record import identity

from .decode import VideoReader
from .extractors import hear, see
from .settings import Extractor, Settings
from .windows import Window, pad

T = TypeVar("T")

ROWS, FACTS = "rows.bin", "facts.json"
"""The files of a stored video."""

PEAKS = 20
"""Points of the waveform in a segment: the largest absolute values of equal parts."""

AHEAD = 4
"""The number of segments that are decoded ahead of the networks."""

UNFINISHED = ".unfinished."
"""The prefix of folders that are being written; a killed run leaves one."""


def store_features(
    path: Path,
    extractor: Extractor,
    target: Path,
    threads: int = 0,
) -> None:
    """Write the features of all segments of a video to the folder `target`, whole or not at all.

    Its two files hold one record for each segment (audio (C_a,), visual (7, 7, C_v), peaks (20,))
    and the facts about the video. They are plain files, because HDF5 may crash on a full disk.
    Memory does not grow with the length of the video. Raises VideoError naming the file.
    """
    settings = extractor.settings
    reader = VideoReader(
        path,
        settings.segment_seconds,
        settings.frames_per_segment,
        extractor.visual.size,
        threads,
    )
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=UNFINISHED) as folder:
        unfinished = Path(folder) / target.name
        unfinished.mkdir()
        shapes = _write_rows(unfinished / ROWS, reader, extractor)
        facts = {
            "shapes": shapes,
            "dtype": settings.dtype,
            "info": reader.info,
            "video": str(path),
            "damaged": reader.damaged,
        }
        (unfinished / FACTS).write_text(json.dumps(facts), encoding="utf-8")
        unfinished.replace(target)


def _write_rows(path: Path, reader: VideoReader, extractor: Extractor) -> dict[str, Any]:
    """Write the record of every segment; returns the shapes of audio and visual."""
    shapes: dict[str, Any] = {}
    dtype = extractor.settings.dtype
    with path.open("wb") as file:
        for segment in ahead(reader.segments()):
            audio = hear(extractor.audio, segment.sound)
            visual = see(extractor.visual, segment.pictures)
            for name, values in (("audio", audio), ("visual", visual)):
                if values.shape != shapes.setdefault(name, values.shape):
                    raise ValueError(
                        f"the {name} network returned shape {values.shape} after {shapes[name]}; "
                        "needed: one shape for all segments"
                    )
                file.write(_narrowed(values, dtype, name).tobytes())
            file.write(peaks(segment.sound).astype(np.float32).tobytes())
    return shapes


def _narrowed(values: np.ndarray, dtype: str, name: str) -> np.ndarray:
    """The values in the dtype of the set; ValueError for values beyond its range."""
    largest = float(np.abs(values).max())
    if largest > float(np.finfo(dtype).max):
        raise ValueError(
            f"the {name} network returned {largest:.3g}, too much for {dtype}; "
            "needed: --dtype float32"
        )
    return values.astype(dtype)


def peaks(sound: np.ndarray) -> np.ndarray:
    """The largest absolute values of the parts of a segment, (20,) float32."""
    return np.array([np.abs(part).max(initial=0) for part in np.array_split(sound, PEAKS)])


def key(path: Path, extractor: Extractor) -> str:
    """A name for the features of a video, which depends on the file and the settings."""
    status = path.stat()
    facts = [str(path.resolve()), status.st_size, status.st_mtime_ns, extractor.settings.dtype]
    text = json.dumps([facts, identity(extractor.record())])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass
class StoredVideo:
    """The features of one video on disk, in a folder of `store_features`."""

    path: Path

    def __post_init__(self) -> None:
        facts = json.loads((self.path / FACTS).read_text(encoding="utf-8"))
        self.shapes = {name: tuple(shape) for name, shape in facts["shapes"].items()}
        self.info: dict[str, Any] = facts["info"]
        self.video = str(facts["video"])
        self.damaged = int(facts["damaged"])
        fields = [(name, facts["dtype"], shape) for name, shape in self.shapes.items()]
        self._record = np.dtype([*fields, ("peaks", "float32", (PEAKS,))])
        self.num_segments = len(self._rows())

    def window(self, window: Window, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
        """Audio (N, C_a) and visual (N, 7, 7, C_v) of a window, padded with zeros."""
        rows = self._rows()[window.start : window.start + window.length]
        audio, visual = (pad(rows[name], settings.num_segments) for name in ("audio", "visual"))
        return audio, visual

    def peaks(self) -> np.ndarray:
        """The waveform, (S, 20) float32."""
        return np.array(self._rows()["peaks"])

    def _rows(self) -> np.ndarray:
        """The records of all segments, on disk."""
        return np.memmap(self.path / ROWS, self._record, "r")


def ahead(items: Iterator[T], size: int = AHEAD) -> Iterator[T]:
    """The items, made in a thread while the caller works on earlier ones; errors are passed on."""
    waiting: queue.Queue[Any] = queue.Queue(size)
    stopped, end = threading.Event(), object()

    def put(item: Any) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put(item, timeout=0.1)
                return

    def work() -> None:
        try:
            for item in items:
                put(item)
                if stopped.is_set():
                    return
            put(end)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not end:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
