"""Order files: the rows of the training, validation and test clips."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from . import files
from .annotations import Event, read_annotations

LISTS = {"train": "trainSet.txt", "val": "valSet.txt", "test": "testSet.txt"}


def write_splits(
    root: str | Path,
    *,
    lists: str | Path | None = None,
    ratios: Sequence[float] | None = None,
    seed: int = 0,
    num_segments: int = 10,
    overwrite: bool = False,
) -> dict[str, np.ndarray]:
    """Write train_order.h5, val_order.h5 and test_order.h5 into the folder `root`.

    Returns the rows of each split. `lists` is a folder with trainSet.txt, valSet.txt and
    testSet.txt, whose lines are rows of `root/Annotations.txt`. `ratios` are three shares; the last
    split takes the remainder. The videos of each class are drawn with `seed`, and all clips of a
    video are in one split.

    Raises FileNotFoundError or ValueError naming a line without a row or a clip in two splits, and
    FileExistsError for existing order files unless `overwrite`. Then no file is written.
    """
    root = Path(root)
    events = read_annotations(root / files.ANNOTATIONS, num_segments)
    if (lists is None) == (ratios is None):
        raise ValueError("needed: either lists or ratios")
    taken = [split for split in files.SPLITS if files.exists(root, f"{split}_order")]
    if taken and not overwrite:
        path = files.find(root, f"{taken[0]}_order")
        raise FileExistsError(f"{path}: exists; needed: another folder, or --overwrite")
    if lists is not None:
        splits = _from_lists(Path(lists), root / files.ANNOTATIONS, events, num_segments)
    else:
        splits = _from_ratios(events, list(ratios or ()), seed)
    for split, order in splits.items():
        files.write_h5(root / f"{split}_order.h5", **{files.ORDER: order})
        (root / f"{split}_order.npy").unlink(missing_ok=True)
    return splits


def _from_lists(
    folder: Path, annotations: Path, events: list[Event], num_segments: int
) -> dict[str, np.ndarray]:
    rows: dict[Event, list[int]] = defaultdict(list)
    for row, event in enumerate(events):
        rows[event].append(row)
    splits: dict[str, np.ndarray] = {}
    owner: dict[int, str] = {}
    for split, name in LISTS.items():
        order = []
        for event in read_annotations(folder / name, num_segments):
            if event not in rows:
                raise ValueError(f"{folder / name}: {event.line()!r} is not a row of {annotations}")
            row = rows[event].pop(0) if len(rows[event]) > 1 else rows[event][0]
            if row in owner:
                raise ValueError(
                    f"{folder / name}: {event.line()!r} is listed twice, first in {owner[row]}"
                )
            owner[row] = name
            order.append(row)
        splits[split] = np.array(order, dtype=np.int64)
    return splits


def _from_ratios(events: list[Event], ratios: list[float], seed: int) -> dict[str, np.ndarray]:
    if len(ratios) != 3 or not all(0 < ratio < float("inf") for ratio in ratios):
        raise ValueError(f"ratios are {ratios}; needed: three shares above 0")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed is {seed}; needed: 0 to 2**64 - 1")
    rng = np.random.Generator(np.random.Philox(seed))
    rows_of_video: dict[str, list[int]] = defaultdict(list)
    for row, event in enumerate(events):
        rows_of_video[event.video_id].append(row)
    videos_of_class: dict[str, list[list[int]]] = defaultdict(list)
    for rows in rows_of_video.values():
        videos_of_class[events[rows[0]].category].append(rows)
    # Order the videos so that any interval has the classes in proportion, and cut it in three.
    places, videos = [], []
    for group in videos_of_class.values():
        places += list((rng.permutation(len(group)) + rng.random()) / len(group))
        videos += group
    order = [videos[i] for i in np.argsort(places, kind="stable")]
    cuts = np.round(np.cumsum(ratios[:2]) / sum(ratios) * len(order)).astype(int)
    parts = (order[: cuts[0]], order[cuts[0] : cuts[1]], order[cuts[1] :])
    if not all(parts):
        raise ValueError(f"ratios are {ratios}; needed: at least one video in each split")
    return {
        split: rng.permutation(np.concatenate([np.array(rows, np.int64) for rows in part]))
        for split, part in zip(files.SPLITS, parts, strict=True)
    }
