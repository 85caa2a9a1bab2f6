"""AVE as a PyTorch dataset: an item is one clip, read from disk on demand."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from jca_fast.reading import user_path

from . import files
from .annotations import Event, class_names, mil_labels, read_annotations
from .cache import find_cache, open_table, verify_small_files

Item = tuple[torch.Tensor, ...]


class AVEDataset(Dataset[Item]):
    """Clips of one split of AVE: items `(audio (N, d_a), visual (N, 7, 7, d_v), labels (N, 29))`.

    `root` holds the published layout (audio_feature, visual_feature, labels and the order files,
    each `.h5` or `.npy`) or is a cache written by `jca-fast data prepare`; a cache in
    `root/prepared` is preferred. Visual features of shape (n, N, R, d_v) give items (N, R, d_v).

    Audio and visual are cast once to `dtype`; labels are float32. Each process opens the files
    itself, so forked and spawned workers may be mixed. At most one clip is in memory at a time. The
    blocks of a cache are verified by their checksums when they are first read.

    `weak=True` gives the weakly supervised targets, labels (29,) from mil_labels.h5 (or else from
    Annotations.txt), and appends the noisy background clips to the training split, as the published
    recipe does; `noisy=False` omits them, `noisy=True` adds them to any split. To score segments,
    use a dataset that is not weak.

    Attributes: `indices` (n,) int64, the row of each item in the feature files (the numbers of
    noisy clips continue after the last row); `labels` (n, N, 29), or (n, 29) when weak, float32;
    `lengths` (n,) int64, the segments of each item without padding, or None if nothing is padded;
    `events`, the rows of Annotations.txt, or None; `class_names`, background last. With lengths,
    the last element of an item is its length (): clips of `jca-fast extract` may be padded at the
    end of a video.

    Raises FileNotFoundError or ValueError for files that are missing, damaged or of the wrong
    shape, for files that disagree, for rows of a split that do not exist, and for a stale cache.
    The message names the file, the dataset, the value found and the value needed.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        dtype: torch.dtype = torch.float32,
        *,
        weak: bool = False,
        noisy: bool | None = None,
    ):
        if split not in files.SPLITS:
            raise ValueError(f"split is {split!r}; needed: one of {', '.join(files.SPLITS)}")
        if not dtype.is_floating_point:
            raise ValueError(f"dtype is {dtype}; needed: a floating-point dtype")
        if noisy and not weak:
            raise ValueError(
                "noisy=True without weak=True: noisy clips have no labels by segment; "
                "needed: weak=True"
            )
        self.root = find_cache(root)
        self.split = split
        self.dtype = dtype
        self.weak = weak
        self.folders = (user_path(root), self.root)
        self.noisy = weak and split == "train" if noisy is None else noisy
        verify_small_files(self.root)
        self._tables = [open_features(self.root, "")]
        audio, _ = self._tables[0]
        self._num_clips = len(audio)
        order = files.read_order(self.root, split, self._num_clips)
        labels = _weak_labels(self.root, audio) if weak else _segment_labels(self.root, audio)
        labels = labels[order]  # (n, N, C) or (n, C)
        if self.noisy:
            background = self._add_noisy(labels.shape[1])
            order = np.concatenate([order, self._num_clips + np.arange(len(background))])
            labels = np.concatenate([labels, background])
        self.indices = torch.from_numpy(order)
        self.labels = torch.from_numpy(labels)
        self.lengths = self._read_lengths()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Item:
        row = int(self.indices[index])
        noisy = row >= self._num_clips
        audio, visual = self._tables[noisy]
        row -= self._num_clips * noisy
        item = self._tensor(audio[row]), self._tensor(visual[row]), self.labels[index]
        return item if self.lengths is None else (*item, self.lengths[index])

    @functools.cached_property
    def events(self) -> list[Event] | None:
        """The rows of Annotations.txt in the data folder or the cache; None without that file."""
        path = files.find_companion(files.ANNOTATIONS, *self.folders)
        if path is None:
            return None
        events = read_annotations(path, self._tables[0][0].shape[1])
        if len(events) != self._num_clips:
            raise ValueError(
                f"{path}: found {len(events)} rows; needed: {self._num_clips}, one for each clip "
                f"of {self._tables[0][0]}"
            )
        return events

    @functools.cached_property
    def class_names(self) -> list[str]:
        """The names of the classes in label order, "Background" last."""
        return class_names(self.labels.shape[-1], self.events)

    @property
    def planted(self) -> Path | None:
        """The file planted.h5 of a planted set; None for other data."""
        return files.find_companion(files.PLANTED, *self.folders)

    def read_planted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """position (n, N, R), audible (n, N) and visible (n, N) of all clips, or None.

        Raises ValueError for a damaged planted.h5 and for one of other features.
        """
        if self.planted is None:
            return None
        clips, segments, *grid, _ = self._tables[0][1].shape
        return files.read_planted(self.planted, (clips, segments, math.prod(grid)))

    @property
    def storage(self) -> str:
        """The storage of the visual features on disk: path, dtype and layout."""
        visual = self._tables[0][1]
        return f"{visual.path}, {visual.dtype}, {visual.storage()}"

    def clip_name(self, index: int) -> str:
        """`<row>:<video id>`, or `<row>` without Annotations.txt."""
        row = int(self.indices[index])
        if self.events is None or row >= self._num_clips:
            return str(row)
        return f"{row}:{self.events[row].video_id}"

    def _read_lengths(self) -> torch.Tensor | None:
        shape = self._tables[0][0].shape
        found = files.read_lengths(self.folders, shape)
        if found is None:
            return None
        noisy = sum(len(tables[0]) for tables in self._tables[1:])
        found = np.concatenate([found, np.full(noisy, shape[1])])
        return torch.from_numpy(found)[self.indices]

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(self.dtype)

    def _add_noisy(self, num_classes: int) -> np.ndarray:
        tables = open_features(self.root, "_noisy")
        for clean, noisy in zip(self._tables[0], tables, strict=True):
            if noisy.shape[1:] != clean.shape[1:]:
                raise ValueError(
                    f"{noisy}: found clips of shape {noisy.shape[1:]}; "
                    f"needed: {clean.shape[1:]}, as in {clean}"
                )
        self._tables.append(tables)
        labels = open_table(self.root, "labels_noisy")
        _require_shape(labels, (len(tables[0]), num_classes), tables[0])
        return labels[:].astype(np.float32)  # (noisy, C)


