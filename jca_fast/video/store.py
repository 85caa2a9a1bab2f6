"""Features of one video: computed segment by segment while the next one is decoded, and kept."""

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

PEAKS = 20
"""Points of the waveform in a segment: the largest absolute values of equal parts."""

AHEAD = 4
"""Segments decoded ahead of the networks."""

UNFINISHED = ".unfinished."
"""How folders of files that are being written begin; a killed run leaves one behind."""


def store_features(
    path: Path,
    extractor: Extractor,
    target: Path,
    threads: int = 0,
) -> None:
    """Write the features of all segments of a video to the h5 file `target`, whole or not at all.

    Datasets: audio (S, C_a), visual (S, 7, 7, C_v), peaks (S, 20). Memory does not grow with the
    video. Raises VideoError naming the file.
    """
    import h5py

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
        with h5py.File(unfinished, "w") as file:
            _fill(file, reader, extractor)
        unfinished.replace(target)


def _fill(file: Any, reader: VideoReader, extractor: Extractor) -> None:
    """The datasets and attributes of a stored video."""
    for segment in ahead(reader.segments()):
        row = {
            "audio": hear(extractor.audio, segment.sound),
            "visual": see(extractor.visual, segment.pictures),
            "peaks": peaks(segment.sound),
        }
        for name, values in row.items():
            dtype = "float32" if name == "peaks" else extractor.settings.dtype
            append(file, name, values.astype(dtype))
    file.attrs["info"] = json.dumps(reader.info)
    file.attrs["video"] = str(reader.path)
    file.attrs["damaged"] = reader.damaged


def append(file: Any, name: str, values: np.ndarray) -> None:
    """Append one row to a dataset of an h5 file, and create the dataset with the first one."""
    if name not in file:
        shape = (1, *values.shape)
        file.create_dataset(name, data=values[None], maxshape=(None, *shape[1:]), chunks=shape)
        return
    rows = file[name]
    if values.shape != rows.shape[1:]:
        raise ValueError(
            f"the {name} network returned shape {values.shape} after {rows.shape[1:]}; "
            "needed: one shape for all segments"
        )
    rows.resize(len(rows) + 1, axis=0)
    rows[-1] = values


def peaks(sound: np.ndarray) -> np.ndarray:
    """The largest absolute values of the parts of a segment, (20,) float32."""
    return np.array([np.abs(part).max(initial=0) for part in np.array_split(sound, PEAKS)])


def key(path: Path, extractor: Extractor) -> str:
    """A name for the features of a video: another one for another file or other settings."""
    status = path.stat()
    facts = [str(path.resolve()), status.st_size, status.st_mtime_ns, extractor.settings.dtype]
    text = json.dumps([facts, identity(extractor.record())])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass
class StoredVideo:
    """The features of one video on disk."""

    path: Path

    def __post_init__(self) -> None:
        with self._open() as file:
            self.num_segments = len(file["audio"])
            self.shapes = {name: file[name].shape[1:] for name in ("audio", "visual")}
            self.info: dict[str, Any] = json.loads(file.attrs["info"])
            self.video = str(file.attrs["video"])
            self.damaged = int(file.attrs["damaged"])

    def window(self, window: Window, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
        """Audio (N, C_a) and visual (N, 7, 7, C_v) of a window, padded with zeros."""
        span = slice(window.start, window.start + window.length)
        with self._open() as file:
            audio, visual = (
                pad(file[name][span], settings.num_segments) for name in ("audio", "visual")
            )
        return audio, visual

    def peaks(self) -> np.ndarray:
        """The waveform, (S, 20) float32."""
        with self._open() as file:
            return file["peaks"][:]

    def _open(self) -> Any:
        import h5py

        return h5py.File(self.path, "r")


def ahead(items: Iterator[T], size: int = AHEAD) -> Iterator[T]:
    """The items, made in a thread while the caller works on those before; errors come through."""
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
