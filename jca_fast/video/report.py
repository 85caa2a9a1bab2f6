"""The page of one video: player, event lanes, attention and waveform in one HTML file."""

from __future__ import annotations

import base64
import html
import json
import re
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jca_fast import atomic

from . import preview
from .events import webvtt

if TYPE_CHECKING:
    from .localize import Result

EMBEDDED_BYTES = 48 * 2**20
"""The size of the largest video inside the page; a larger one is a file beside it."""

LEAST_SHOWN = 0.05
"""A class without events has a lane if its largest probability is at least this."""

LANES = 8
"""Classes with a lane: those with events, then the most probable ones, up to this number."""


def write_page(result: Result, out: Path) -> Path:
    """Write index.html, which loads nothing from a network, into `out`; returns its path."""
    source = _source(result, out)
    page = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    data = json.dumps(page_data(result) | {"source": source["src"]}, separators=(",", ":"))
    values = {
        "title": html.escape(result.video.name),
        "data": data.replace("<", "\\u003c"),
        "video": source["bytes"],
    }
    page = re.sub(r"\{\{(title|data|video)\}\}", lambda match: values[match[1]], page)
    atomic.write_text(out / "index.html", page)
    return out / "index.html"


def page_data(result: Result) -> dict[str, Any]:
    """The data of the page, ready for JSON."""
    background = len(result.names) - 1
    first = list(dict.fromkeys(event.label for event in result.events))
    likely = np.argsort(-result.probabilities.max(axis=0)).tolist()
    others = [c for c in likely if c not in first and c != background]
    others = [c for c in others if result.probabilities[:, c].max() >= LEAST_SHOWN]
    lanes = [*first, *others][: max(LANES, len(first))]
    return {
        "title": result.video.name,
        "duration": result.duration,
        "segment": result.segment_seconds,
        "events": [event.record() | {"lane": lanes.index(event.label)} for event in result.events],
        "lanes": [
            {"name": result.names[c], "values": result.probabilities[:, c].round(3).tolist()}
            for c in lanes
        ],
        "background": result.probabilities[:, background].round(3).tolist(),
        "peaks": _bytes(result.peaks / max(float(result.peaks.max()), 1e-3)),
        "attention": _attention(result.attention),
        "vtt": webvtt(result.events),
    }


def _attention(attention: np.ndarray | None) -> dict[str, Any] | None:
    if attention is None:
        return None
    _, rows, columns = attention.shape
    return {"rows": rows, "columns": columns, "values": _bytes(attention / attention.max())}


def _bytes(values: np.ndarray) -> str:
    """Values in 0 to 1 as base64 of one byte each."""
    return base64.b64encode((255 * values).round().astype(np.uint8).tobytes()).decode()


def _source(result: Result, out: Path) -> dict[str, str]:
    """The video of the page: `bytes` in base64, or `src`, a file beside the page."""
    beside = out / "video.mp4"
    size = result.video.stat().st_size
    if preview.is_playable(result.info) and size <= EMBEDDED_BYTES:
        content = result.video.read_bytes()
    else:
        with atomic.scratch(out) as folder:
            made = folder / "video.mp4"
            preview.transcode(result.video, made)
            if made.stat().st_size > EMBEDDED_BYTES:
                made.replace(beside)
                return {"src": beside.name, "bytes": ""}
            content = made.read_bytes()
    beside.unlink(missing_ok=True)
    return {"src": "", "bytes": base64.b64encode(content).decode()}
