"""Shared parts of the pictures: colours, fonts, outlines, and atomic writing.

Figures are made without pyplot, so they need no display and no global state. The colours are those
of Okabe and Ito, the colour maps are viridis and red-blue. Colour-blind readers can distinguish
all of them; right and wrong also differ by their marks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from jca_fast.atomic import replacing
from jca_fast.memory import require, reserve_blas

RIGHT, WRONG = "#009E73", "#D55E00"
EVENT = "#0072B2"
BACKGROUND = "#D9D9D9"
OBJECT = "#E69F00"
INK = "#222222"
ATTENTION_MAP = "viridis"
SIGNED_MAP = "RdBu_r"
POSITIVE_MAP = "viridis"
LEAST_ALPHA, MOST_ALPHA = 0.15, 0.8
"""Opacity of weight 0 and of the largest weight in attention over frames."""

ROOM = 32 * 2**20
"""Bytes that must be free before a picture is drawn or written."""

Extent = tuple[float, float, float, float]
"""Left, right, bottom and top of a panel in data units."""

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.edgecolor": "#666666",
    "axes.linewidth": 0.6,
    "figure.facecolor": "white",
}


def new_figure(width: float, height: float, **options: Any) -> Figure:
    """An empty figure of this size in inches that can measure its texts."""
    reserve_blas()
    require(ROOM, "drawing a picture")
    figure = Figure(figsize=(width, height), **options)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path, dpi: int) -> Path:
    """Writes the figure to path as PNG, PDF or SVG by its suffix, whole or not at all."""
    require(ROOM, "writing a picture")
    with rc_context(STYLE), replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=dpi)
    return path


def draw_weights(
    axes: Axes, weights: np.ndarray, largest: float, extent: Extent, frame: np.ndarray | None
) -> Any:
    """Draws attention weights (rows, columns) on the scale 0..largest.

    Over a frame they are interpolated and partly transparent, and their opacity grows with the root
    of the weight. The frame is drawn in grey, so that colour shows only attention.
    """
    style: dict[str, Any] = {
        "extent": extent,
        "cmap": ATTENTION_MAP,
        "vmin": 0,
        "vmax": largest,
        "aspect": "auto",
    }
    if frame is None:
        return axes.imshow(weights, interpolation="nearest", **style)
    grey = frame @ np.array([0.299, 0.587, 0.114])  # (height, width), luminance
    axes.imshow(grey, extent=extent, aspect="auto", cmap="gray", vmin=0, vmax=255)
    alpha = LEAST_ALPHA + (MOST_ALPHA - LEAST_ALPHA) * np.sqrt(np.clip(weights / largest, 0, 1))
    return axes.imshow(weights, interpolation="bilinear", alpha=alpha, **style)


def outline(axes: Axes, cells: np.ndarray, extent: Extent, solid: bool, width: float = 1.8) -> None:
    """Draws the border, `width` points wide, of the true `cells` (rows, columns) of a grid that
    fills extent.
    """
    left, right, bottom, top = extent
    rows, columns = cells.shape
    x, y = np.linspace(left, right, columns + 1), np.linspace(top, bottom, rows + 1)
    padded = np.pad(cells, 1)
    down, across = (
        padded[1:, 1:-1] != padded[:-1, 1:-1],
        padded[1:-1, 1:] != padded[1:-1, :-1],
    )  # cell borders
    lines = [[(x[c], y[r]), (x[c + 1], y[r])] for r, c in np.argwhere(down)]
    lines += [[(x[c], y[r]), (x[c], y[r + 1])] for r, c in np.argwhere(across)]
    drawn = LineCollection(
        lines, colors=OBJECT, linewidths=width, linestyles="solid" if solid else (0, (1, 1.2))
    )
    drawn.set_path_effects([withStroke(linewidth=1.6 * width, foreground="black")] if solid else [])
    drawn.set_clip_on(False)
    axes.add_collection(drawn)


def mark_peak(axes: Axes, weights: np.ndarray, extent: Extent, size: float = 5) -> None:
    """Draws a cross on the first largest weight (rows, columns) of a grid that fills extent."""
    left, right, bottom, top = extent
    row, column = np.unravel_index(int(weights.argmax()), weights.shape)
    x = left + (column + 0.5) * (right - left) / weights.shape[1]
    y = top + (row + 0.5) * (bottom - top) / weights.shape[0]
    (cross,) = axes.plot(x, y, "x", color="white", markersize=size, markeredgewidth=1.6)
    cross.set_path_effects([withStroke(linewidth=3, foreground="black")])


def fit_text(
    axes: Axes, x: float, y: float, text: str, width: float, height: float, **style: Any
) -> None:
    """Draws text centred at (x, y) in a box of width and height in data units.

    To fit, the text is broken into lines, made smaller, turned or cut.
    """
    figure: Any = axes.figure
    renderer = figure.canvas.get_renderer()
    room = np.abs(axes.transData.transform((width, height)) - axes.transData.transform((0, 0)))
    label = axes.text(x, y, text, ha="center", va="center", linespacing=0.95, **style)

    def fits() -> bool:
        box = label.get_window_extent(renderer)
        return bool(box.width <= room[0] and box.height <= room[1])

    for size in (9, 8, 7, 6, 5):
        for shown in (text, text.replace(" ", "\n")):
            label.set(text=shown, fontsize=size)
            if fits():
                return
    label.set(text=text, rotation=90)
    while not fits() and len(text) > 1:
        text = text[:-1]
        label.set_text(f"{text}…")
