"""Arrays on disk: lazy tables over `.h5` and `.npy` files, the published layout, free space.

No whole feature file is kept in memory, and a table may be pickled, forked or spawned freely: every
process opens the file itself when it first reads a row.
"""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from jca_fast.data.hdf5 import UNREADABLE, library, open_h5, read_h5
from jca_fast.data.hdf5 import write_h5 as write_h5

FEATURES = "avadataset"
ORDER = "order"
SPLITS = ("train", "val", "test")
LARGEST_CHUNK = 2**28
"""Bytes of a chunk of an HDF5 file, which is unpacked whole; a published clip has 2 MB."""
ANNOTATIONS = "Annotations.txt"
PLANTED = "planted.h5"
CLIPS = "clips.h5"
"""It has datasets `video` (n,) names, `start` (n,) seconds, `length` (n,) unpadded segments."""
_CLIP_COLUMNS = {"video": "OS", "start": "fiu", "length": "iu"}  # name: kinds of its dtype

# For each file of the published layout: dataset, number of axes (None: four or more), their
# meaning.
LAYOUT: dict[str, tuple[str, int | None, str]] = {
    "audio_feature": (FEATURES, 3, "(clips, segments, d_a) numbers"),
    "visual_feature": (
        FEATURES,
        None,
        "(clips, segments, 7, 7, d_v) or (clips, segments, regions, d_v) numbers",
    ),
    "labels": (FEATURES, 3, "(clips, segments, classes) numbers"),
    "mil_labels": (FEATURES, 2, "(clips, classes) numbers"),
    "labels_closs": (FEATURES, 2, "(clips, segments) numbers"),
    "audio_feature_noisy": (FEATURES, 3, "(noisy clips, segments, d_a) numbers"),
    "visual_feature_noisy": (FEATURES, None, "(noisy clips, segments, 7, 7, d_v) numbers"),
    "labels_noisy": (FEATURES, 2, "(noisy clips, classes) numbers"),
    **{f"{split}_order": (ORDER, 1, "(clips of the split,) whole numbers") for split in SPLITS},
}

REQUIRED = ("audio_feature", "visual_feature", "labels", *(f"{split}_order" for split in SPLITS))

_WHERE = "The AVE features are published at https://github.com/YapengTian/AVE-ECCV18"
_SYNTH = "`jca-fast data synth DIR` makes a planted set in the same layout"


def needed(stem: str) -> str:
    """The content that the file `<stem>.h5` of the published layout must have."""
    return f"needed: dataset {LAYOUT[stem][0]!r} of shape {LAYOUT[stem][2]}"


class Table:
    """Rows of one array on disk, `<stem>.h5` or `<stem>.npy` under `root`.

    `table[i]` and `table[i:j]` read those rows only, in the byte order of this machine.
    Attributes: `path`, `dataset`, `shape`, `dtype`. Raises FileNotFoundError for a missing file and
    ValueError for a truncated, damaged or locked one, a missing dataset, a wrong number of axes or
    an empty or non-numeric array.
    """

    def __init__(self, root: str | Path, stem: str):
        self.path = find(root, stem)
        self.dataset, axes, _ = LAYOUT[stem]
        self._handle: Any = None
        self._pid = -1
        rows = self._open_h5() if self.path.suffix == ".h5" else self._open_npy()
        self.shape: tuple[int, ...] = tuple(rows.shape or ())
        self._stored: np.dtype = rows.dtype
        self.dtype = self._stored.newbyteorder("=")
        self._offset = getattr(rows, "offset", 0)  # of the values in a .npy file
        wrong_axes = len(self.shape) < 4 if axes is None else len(self.shape) != axes
        kinds = "iu" if self.dataset == ORDER else "fiu"
        wrong_type = self.dtype.kind not in kinds or self.dtype.itemsize > 8
        if wrong_axes or 0 in self.shape or wrong_type:
            raise ValueError(f"{self}: found shape {self.shape}, {self.dtype}; {needed(stem)}")
        self._check_chunks(getattr(rows, "chunks", None) or ())

    def __str__(self) -> str:
        if self.path.suffix == ".h5":
            return f"{self.path}, dataset {self.dataset!r}"
        return str(self.path)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice) -> np.ndarray:
        try:
            values = self._read_h5(rows) if self.path.suffix == ".h5" else self._read_npy(rows)
        except MemoryError:
            raise ValueError(f"{self}: {self.shape} {self.dtype} does not fit in memory") from None
        except UNREADABLE as error:
            raise ValueError(f"{self}: rows {rows} cannot be read ({error})") from None
        return values.astype(self.dtype, copy=False)

    def _read_h5(self, rows: int | slice) -> np.ndarray:
        library()  # has room in memory, or this raises
        if self._handle is None or self._pid != os.getpid():  # no handle of a parent
            self._handle, self._pid = self._open_h5(), os.getpid()
        return self._handle[rows]

    def _read_npy(self, rows: int | slice) -> np.ndarray:
        # A permanent map would count every page that was ever read as memory of this process.
        return np.array(np.memmap(self.path, self._stored, "r", self._offset, self.shape)[rows])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}

    def row_bytes(self) -> int:
        return int(np.prod(self.shape[1:])) * self.dtype.itemsize

    def storage(self) -> str:
        """The layout of the array on disk: "contiguous", or chunks and compression."""
        if self.path.suffix == ".npy":
            return "contiguous"
        rows = self._open_h5()
        if rows.chunks is None:
            return "contiguous"
        compression = f"{rows.compression} compression" if rows.compression else "uncompressed"
        return f"chunks of {rows.chunks}, {compression}"

    def _open_h5(self) -> Any:
        h5py = library()
        file = open_h5(self.path, needed(self.path.stem))
        try:
            present = self.dataset in file  # raises for a loop of links
            rows = file.get(self.dataset)
            if present and isinstance(rows, h5py.Dataset):
                _ = rows.shape, rows.dtype  # damage in the header raises now
                return rows
            found = f"found datasets {sorted(file) or 'none'}"
        except UNREADABLE as error:
            found = f"dataset {self.dataset!r} cannot be opened, the file is damaged ({error})"
        raise ValueError(f"{self.path}: {found}; {needed(self.path.stem)}")

    def _check_chunks(self, chunks: tuple[int, ...]) -> None:
        """Refuse chunks that a small file could unpack to more than the memory."""
        if math.prod(chunks) * self.dtype.itemsize > LARGEST_CHUNK:
            raise ValueError(
                f"{self}: found chunks of {chunks}, {self.dtype}; "
                f"needed: at most {LARGEST_CHUNK:,} bytes each"
            )

    def _open_npy(self) -> np.memmap:
        try:
            rows = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (*UNREADABLE, SyntaxError, MemoryError) as error:
            raise ValueError(
                f"{self.path}: not a whole .npy file ({error}); {needed(self.path.stem)}"
            ) from None
        if not rows.flags.c_contiguous:
            raise ValueError(
                f"{self.path}: found an array in Fortran order; needed: C order, row after row"
            )
        return rows


