"""Draws the audio-guided attention of every segment of a clip, over its frames, like Fig. 3."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .clips import ClipView
from .style import INK, OBJECT, STYLE, draw_weights, mark_peak, new_figure, outline

PANEL = 1.7
"""Width of a panel in inches."""


def draw_attention(view: ClipView, titles: bool = True) -> Figure:
    """One panel for each of the N segments, five in a row, or ten if N > 20.

    With frames, each frame is also drawn without attention above its panel. The colour scale is the
    same for all segments. Over frames, which are then grey, the weights are interpolated linearly
    between the centres of the regions, and smaller weights are more transparent. Otherwise each
    region shows its weight.
    """
    assert view.attention is not None
    count, shape = (
        len(view.predicted),
        view.frames[0].shape if view.frames else view.attention[0].shape,
    )
    columns, bands = 5 if count <= 20 else 10, 2 if view.frames else 1
    rows = ceil(count / columns)
    height = rows * (bands * PANEL * shape[0] / shape[1] + 0.3) + 1.0
    with rc_context(STYLE):
        figure = new_figure(PANEL * columns + 1.3, height, layout="constrained")
        grid = figure.subplots(rows * bands, columns, squeeze=False)
        image: Any = None
        for axes in grid.flat:
            axes.set_axis_off()
        for segment in range(count):
            row, column = divmod(segment, columns)
            top, bottom = grid[row * bands, column], grid[row * bands + bands - 1, column]
            if view.frames:
                top.imshow(view.frames[segment], extent=(0, 1, 0, 1), aspect="auto")
            image = _panel(bottom, view, segment)
            for axes in (top, bottom):
                axes.set_aspect(shape[0] / shape[1])
            top.set_title(
                f"segment {segment}: {view.short(view.shown[segment])}", color=INK, fontsize=8.5
            )
        if titles:
            figure.suptitle(_title(view), fontsize=11)
        bar = figure.colorbar(
            image, ax=grid, shrink=0.85, aspect=height * 6, pad=0.02, fraction=0.02
        )
        regions = view.attention[0].size
        bar.set_label(
            f"attention weight (sum over {regions} regions = 1, uniform = {1 / regions:.3f})"
        )
        figure.legend(
            handles=_legend(view), loc="outside lower center", ncols=3, frameon=False, fontsize=8.5
        )
    return figure


def hits(view: ClipView) -> tuple[int, int] | None:
    """(segments whose most attended region lies on the sounding object, segments with such an
    object); None if the data are not planted.
    """
    if view.attention is None or view.position is None or view.audible is None:
        return None
    counted = view.audible & view.position.any(axis=(1, 2))  # (N,)
    peaks = view.attention.reshape(len(counted), -1).argmax(axis=1)  # (N,)
    on_object = view.position.reshape(len(counted), -1)[np.arange(len(counted)), peaks]  # (N,)
    return int((on_object & counted).sum()), int(counted.sum())


def _panel(axes: Axes, view: ClipView, segment: int) -> Any:
    assert view.attention is not None
    weights, extent = view.attention[segment], (0.0, 1.0, 0.0, 1.0)
    frame = view.frames[segment] if view.frames else None
    image = draw_weights(axes, weights, float(view.attention.max()), extent, frame)
    if view.position is not None and view.position[segment].any():
        outline(
            axes,
            view.position[segment],
            extent,
            solid=bool(view.audible is not None and view.audible[segment]),
        )
    mark_peak(axes, weights, extent)
    return image


def outlines(view: ClipView) -> set[bool]:
    """The kinds of outlines in the picture: True for objects that sound, False for silent ones."""
    if view.position is None:
        return set()
    seen = view.position.any(axis=(1, 2))  # (N,)
    audible = np.zeros_like(seen) if view.audible is None else view.audible
    return set(audible[seen].tolist())


def _title(view: ClipView) -> str:
    score = hits(view)
    text = f"Audio-guided attention: {view.title}"
    if score and score[1]:
        text += (
            f"\nmost attended region on the sounding object in {score[0]} of {score[1]} segments"
        )
    return text


def _legend(view: ClipView) -> list[Line2D]:
    cross = {"marker": "x", "linestyle": "none", "color": "black", "markeredgewidth": 1.6}
    handles = [Line2D([], [], label="most attended region", **cross)]  # type: ignore[arg-type]
    for solid, label in ((True, "planted object, heard and seen"), (False, "seen but silent")):
        if solid in outlines(view):
            dashes: Any = "solid" if solid else (0, (1, 1.2))
            handles.append(Line2D([], [], color=OBJECT, linewidth=2, linestyle=dashes, label=label))
    return handles
