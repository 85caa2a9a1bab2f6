"""Planted AVE on disk: a synthetic set in the published layout, with given or generated events.

Its files are Annotations.txt, audio_feature.h5 (n, N, audio_dim), visual_feature.h5 (n, N, *grid,
visual_dim), labels.h5 (n, N, 29), mil_labels.h5 (n, 29), labels_closs.h5 (n, N), the three order
files, with noisy clips the three `*_noisy.h5` files, and planted.h5. That file holds

* `position` (n, N, R): 1 in the regions of the object of the clip's class while it is visible;
* `audible` and `visible` (n, N): an event is in the segments that are both;
* `silent_objects` (n, distractors) and `offscreen_sound` (n,): their classes, -1 for none;
* the attribute `settings` as JSON.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jca_fast import atomic

from . import files
from .annotations import (
    BACKGROUND,
    CATEGORIES,
    Event,
    class_indices,
    event_classes,
    foreground_labels,
    mil_labels,
    read_annotations,
    segment_labels,
)
from .hdf5 import RowWriter
from .planted import DIFFICULTIES, Clip, World, draw_clip, stream

_WHOLE = "whole"
"""A file beside the files of a set that is complete; it lists their names."""

_NAMES = [files.ANNOTATIONS, *(f"{stem}.h5" for stem in files.LAYOUT), files.PLANTED]
_EVENT_STREAM = 2**64 - 2  # for generated events and splits; clips use streams 0, 1, ...


def synthesize(
    root: str | Path,
    *,
    num_clips: int | None = None,
    annotations: str | Path | None = None,
    orders: str | Path | None = None,
    num_noisy: int = 0,
    seed: int = 0,
    dtype: str = "float64",
    num_segments: int = 10,
    audio_dim: int = 128,
    visual_dim: int = 512,
    grid: tuple[int, int] = (7, 7),
    difficulty: str = "standard",
    noise: float | None = None,
    distractors: int | None = None,
    offscreen: float | None = None,
    full_length: float = 0.4,
    overwrite: bool = False,
    progress: bool = False,
) -> Path:
    """Write a planted set into the folder `root`, which is returned; the module lists its files.

    The clips are the rows of the file `annotations`, split as in the folder `orders`, or
    `num_clips` (600) generated ones: the 28 classes in equal blocks, a share `full_length` of the
    events as long as their clip, split 70/15/15 at random. Features are float64, as published, or
    float32 (`dtype`) with the same values. Equal arguments give equal values, clip by clip.
    `difficulty`, "standard" or "hard", gives the values of `noise`, `distractors` and `offscreen`
    that are None (see `planted.World`). Any size takes a few dozen megabytes of memory.

    Raises ValueError for bad arguments, FileExistsError if `root` has such files and `overwrite` is
    False, OSError if the disk is too small, all before the first clip is drawn. The files get their
    names when all are complete.
    """
    _check_arguments(num_clips, annotations, orders, num_noisy, dtype, full_length, seed)
    hardness = harden(difficulty, noise=noise, distractors=distractors, offscreen=offscreen)
    root = Path(root)
    rng = stream(seed, _EVENT_STREAM)
    if annotations is None:
        events = _random_events(rng, num_clips or 600, num_segments, full_length)
    else:
        events = read_annotations(annotations, num_segments)
    if orders is None:
        splits = _random_splits(rng, len(events))
    else:
        splits = {split: files.read_order(orders, split, len(events)) for split in files.SPLITS}
    classes = len(event_classes(events))
    world = World(classes, num_segments, audio_dim, visual_dim, grid, seed, **hardness)
    with _staging(root, _num_bytes(world, len(events) + num_noisy, dtype), overwrite) as folder:
        _write_tables(folder, events, splits, num_segments, num_noisy)
        _write_clips(folder, world, events, num_noisy, dtype, progress)
    return root


def harden(difficulty: str, **given: float | None) -> dict[str, Any]:
    """The settings of a difficulty, replaced by those that are given."""
    if difficulty not in DIFFICULTIES:
        raise ValueError(f"difficulty is {difficulty!r}; needed: {' or '.join(DIFFICULTIES)}")
    chosen = {name: value for name, value in given.items() if value is not None}
    return {**DIFFICULTIES[difficulty], **chosen}


def _check_arguments(
    num_clips: int | None,
    annotations: object,
    orders: object,
    num_noisy: int,
    dtype: str,
    full_length: float,
    seed: int,
) -> None:
    if dtype not in ("float64", "float32"):
        raise ValueError(f"dtype is {dtype!r}; needed: 'float64' or 'float32'")
    if num_clips is not None and annotations is not None:
        raise ValueError("num_clips and annotations were both given; needed: one of them")
    if orders is not None and annotations is None:
        raise ValueError("orders were given without annotations; needed: both or neither")
    if num_clips is not None and num_clips < 8:
        raise ValueError(
            f"num_clips is {num_clips}; needed: 8 or more, so that every split gets a clip"
        )
    if num_noisy < 0:
        raise ValueError(f"num_noisy is {num_noisy}; needed: 0 or more")
    if not 0 <= full_length <= 1:
        raise ValueError(f"full_length is {full_length}; needed: a share, 0 to 1")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed is {seed}; needed: 0 to 2**64 - 1")


def _num_bytes(world: World, clips: int, dtype: str) -> int:
    regions = world.grid[0] * world.grid[1]
    per_segment = (
        (world.audio_dim + regions * world.visual_dim) * np.dtype(dtype).itemsize + regions + 256
    )
    return clips * world.num_segments * per_segment + 2**20


def _random_events(
    rng: np.random.Generator, count: int, segments: int, full_length: float
) -> list[Event]:
    """Events in equal blocks of the 28 classes; each has at least two segments if the clip does."""
    events = []
    for i in range(count):
        length = (
            segments
            if rng.random() < full_length
            else int(rng.integers(min(2, segments), segments + 1))
        )
        start = int(rng.integers(0, segments - length + 1))
        events.append(
            Event(CATEGORIES[i * BACKGROUND // count], f"pl{i:09d}", "good", start, start + length)
        )
    return events


def _random_splits(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    order = rng.permutation(count)
    cuts = [round(0.7 * count), round(0.85 * count)]
    return dict(zip(files.SPLITS, np.split(order, cuts), strict=True))


@contextlib.contextmanager
def _staging(root: Path, num_bytes: int, overwrite: bool) -> Iterator[Path]:
    """A folder inside `root`; its files move into `root` when the block ends without an error."""
    folder = root / ".synth.partial"
    if (folder / _WHOLE).is_file():  # its run was killed while it moved the files
        _publish(folder, root)
    taken = sorted(name for name in _NAMES if (root / name).exists())
    if taken and not overwrite:
        raise FileExistsError(
            f"{root}: already holds {', '.join(taken)}; needed: another folder, or --overwrite"
        )
    root.mkdir(parents=True, exist_ok=True)
    files.require_space(root, num_bytes, "the planted set")
    shutil.rmtree(folder, ignore_errors=True)  # left by a run that was killed
    folder.mkdir()
    try:
        yield folder
        for path in folder.iterdir():
            atomic.sync(path)
        made = [path.name for path in folder.iterdir()]
        atomic.write_text(folder / _WHOLE, "\n".join(made))
        _publish(folder, root)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(folder: Path, root: Path) -> None:
    """Move the files that `folder` lists into `root`, as far as a killed run has not moved them."""
    made = (folder / _WHOLE).read_text(encoding="utf-8").split("\n")
    for name in _NAMES:
        if name not in made:
            (root / name).unlink(missing_ok=True)  # from the set that is overwritten
        elif (folder / name).exists():
            (folder / name).replace(root / name)
    atomic.sync(root)
    shutil.rmtree(folder)


def _write_tables(
    folder: Path,
    events: Sequence[Event],
    splits: dict[str, np.ndarray],
    segments: int,
    num_noisy: int,
) -> None:
    """Write the annotations, labels and splits."""
    atomic.write_text(folder / files.ANNOTATIONS, "".join(event.line() + "\n" for event in events))
    labels = segment_labels(events, segments)  # (n, N, C)
    files.write_h5(folder / "labels.h5", avadataset=labels)
    files.write_h5(folder / "mil_labels.h5", avadataset=mil_labels(events))
    files.write_h5(folder / "labels_closs.h5", avadataset=foreground_labels(events, segments))
    for split, order in splits.items():
        files.write_h5(folder / f"{split}_order.h5", order=order)
    if num_noisy:
        background = np.eye(labels.shape[2], dtype=np.float32)[[-1] * num_noisy]  # (noisy, C)
        files.write_h5(folder / "labels_noisy.h5", avadataset=background)


def _write_clips(
    folder: Path, world: World, events: Sequence[Event], num_noisy: int, dtype: str, progress: bool
) -> None:
    """Write the features, and planted.h5 with the planted objects and sounds."""
    n, segments = len(events), world.num_segments
    planted: dict[str, np.ndarray] = {
        "position": np.zeros((n, segments, world.grid[0] * world.grid[1]), np.uint8),
        "audible": np.zeros((n, segments), np.uint8),
        "visible": np.zeros((n, segments), np.uint8),
        "silent_objects": np.zeros((n, world.distractors), np.int64),
        "offscreen_sound": np.zeros(n, np.int64),
    }

    def clips() -> Iterator[Clip]:
        for row, (event, category) in enumerate(zip(events, class_indices(events), strict=True)):
            clip = draw_clip(world, row, int(category), event.start, event.end)
            for name, values in planted.items():
                values[row] = getattr(clip, name)
            yield clip

    _write_features(folder, "", world, dtype, clips(), n, progress)
    if num_noisy:
        noisy = (draw_clip(world, n + row, None) for row in range(num_noisy))
        _write_features(folder, "_noisy", world, dtype, noisy, num_noisy, progress)
    settings = {**world.settings(), "dtype": dtype, "numpy": np.__version__}
    files.write_h5(folder / files.PLANTED, {"settings": json.dumps(settings)}, **planted)


def _write_features(
    folder: Path,
    suffix: str,
    world: World,
    dtype: str,
    clips: Iterator[Clip],
    count: int,
    progress: bool,
) -> None:
    """Write both feature files, contiguous, with one clip in memory at a time."""
    from tqdm import tqdm

    def writer(stem: str, *clip_shape: int) -> RowWriter:
        name, shape = f"{stem}{suffix}.h5", (count, world.num_segments, *clip_shape)
        return RowWriter(folder / name, files.FEATURES, shape, dtype, folder.parent / name)

    with (
        writer("audio_feature", world.audio_dim) as audio,
        writer("visual_feature", *world.grid, world.visual_dim) as visual,
    ):
        for clip in tqdm(clips, f"clips{suffix}", total=count, disable=not progress):
            audio.write(clip.audio)
            visual.write(clip.visual)
