"""Clips of `jca-fast extract`: the video and the start of each row, and sets without labels."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset, TensorDataset

from jca_fast.reading import user_path

from . import files
from .annotations import Event
from .ave import AVEDataset, open_features


class UnlabelledClips(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """All clips of an extracted set without labels: items `(audio (N, d_a), visual (N, ..., d_v))`.

    Raises FileNotFoundError or ValueError naming the faulty file.
    """

    split = "all"
    labels: None = None
    events: list[Event] | None = None
    lengths: torch.Tensor | None = None

    def __init__(self, root: str | Path, dtype: torch.dtype = torch.float32) -> None:
        self.root, self.dtype = user_path(root), dtype
        self.folders: tuple[Path, ...] = (self.root,)
        self._tables = open_features(self.root, "")
        self.indices = torch.arange(len(self._tables[0]))
        self._names = _clip_names(self.folders, len(self.indices))
        found = files.read_lengths(self.folders, self._tables[0].shape)
        self.lengths = None if found is None else torch.from_numpy(found)

    def __len__(self) -> int:
        return len(self.indices)

    def read_planted(self) -> None:
        """Sets without labels have no planted objects."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        audio, visual = (torch.from_numpy(table[index]).to(self.dtype) for table in self._tables)
        return audio, visual

    def clip_name(self, index: int) -> str:
        """`<row>:<video>@<start in seconds>s`, or `<row>` without clips.h5."""
        return f"{index}:{self._names[index]}" if self._names else str(index)


class NpzClips(UnlabelledClips):
    """All clips of an .npz file in the layout of `jca-fast predict`."""

    def __init__(self, path: str | Path) -> None:
        self.clips, self._names = read_npz(str(path))
        self.root, self.folders = Path(path), ()
        self.indices = torch.arange(len(self.clips))

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        audio, visual = self.clips[index]
        return audio, visual

    def clip_name(self, index: int) -> str:
        """The name in the array `clips`, else the row."""
        return self._names[index]


def open_clips(root: str | Path, split: str) -> AVEDataset | UnlabelledClips:
    """A split of a labelled set, or all clips of an .npz or an extracted set without labels."""
    if Path(root).suffix == ".npz":
        return NpzClips(root)
    folder = user_path(root)
    unlabelled = (folder / files.CLIPS).is_file() and not files.exists(folder, "labels")
    return UnlabelledClips(folder) if unlabelled else AVEDataset(root, split)


def _clip_names(folders: tuple[Path, ...], count: int) -> list[str]:
    videos, starts = (files.read_clip_column(folders, name) for name in ("video", "start"))
    if videos is None or starts is None:
        return []
    if not len(videos) == len(starts) == count:
        path = files.find_companion(files.CLIPS, *folders)
        raise ValueError(f"{path}: found {len(videos)} rows; needed: {count}")
    pairs = zip(videos, starts, strict=True)
    return [f"{Path(video.decode('utf-8', 'replace')).stem}@{start:g}s" for video, start in pairs]


def read_npz(path: str) -> tuple[TensorDataset, list[str]]:
    """The clips of an .npz file; FileNotFoundError or ValueError names the file and the fault."""
    file = user_path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    damage = (ValueError, OSError, EOFError, TypeError, KeyError, zipfile.BadZipFile, zlib.error)
    try:
        with np.load(file, allow_pickle=False) as archive:
            present = sorted(archive.files)
            used = {"audio", "visual", "clips"} & set(present)
            arrays = {name: archive[name] for name in used}
    except (*damage, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path}: not a whole .npz file of plain arrays ({error})") from error
    except MemoryError:
        raise ValueError(f"{path}: its arrays do not fit in memory") from None
    for name, values in arrays.items():
        if not isinstance(values, np.ndarray):  # NumPy reads other parts of a zip file as bytes
            raise ValueError(f"{path}: not a whole .npz file, {name} is not an array")
    for name, axes, needed in (
        ("audio", (3,), "(n, N, d_a)"),
        ("visual", (4, 5), "(n, N, 7, 7, d_v) or (n, N, R, d_v)"),
    ):
        if name not in arrays:
            raise ValueError(f"{path}: found arrays {present}; needed: {name} {needed}")
        values = arrays[name]
        if values.ndim not in axes or values.dtype.kind not in "fiu":
            found = f"{name} of shape {values.shape}, {values.dtype}"
            raise ValueError(f"{path}: found {found}; needed: {name} {needed} numbers")
    audio, visual = (
        torch.from_numpy(arrays[name].astype(np.float32)) for name in ("audio", "visual")
    )
    names = arrays.get("clips", np.arange(len(audio)))
    if names.ndim > 1:
        raise ValueError(f"{path}: found clips of shape {names.shape}; needed: clips (n,)")
    clips = [str(name) for name in np.atleast_1d(names)]
    if not len(audio) == len(visual) == len(clips) > 0:
        raise ValueError(
            f"{path}: audio, visual and clips must have one length above 0, got "
            f"{len(audio)}, {len(visual)} and {len(clips)}"
        )
    return TensorDataset(audio, visual), clips
