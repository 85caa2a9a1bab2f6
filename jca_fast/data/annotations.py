"""Annotations of AVE: one event per clip, and the labels that follow from it.

A row of `Annotations.txt` has the form `category&video id&quality&start&end`, in seconds. Row i
belongs to row i of every feature file. Segments start..end-1 hold the event, all others are
background (Tian et al., ECCV 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jca_fast.reading import read_text

CATEGORIES: tuple[str, ...] = (
    "Church bell",
    "Male speech, man speaking",
    "Bark",
    "Fixed-wing aircraft, airplane",
    "Race car, auto racing",
    "Female speech, woman speaking",
    "Helicopter",
    "Violin, fiddle",
    "Flute",
    "Ukulele",
    "Frying (food)",
    "Truck",
    "Shofar",
    "Motorcycle",
    "Acoustic guitar",
    "Train horn",
    "Clock",
    "Banjo",
    "Goat",
    "Baby cry, infant cry",
    "Bus",
    "Chainsaw",
    "Cat",
    "Horse",
    "Toilet flush",
    "Rodents, rats, mice",
    "Accordion",
    "Mandolin",
    "Background",
)
"""The 28 event categories in label order, then "Background"."""

BACKGROUND = 28
"""Index of the background class in labels of AVE."""

_HEADER = ["category", "videoid", "quality", "starttime", "endtime"]  # line 1 of some copies
_MOST_DIGITS = 9


@dataclass(frozen=True)
class Event:
    """One row of `Annotations.txt`: segments start..end-1 hold the event (none if start = end)."""

    category: str
    video_id: str
    quality: str
    start: int
    end: int

    def line(self) -> str:
        return "&".join(
            [self.category, self.video_id, self.quality, str(self.start), str(self.end)]
        )


def read_annotations(path: str | Path, num_segments: int = 10) -> list[Event]:
    """Read and validate `Annotations.txt`; the row order is kept.

    Zero-length events (start = end), a missing last newline, CRLF line ends and the header line of
    some copies are accepted. Raises FileNotFoundError, or ValueError naming the file and the line
    of the first bad row.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; needed: rows of the form category&video id&quality&start&end"
        )
    lines = read_text(path, "utf-8-sig").rstrip().splitlines()
    first = 1 if lines and lines[0].replace(" ", "").lower().split("&") == _HEADER else 0
    events = [
        _parse(line, f"{path}, line {i + 1}", num_segments)
        for i, line in enumerate(lines)
        if i >= first
    ]
    if not events:
        raise ValueError(
            f"{path}: no rows; needed: at least one, category&video id&quality&start&end"
        )
    return events


def _parse(line: str, where: str, num_segments: int) -> Event:
    fields = [field.strip() for field in line.split("&")]
    if len(fields) != 5:
        raise ValueError(
            f"{where}: {len(fields)} fields in {_shown(line)}; "
            "needed: 5, category&video id&quality&start&end"
        )
    category, video_id, quality, start, end = fields
    if not category or not video_id:
        raise ValueError(f"{where}: empty category or video id in {_shown(line)}")
    if not (_is_count(start) and _is_count(end)):
        raise ValueError(
            f"{where}: start {_shown(start)} and end {_shown(end)} must be whole seconds, 0 or more"
        )
    if not int(start) <= int(end) <= num_segments:
        raise ValueError(
            f"{where}: start {start}, end {end}; needed: start <= end <= {num_segments} segments"
        )
    return Event(category, video_id, quality, int(start), int(end))


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def event_classes(events: Sequence[Event]) -> tuple[str, ...]:
    """Names of the event classes in label order, without background.

    The 28 categories of AVE when every event is one of them (in the order of their first appearance
    in the published file); otherwise the categories of these events in order of first appearance.
    """
    found = tuple(dict.fromkeys(event.category for event in events))
    return CATEGORIES[:BACKGROUND] if set(found) <= set(CATEGORIES[:BACKGROUND]) else found


def class_names(
    num_classes: int,
    events: Sequence[Event] | None = None,
    trained: Sequence[str] | None = None,
) -> list[str]:
    """Names of `num_classes` classes in label order, "Background" last.

    They come from the events of the data set if their number fits, or else from `trained`, the
    names in a checkpoint. Without both, 29 classes have the names of AVE. All other classes are
    numbered.
    """
    if events:
        names = [*event_classes(events), "Background"]
        if len(names) == num_classes:
            return names
    if trained:
        return list(trained)
    if not events and num_classes == len(CATEGORIES):
        return list(CATEGORIES)
    return [f"class {i}" for i in range(num_classes)]


def class_indices(events: Sequence[Event]) -> np.ndarray:
    """Class index of each event, (n,) int64."""
    index = {name: i for i, name in enumerate(event_classes(events))}
    return np.array([index[event.category] for event in events], dtype=np.int64)


def foreground_labels(events: Sequence[Event], num_segments: int = 10) -> np.ndarray:
    """1 in segments start..end-1 of each clip, else 0: (n, N) float32, as in `labels_closs.h5`."""
    start = np.array([event.start for event in events])[:, None]
    end = np.array([event.end for event in events])[:, None]
    segment = np.arange(num_segments)[None]
    return ((start <= segment) & (segment < end)).astype(np.float32)  # (n, N)


def mil_labels(events: Sequence[Event]) -> np.ndarray:
    """One-hot event class of each clip: (n, classes + 1) float32, as in `mil_labels.h5`.

    The background column is 0 everywhere, and an event of no length still sets its class.
    """
    return np.eye(len(event_classes(events)) + 1, dtype=np.float32)[class_indices(events)]


def segment_labels(events: Sequence[Event], num_segments: int = 10) -> np.ndarray:
    """One-hot class of each segment, background last: (n, N, C) float32, as in `labels.h5`."""
    inside = foreground_labels(events, num_segments)[:, :, None]  # (n, N, 1)
    labels = inside * mil_labels(events)[:, None]  # (n, N, C)
    labels[:, :, -1] = 1 - inside[:, :, 0]
    return labels
