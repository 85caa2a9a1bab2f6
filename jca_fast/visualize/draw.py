"""The pictures of a checkpoint: which are drawn, and where they go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jca_fast.data.record import read_record, require_same_features
from jca_fast.training.checkpoint import load_model

from .attention import draw_attention
from .clips import ClipSource, ClipView
from .fusion import draw_maps
from .style import save
from .timeline import draw_timeline


def visualize(
    checkpoint: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    split: str = "test",
    clips: str = "3",
    frames: str | Path | None = None,
    dpi: int = 150,
    say: Callable[[str], object] = lambda text: None,
) -> list[Path]:
    """Draws clips of a split as PNG files into the folder `out`; returns their paths.

    Args:
        checkpoint: a checkpoint, or the folder of a run.
        data: folder in the published layout or prepared; planted.h5 there adds the outlines of the planted objects.
        out: folder for the pictures, made if missing; pictures of the same name are replaced.
        split: "train", "val" or "test".
        clips: how many, or which: see `jca-fast visualize --help`.
        frames: folder of frames, `<video id>/<segment>.jpg` and the like; None draws over the region grid.
        dpi: pixels per inch.
        say: called with each line on what is done.

    Raises FileNotFoundError or ValueError naming the file or argument at fault; all clips are read and run before the
    first picture is written.
    """
    if not 50 <= dpi <= 600:
        raise ValueError(f"--dpi must be 50 to 600, got {dpi}")
    model, content = load_model(checkpoint)
    require_same_features(checkpoint, content.get("features"), data, read_record(data))
    source = ClipSource(model, data, split, frames)
    views = [source.view(index) for index in source.choose(clips)]
    if missing := _missing(model.config, views[0]):  # type: ignore[arg-type]
        say(missing)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    return [path for view in views for path in _draw(view, out, dpi, say)]


def _draw(view: ClipView, out: Path, dpi: int, say: Callable[[str], object]) -> list[Path]:
    figures = {"timeline": draw_timeline}
    if view.attention is not None:
        figures["attention"] = draw_attention
    if view.layers:
        figures["maps"] = draw_maps
    paths = [
        save(draw(view), out / f"{view.name}_{kind}.png", dpi)
        for kind, draw in sorted(figures.items())
    ]
    say(f"{view.name}: {', '.join(path.name for path in paths)}")
    return paths


def _missing(config: dict[str, object], view: ClipView) -> str:
    """What cannot be drawn of this model, and why; "" when all can."""
    if config["modalities"] != "both":
        return f"a model with modalities={config['modalities']!r} has no attention and no fusion: time lines only"
    if view.attention is None:
        return f"a model with pooling={config['pooling']!r} has no attention over regions: time lines and maps only"
    return ""
