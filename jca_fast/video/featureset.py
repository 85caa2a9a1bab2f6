"""Writes stored videos as a set in the published layout."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jca_fast import atomic
from jca_fast.data import files
from jca_fast.data.annotations import (
    Event,
    foreground_labels,
    mil_labels,
    read_annotations,
    segment_labels,
)
from jca_fast.data.hdf5 import library
from jca_fast.data.record import ATTRIBUTE, FILE, Record

from .settings import Settings
from .store import StoredVideo
from .windows import Window, cut

SPLIT_SEED = 0


@dataclass(frozen=True)
class Row:
    """One clip of the set."""

    video: StoredVideo
    window: Window


def all_windows(videos: Sequence[StoredVideo], settings: Settings) -> list[Row]:
    """Every window of every video, in order."""
    return [
        Row(video, window)
        for video in videos
        for window in cut(video.num_segments, settings.num_segments, settings.step)
    ]


def write_features(out: Path, rows: Sequence[Row], settings: Settings, record: Record) -> None:
    """Write both feature files, clips.h5 and the record, with one clip in memory at a time.

    Raises ValueError if the videos have features of several shapes, OSError if the disk is full.
    """
    shapes = rows[0].video.shapes
    for row in rows:
        if row.video.shapes != shapes:
            raise ValueError(
                f"{row.video.video}: its features have shapes {row.video.shapes}; "
                f"needed: {shapes}, like those of {rows[0].video.video}"
            )
    segment = sum(int(np.prod(shape)) for shape in shapes.values())
    size = len(rows) * settings.num_segments * segment * np.dtype(settings.dtype).itemsize
    files.require_space(out, size, "the features")
    text = json.dumps(record)
    kinds = ("audio", "visual")
    with atomic.scratch(out) as folder:
        unfinished = {kind: folder / f"{kind}_feature.h5" for kind in kinds}
        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(_create(path, text)) for path in unfinished.values()]
            audio, visual = (
                file.create_dataset(
                    files.FEATURES,
                    shape=(len(rows), settings.num_segments, *shapes[kind]),
                    dtype=settings.dtype,
                )
                for kind, file in zip(kinds, opened, strict=True)
            )
            for i, row in enumerate(rows):
                audio[i], visual[i] = row.video.window(row.window, settings)
        for path in unfinished.values():
            atomic.sync(path)
            path.replace(out / path.name)
    files.write_h5(
        out / files.CLIPS,
        {ATTRIBUTE: text},
        video=np.array([row.video.video.encode() for row in rows]),
        start=np.array([row.window.start * settings.segment_seconds for row in rows]),
        length=np.array([row.window.length for row in rows], np.int64),
    )
    atomic.write_text(out / FILE, json.dumps(record, indent=2) + "\n")


def _create(path: Path, record: str) -> Any:
    """A new HDF5 file with the record as its attribute."""
    h5py = library()
    file = h5py.File(path, "w", libver="earliest")
    file.attrs[ATTRIBUTE] = record
    return file


def match_annotations(
    path: Path, videos: Sequence[Path], num_segments: int
) -> tuple[list[tuple[int, Event, Path]], list[Event]]:
    """(row of the file, event, video) for each event whose id is a video's name without suffix.

    Also returns the events that have no video. Raises ValueError if two videos have the same id,
    or no video belongs to an event.
    """
    by_id: dict[str, Path] = {}
    for video in videos:
        if video.stem in by_id:
            raise ValueError(
                f"{video} and {by_id[video.stem]} have the same id; needed: one file per id"
            )
        by_id[video.stem] = video
    events = list(enumerate(read_annotations(path, num_segments)))
    found = [(i, event, by_id[event.video_id]) for i, event in events if event.video_id in by_id]
    if not found:
        raise ValueError(f"{path}: no event has the id of a video, such as {videos[0].stem!r}")
    return found, [event for _, event in events if event.video_id not in by_id]


def make_splits(kept: Sequence[tuple[int, Event]], orders: Path | None) -> dict[str, np.ndarray]:
    """The rows of each split among the (row of the annotations, event) in the set.

    The splits are those of the order files in the folder `orders`, if given, else 70/15/15 at
    random, with all clips of a video in one split. Raises ValueError for a split without clips.
    """
    if orders is None:
        return _random_splits([event for _, event in kept])
    splits = _given_splits(orders, [number for number, _ in kept])
    for split, order in splits.items():
        if not len(order):
            raise ValueError(f"{orders}: no clip of the split {split!r} could be extracted")
    return splits


def write_labels(
    out: Path,
    kept: Sequence[tuple[int, Event]],
    splits: dict[str, np.ndarray],
    source: Path,
    segments: int,
) -> None:
    """Write Annotations.txt, labels and order files of the annotated clips that are in the set.

    A file planted.h5 beside the annotations is copied too.
    """
    events = [event for _, event in kept]
    numbers = [number for number, _ in kept]
    labels = segment_labels(events, segments)
    text = "".join(event.line() + "\n" for event in events)
    atomic.write_text(out / files.ANNOTATIONS, text)
    files.write_h5(out / "labels.h5", avadataset=labels)
    files.write_h5(out / "mil_labels.h5", avadataset=mil_labels(events))
    files.write_h5(out / "labels_closs.h5", avadataset=foreground_labels(events, segments))
    for split, order in splits.items():
        files.write_h5(out / f"{split}_order.h5", order=order)
    planted = source.parent / files.PLANTED
    if planted.is_file():
        _copy_planted(planted, out / files.PLANTED, numbers)


def clear(out: Path) -> None:
    """Remove labels and orders of an earlier set, which do not belong to the new features."""
    stems = [stem for stem in files.LAYOUT if "feature" not in stem]
    for name in (files.ANNOTATIONS, files.PLANTED, *(f"{stem}.h5" for stem in stems)):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / "prepared", ignore_errors=True)


def _given_splits(orders: Path, numbers: list[int]) -> dict[str, np.ndarray]:
    """The splits of the order files, in rows of the set, without clips that are not in the set."""
    place = {number: row for row, number in enumerate(numbers)}
    return {
        split: np.array(
            [place[n] for n in files.read_order(orders, split).tolist() if n in place], np.int64
        )
        for split in files.SPLITS
    }


def _random_splits(events: Sequence[Event]) -> dict[str, np.ndarray]:
    ids = list(dict.fromkeys(event.video_id for event in events))
    if len(ids) < 3:
        raise ValueError(
            f"{len(ids)} annotated videos; needed: 3 or more, one for each of train, val and test"
        )
    shuffled = [ids[i] for i in np.random.default_rng(SPLIT_SEED).permutation(len(ids))]
    held_out = max(1, round(0.15 * len(ids)))
    parts = (shuffled[2 * held_out :], shuffled[:held_out], shuffled[held_out : 2 * held_out])
    return {
        split: np.array([i for i, e in enumerate(events) if e.video_id in set(part)], np.int64)
        for split, part in zip(files.SPLITS, parts, strict=True)
    }


def _copy_planted(source: Path, target: Path, numbers: list[int]) -> None:
    """Copy planted.h5 for the rows of the set."""
    h5py = library()
    with h5py.File(source, "r") as file:
        arrays = {name: rows[:][numbers] for name, rows in file.items()}
        attributes = dict(file.attrs)
    files.write_h5(target, attributes, **arrays)
