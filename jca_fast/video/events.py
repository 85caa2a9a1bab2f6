"""Makes events of class probabilities, and the text of their files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np


@dataclass(frozen=True)
class Event:
    """One event: its class, start and end in seconds, and the mean probability in between."""

    start: float
    end: float
    label: int
    name: str
    probability: float

    def record(self) -> dict[str, float | str]:
        """The event ready for JSON and CSV."""
        return {
            "start": self.start,
            "end": self.end,
            "class": self.name,
            "probability": round(self.probability, 4),
        }


COLUMNS = ("start", "end", "class", "probability")


def merge(
    probabilities: np.ndarray, names: Sequence[str], segment_seconds: float, duration: float
) -> list[Event]:
    """Events of probabilities (S, C) whose last class is background.

    Neighbouring segments with the same most probable class are one event, unless that class is
    background. No event ends after `duration`.
    """
    events, stop = [], 0
    for label, run in groupby(probabilities.argmax(axis=1).tolist()):
        first, stop = stop, stop + len(list(run))
        if label == probabilities.shape[1] - 1:
            continue
        start, end = round(first * segment_seconds, 3), min(stop * segment_seconds, duration)
        mean = float(probabilities[first:stop, label].mean())
        events.append(Event(start, round(max(end, start), 3), label, names[label], mean))
    return events


def webvtt(events: Sequence[Event]) -> str:
    """The events as WebVTT cues, which players show as subtitles."""
    cues = [
        f"{_stamp(e.start)} --> {_stamp(e.end)}\n{_escape(e.name)} ({100 * e.probability:.0f} %)\n"
        for e in events
    ]
    return "\n".join(["WEBVTT\n", *cues])


def _stamp(seconds: float) -> str:
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}.{rest % 1000:03}"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
