"""Draws the affinities C and the attention maps H of every fusion layer, with their saturation."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .clips import ClipView, Layer
from .style import POSITIVE_MAP, SIGNED_MAP, STYLE, new_figure

SATURATED = 0.95
MODALITIES = ("audio", "visual")
MAX_CELLS = 256
"""The largest number of cells along each side; larger maps are drawn as means over blocks."""


def saturation(layers: list[Layer]) -> list[dict[str, float]]:
    """For every layer: the shares of |C| > 0.95 ("C_a", "C_v") and of zeros in H ("H_a", "H_v")."""
    return [
        {
            f"C_{m}": float((np.abs(c) > SATURATED).mean())
            for m, c in zip("av", layer["C"], strict=True)
        }
        | {f"H_{m}": float((h == 0).mean()) for m, h in zip("av", layer["H"], strict=True)}
        for layer in layers
    ]


def draw_maps(view: ClipView, titles: bool = True) -> Figure:
    """One row for each layer, with C_a, C_v on one symmetric scale and H_a, H_v on a scale each.

    C_i is (d_i, d), H_i (k, d_i) in the paper form and (N, d) in the released form.
    """
    count, drawn = len(view.layers), [block_means(c) for layer in view.layers for c in layer["C"]]
    largest = max(float(np.abs(c).max()) for c in drawn)
    with rc_context(STYLE):
        figure = new_figure(12.5, 1.95 * count + 1.75, layout="constrained")
        grid = figure.subplots(count, 4, squeeze=False)
        for number, (row, layer, shares) in enumerate(
            zip(grid, view.layers, saturation(view.layers), strict=True)
        ):
            last = number == count - 1
            for i, m in enumerate("av"):
                signed = _draw_affinity(row[i], layer["C"][i], f"C_{m}", shares[f"C_{m}"], largest)
                positive = _draw_hidden(row[2 + i], layer["H"][i], f"H_{m}", shares[f"H_{m}"])
                bar = figure.colorbar(positive, ax=row[2 + i], pad=0.02)
                bar.set_label(f"attention $H_{m}$", fontsize=8)
                bar.ax.tick_params(labelsize=7)
                bar.ax.locator_params(nbins=5)
                _label(row[i], f"{MODALITIES[i]} channel", "joint channel", last)
                names = ("attention row", f"{MODALITIES[i]} channel")
                _label(
                    row[2 + i],
                    *(names if view.form == "paper" else ("segment", "joint channel")),
                    last,
                )
            row[0].text(-0.34, 0.5, f"layer {number + 1}", transform=row[0].transAxes, **LAYER_NAME)
        bar = figure.colorbar(
            signed, ax=grid[:, :2], orientation="horizontal", fraction=0.05, aspect=45, pad=0.02
        )
        bar.set_label("affinity C")
        if titles:
            title = f"Joint Co-Attention: {view.title}{_note(view.layers)}"
            figure.suptitle(title, fontsize=11)
    return figure


LAYER_NAME: dict[str, Any] = {"rotation": 90, "ha": "center", "va": "center", "fontsize": 11}


def _draw_affinity(axes: Axes, c: np.ndarray, name: str, saturated: float, largest: float) -> Any:
    axes.set_title(
        f"${name}$   mean |C| {np.abs(c).mean():.2g}, |C| > {SATURATED}: {100 * saturated:.1f} %"
    )
    return _show(axes, c, cmap=SIGNED_MAP, vmin=-largest, vmax=largest)


def _draw_hidden(axes: Axes, h: np.ndarray, name: str, zeros: float) -> Any:
    axes.set_title(f"${name}$   zeros: {100 * zeros:.1f} %")
    return _show(axes, h, cmap=POSITIVE_MAP, vmin=0, vmax=max(float(block_means(h).max()), 1e-6))


def _show(axes: Axes, values: np.ndarray, **style: Any) -> Any:
    rows, columns = values.shape
    return axes.imshow(
        block_means(values),
        extent=(0, columns, rows, 0),
        aspect="auto",
        interpolation="nearest",
        **style,
    )


def _label(axes: Axes, y: str, x: str, last: bool) -> None:
    axes.set_ylabel(y)
    axes.locator_params(nbins=4, integer=True)
    if last:
        axes.set_xlabel(x)
    else:
        axes.set_xticklabels([])


def _block(size: int) -> int:
    return -(-size // MAX_CELLS)


def block_means(values: np.ndarray) -> np.ndarray:
    """A map with at most MAX_CELLS along each side: the means over equal blocks.

    The last blocks may be smaller.
    """
    for axis in (0, 1):
        starts = np.arange(0, values.shape[axis], _block(values.shape[axis]))
        sizes = np.diff(np.append(starts, values.shape[axis]))
        values = np.add.reduceat(values, starts, axis=axis) / np.expand_dims(sizes, 1 - axis)
    return values


def _note(layers: list[Layer]) -> str:
    reduced = [
        f"${symbol}_{m}$ {_block(values.shape[0])} × {_block(values.shape[1])}"
        for symbol in ("C", "H")
        for m, values in zip("av", layers[0][symbol], strict=True)
        if max(values.shape) > MAX_CELLS
    ]
    return "\ndrawn as means over blocks: " + "; ".join(reduced) if reduced else ""
