"""Draws the pictures of a checkpoint into a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from jca_fast.atomic import check_folder
from jca_fast.data.record import read_record, require_same_features
from jca_fast.training.checkpoint import load_model
from jca_fast.training.inference import check_fit

from .attention import draw_attention
from .clips import ClipSource, ClipView
from .fusion import draw_maps
from .style import save
from .timeline import draw_timeline

FORMATS = ("png", "pdf", "svg")


def visualize(
    checkpoint: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    split: str = "test",
    clips: str = "3",
    frames: str | Path | None = None,
    dpi: int = 150,
    formats: Sequence[str] = ("png",),
    titles: bool = True,
    say: Callable[[str], object] = lambda text: None,
) -> list[Path]:
    """Draws clips of a split as pictures into the folder `out`; returns their paths.

    Args:
        checkpoint: a checkpoint, or the folder of a run.
        data: folder in the published layout or prepared, whose planted.h5 adds the outlines of
            planted objects; or an .npz as for `jca-fast predict`.
        out: folder for the pictures, made if missing; pictures of the same name are replaced.
        split: "train", "val" or "test".
        clips: a number or a list of clips, see `jca-fast visualize --help`.
        frames: folder of frames, like `<video id>/<segment>.jpg`; None draws the region grid.
        dpi: pixels per inch.
        formats: formats of the files, any of "png", "pdf" and "svg".
        titles: whether the pictures have a title.
        say: called with each line of the report.

    Raises FileNotFoundError or ValueError naming the faulty file or argument. All clips are read
    and run before the first picture is written.
    """
    if not 50 <= dpi <= 600:
        raise ValueError(f"--dpi must be 50 to 600, got {dpi}")
    if unknown := [name for name in formats if name not in FORMATS] or not formats:
        raise ValueError(f"--format: expected {', '.join(FORMATS)}, got {unknown or 'nothing'}")
    out = Path(out)
    check_folder(out, "--out")
    model, content = load_model(checkpoint)
    if Path(data).suffix != ".npz":
        require_same_features(checkpoint, content.get("features"), data, read_record(data))
    source = ClipSource(model, data, split, frames, content.get("classes"))
    check_fit(model, source.dataset[0][:2], data, checkpoint)
    views = [source.view(index) for index in source.choose(clips)]
    if missing := _missing(model.config, views[0]):  # type: ignore[arg-type]
        say(missing)
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for view in views:
        written = _draw(view, out, dpi, formats, titles)
        say(f"{view.name}: {', '.join(path.name for path in written)}")
        paths += written
    return paths


def _draw(view: ClipView, out: Path, dpi: int, formats: Sequence[str], titles: bool) -> list[Path]:
    figures = {"timeline": draw_timeline}
    if view.attention is not None:
        figures["attention"] = draw_attention
    if view.layers:
        figures["maps"] = draw_maps
    return [
        save(draw(view, titles), out / f"{view.name}_{kind}.{name}", dpi)
        for kind, draw in sorted(figures.items())
        for name in formats
    ]


def _missing(config: dict[str, object], view: ClipView) -> str:
    """The line on pictures that this model does not allow; "" if it allows all."""
    if config["modalities"] != "both":
        return (
            f"a model with modalities={config['modalities']!r} has no attention and no fusion: "
            "time lines only"
        )
    if view.attention is None:
        return (
            f"a model with pooling={config['pooling']!r} has no attention over regions: "
            "time lines and maps only"
        )
    return ""
