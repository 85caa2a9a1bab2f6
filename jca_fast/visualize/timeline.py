"""Draws predicted and true labels over the segments of a clip, like Fig. 4."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from .attention import outlines
from .clips import ClipView
from .style import (
    BACKGROUND,
    EVENT,
    INK,
    OBJECT,
    RIGHT,
    STYLE,
    WRONG,
    draw_weights,
    fit_text,
    mark_peak,
    new_figure,
    outline,
)

LEFT = 1.25  # inches left of the strips, for their names
MARGIN = 0.95  # right of the strips, for the colour bar
TOP = 0.72
BOTTOM = 0.74  # for the legend
GAP = 0.08  # between two strips
MOST_PEAKS = 39
"""The largest number of segments with a mark of the most attended region in each."""
NOTE = (
    "audio feature length: Euclidean norm of each segment's audio feature "
    "(input of the model, no waveform)"
)

Strip = tuple[str, float, Callable[[Axes, ClipView], None]]
"""Name, height in inches, and the function that draws it."""


def draw_timeline(view: ClipView, titles: bool = True) -> Figure:
    """Strips over a common axis of segments: audio feature, frames, attention, labels.

    The audio strip shows the input of the model, because there is no waveform. Strips of frames and
    attention exist only if the clip has them.
    """
    strip_width = min(max(1.02 * len(view.predicted), 6.0), 20.0)  # inches
    strips = _strips(view, strip_width)
    width = LEFT + strip_width + MARGIN
    height = TOP + sum(strip_height + GAP for _, strip_height, _ in strips) + BOTTOM
    with rc_context(STYLE):
        figure = new_figure(width, height)
        _draw_strips(figure, view, strips, strip_width)
        left = LEFT / width
        if titles:
            figure.text(left, 1 - 0.3 / height, _title(view), fontsize=11, va="center")
        note: dict[str, Any] = {"fontsize": 7.5, "va": "center", "color": "#555555"}
        figure.text(left, 1 - 0.57 / height, NOTE, **note)
        figure.legend(
            handles=_legend(view),
            loc="lower right",
            bbox_to_anchor=(1 - MARGIN / width, 0.0),
            ncols=5,
            frameon=False,
            fontsize=8.5,
        )
    return figure


def _strips(view: ClipView, width: float) -> list[Strip]:
    """The strips of a clip from top to bottom, `width` inches wide."""
    cell = min(width / len(view.predicted), 1.6)
    strips: list[Strip] = [("audio\nfeature\nlength", 0.75, _audio)]
    if view.frames:
        shape = view.frames[0].shape
        strips.append(("frames", min(cell * shape[0] / shape[1], 2.0), _frames))
    if view.attention is not None:
        shape = view.frames[0].shape if view.frames else view.attention[0].shape
        strips.append(("attention", min(cell * shape[0] / shape[1], 2.0), _attention))
    strips.append(("predicted", 0.5, _predicted))
    if view.target is not None:
        strips.append(("true", 0.5, _true))
    return strips


def _draw_strips(figure: Figure, view: ClipView, strips: list[Strip], strip_width: float) -> None:
    """Draw all strips below each other, with the numbers of the segments below the last."""
    count = len(view.predicted)
    width, height = figure.get_size_inches()
    y = height - TOP
    for name, strip_height, draw in strips:
        y -= strip_height
        box = (LEFT / width, y / height, strip_width / width, strip_height / height)
        axes = figure.add_axes(box)
        axes.set_xlim(0, count)
        axes.set_xticks([])
        pad = 34 if draw is _audio else 8
        axes.set_ylabel(name, rotation=0, ha="right", va="center", labelpad=pad)
        draw(axes, view)
        y -= GAP
    axes.set_xticks(np.arange(count) + 0.5, [str(i) for i in range(count)])
    axes.tick_params(length=0)
    axes.set_xlabel("segment")


def _title(view: ClipView) -> str:
    """The title of the clip, with the number of right segments if it has labels."""
    if view.target is None:
        return view.title
    right = int((view.predicted == view.target).sum())
    return f"{view.title}: {right} of {len(view.predicted)} segments right"


def _legend(view: ClipView) -> list[Any]:
    """A handle for every mark in the picture."""
    handles: list[Any] = []
    if view.target is not None:
        right = view.predicted == view.target
        handles += [Patch(color=RIGHT, label="✓ right")] * bool(right.any())
        handles += [Patch(color=WRONG, label="✗ wrong")] * bool((~right).any())
    if view.attention is None:
        return handles
    for solid, label in ((True, "planted, heard"), (False, "planted, silent")):
        if solid in outlines(view):
            dashes: Any = "solid" if solid else (0, (1, 1.2))
            handles.append(Line2D([], [], color=OBJECT, linestyle=dashes, label=label))
    if len(view.predicted) <= MOST_PEAKS:
        cross = Line2D([], [], marker="x", linestyle="none", color="black", label="most attended")
        handles.append(cross)
    return handles


def _audio(axes: Axes, view: ClipView) -> None:
    axes.bar(np.arange(len(view.predicted)) + 0.5, view.audio_norm, width=0.9, color="#777777")
    axes.set_ylim(0, max(float(view.audio_norm.max()) * 1.08, 1e-6))
    axes.locator_params(axis="y", nbins=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _frames(axes: Axes, view: ClipView) -> None:
    for i, frame in enumerate(view.frames or []):
        axes.imshow(frame, extent=_cell(i), aspect="auto")
    _bare(axes, view)


def _attention(axes: Axes, view: ClipView) -> None:
    assert view.attention is not None
    inches = axes.get_window_extent().width / axes.figure.dpi
    room = inches / len(view.predicted)  # of one segment
    for i, weights in enumerate(view.attention):
        frame = view.frames[i] if view.frames else None
        image = draw_weights(axes, weights, float(view.attention.max()), _cell(i), frame)
        if view.position is not None and view.position[i].any():
            solid = bool(view.audible is not None and view.audible[i])
            outline(axes, view.position[i], _cell(i), solid, width=min(1.8, 2 * room))
        if len(view.predicted) <= MOST_PEAKS:
            mark_peak(axes, weights, _cell(i), size=4)
    _bare(axes, view)
    bar = axes.figure.colorbar(
        image, cax=axes.inset_axes((1 + 0.1 / inches, 0.0, 0.12 / inches, 1.0))
    )
    bar.ax.tick_params(labelsize=7)
    bar.ax.locator_params(nbins=3)
    if room > 0.5:
        bar.set_label("weight", fontsize=8)


def _predicted(axes: Axes, view: ClipView) -> None:
    if view.target is None:
        _labels(axes, view, view.predicted)
        return
    right = view.predicted == view.target
    for start, stop, (label, ok) in _runs(
        list(zip(view.predicted.tolist(), right.tolist(), strict=True))
    ):
        _block(
            axes,
            start,
            stop,
            RIGHT if ok else WRONG,
            f"{'✓' if ok else '✗'}\N{NO-BREAK SPACE}{view.short(label)}",
            "white",
        )
    _bare(axes, view)


def _true(axes: Axes, view: ClipView) -> None:
    _labels(axes, view, view.shown)


def _labels(axes: Axes, view: ClipView, labels: np.ndarray) -> None:
    """Blocks of one class, background in grey."""
    for start, stop, label in _runs(labels.tolist()):
        background = label == len(view.classes) - 1
        colors = (BACKGROUND, INK) if background else (EVENT, "white")
        _block(axes, start, stop, colors[0], view.short(label), colors[1])
    _bare(axes, view)


def _runs(values: list[Any]) -> list[tuple[int, int, Any]]:
    """(first, one past the last, value) of every longest run of one value."""
    runs, start = [], 0
    for value, group in groupby(values):
        stop = start + len(list(group))
        runs.append((start, stop, value))
        start = stop
    return runs


def _block(axes: Axes, start: int, stop: int, color: str, text: str, ink: str) -> None:
    axes.set_ylim(0, 1)
    axes.add_patch(
        Rectangle((start + 0.03, 0.03), stop - start - 0.06, 0.94, color=color, linewidth=0)
    )
    fit_text(axes, (start + stop) / 2, 0.5, text, stop - start - 0.12, 0.96, color=ink)


def _cell(i: int) -> tuple[float, float, float, float]:
    return i + 0.03, i + 0.97, 0.0, 1.0


def _bare(axes: Axes, view: ClipView) -> None:
    """Remove frame and ticks, and restore the limits, which pictures change."""
    axes.set_xlim(0, len(view.predicted))
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)