def exists(root: str | Path, stem: str) -> bool:
    """Whether `root` has `<stem>.h5` or `<stem>.npy`."""
    return any((Path(root) / f"{stem}{suffix}").is_file() for suffix in (".h5", ".npy"))


def find(root: str | Path, stem: str) -> Path:
    """Path of `<stem>.h5`, else of `<stem>.npy`, under `root`."""
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root}: no such folder; needed: a folder in the published layout. {_WHERE}; {_SYNTH}"
        )
    if not exists(root, stem):
        raise FileNotFoundError(
            f"{root / stem}.h5: no such file; {needed(stem)}. {_WHERE}; {_SYNTH}"
        )
    return root / f"{stem}.h5" if (root / f"{stem}.h5").is_file() else root / f"{stem}.npy"


def find_companion(name: str, *folders: Path) -> Path | None:
    """The file `name` (Annotations.txt or planted.h5) in the first of the folders that has it."""
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def read_clip_column(folders: tuple[Path, ...], name: str) -> np.ndarray | None:
    """A column (n,) of clips.h5, which `jca-fast extract` writes; None for other data.

    Raises ValueError for a damaged file.
    """
    path = find_companion(CLIPS, *folders)
    if path is None:
        return None
    (column,) = read_h5(path, name, needed="extract the set again")
    if column.ndim != 1 or column.dtype.kind not in _CLIP_COLUMNS[name]:
        raise ValueError(
            f"{path}: found {name!r} of shape {column.shape}, {column.dtype}; extract the set again"
        )
    return column


def read_lengths(folders: tuple[Path, ...], shape: tuple[int, ...]) -> np.ndarray | None:
    """The unpadded segments of each clip from clips.h5, (n,) int64; None if no clip is padded.

    `shape` begins with the clips and segments of the features. Raises ValueError for other numbers.
    """
    found = read_clip_column(folders, "length")
    if found is None or (found == shape[1]).all():
        return None
    if found.shape != shape[:1] or not ((found >= 1) & (found <= shape[1])).all():
        raise ValueError(
            f"{find_companion(CLIPS, *folders)}: found lengths of shape {found.shape} from "
            f"{found.min()} to {found.max()}; needed: {shape[0]} from 1 to {shape[1]}"
        )
    return found.astype(np.int64)


def read_planted(
    path: Path, shape: tuple[int, ...] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """position (n, N, R), audible (n, N) and visible (n, N) of planted.h5.

    Raises ValueError for a damaged file, or if (n, N, R) is not `shape`.
    """
    position, audible, visible = read_h5(path, "position", "audible", "visible")
    if shape is not None and position.shape != shape:
        raise ValueError(f"{path}: found position of shape {position.shape}; needed: {shape}")
    if position.shape[:2] != audible.shape or audible.shape != visible.shape:
        shapes = f"{position.shape}, {audible.shape} and {visible.shape}"
        raise ValueError(
            f"{path}: found position, audible and visible of shapes {shapes}; "
            "needed: (n, N, R), (n, N) and (n, N)"
        )
    return position, audible, visible


def read_order(root: str | Path, split: str, num_clips: int | None = None) -> np.ndarray:
    """Row numbers of a split in the order of its file, (n,) int64.

    Raises ValueError for a row outside 0 .. `num_clips` - 1, if that is given.
    """
    table = Table(root, f"{split}_order")
    order = table[:].astype(np.int64)
    bad = np.flatnonzero((order < 0) | (order >= (num_clips if num_clips is not None else np.inf)))
    if bad.size:
        upper = "more"
        if num_clips is not None:
            upper = f"{num_clips - 1} (the feature files have {num_clips} rows)"
        raise ValueError(
            f"{table}: found row {order[bad[0]]} at position {bad[0]}; "
            f"needed: rows from 0 to {upper}"
        )
    return order


def require_space(folder: str | Path, num_bytes: int, purpose: str) -> None:
    """Raise OSError unless the disk of `folder` has room for `num_bytes` and 1 % more."""
    free = shutil.disk_usage(folder).free
    needed = num_bytes * 1.01
    if free < needed:
        unit, name = (1e9, "GB") if needed > 1e8 else (1e6, "MB")
        raise OSError(
            f"{folder}: {free / unit:.2f} {name} free; needed: {needed / unit:.2f} {name} "
            f"for {purpose}"
        )