def open_features(root: Path, suffix: str) -> tuple[files.Table, files.Table]:
    audio = open_table(root, f"audio_feature{suffix}")
    visual = open_table(root, f"visual_feature{suffix}")
    if audio.shape[:2] != visual.shape[:2]:
        raise ValueError(
            f"{visual}: found {visual.shape[:2]} (clips, segments); "
            f"needed: {audio.shape[:2]}, as in {audio}"
        )
    return audio, visual


def _require_shape(table: files.Table, shape: tuple[int, ...], other: files.Table) -> None:
    if table.shape[: len(shape)] != shape:
        raise ValueError(
            f"{table}: found shape {table.shape}; needed: {shape} to begin with, as in {other}"
        )


def _segment_labels(root: Path, audio: files.Table) -> np.ndarray:
    labels = open_table(root, "labels")
    _require_shape(labels, audio.shape[:2], audio)
    return _finite(labels)  # (n, N, C)


def _finite(labels: files.Table) -> np.ndarray:
    """All labels of a table as float32; ValueError if one is NaN or infinite."""
    values = labels[:].astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"{labels}: found labels that are not finite; needed: 0 and 1")
    return values


def _weak_labels(root: Path, audio: files.Table) -> np.ndarray:
    annotations = files.find_companion(files.ANNOTATIONS, root)
    if files.exists(root, "mil_labels") or annotations is None:
        labels = open_table(root, "mil_labels")
        _require_shape(labels, audio.shape[:1], audio)
        return _finite(labels)  # (n, C)
    made = mil_labels(read_annotations(annotations, audio.shape[1]))
    if len(made) != len(audio):
        raise ValueError(
            f"{annotations}: found {len(made)} rows; needed: {len(audio)}, to go with {audio}"
        )
    return made
