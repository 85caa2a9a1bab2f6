"""Arrays on disk: lazy tables over `.h5` and `.npy` files, atomic writing, free space.

Nothing here keeps a whole feature file in memory, and a table may be pickled, forked or spawned freely: every process
opens the file for itself when it first reads a row.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

FEATURES = "avadataset"
ORDER = "order"
SPLITS = ("train", "val", "test")

# What each file of the published layout holds: dataset, number of axes (None: four or more), meaning of the axes.
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
    """What the file `<stem>.h5` of the published layout must hold, in words."""
    return f"needed: dataset {LAYOUT[stem][0]!r} of shape {LAYOUT[stem][2]}"


class Table:
    """Rows of one array on disk, `<stem>.h5` or `<stem>.npy` under `root`; `table[i]`, `table[i:j]` read just those.

    Attributes: `path`, `dataset`, `shape`, `dtype`. Raises FileNotFoundError for a missing file, and ValueError for a
    truncated one, a missing dataset, a wrong number of axes or an empty or non-numeric array.
    """

    def __init__(self, root: str | Path, stem: str):
        self.path = find(root, stem)
        self.dataset, axes, _ = LAYOUT[stem]
        self._handle: Any = None
        self._pid = -1
        rows = self._open_h5() if self.path.suffix == ".h5" else self._open_npy()
        self.shape: tuple[int, ...] = tuple(rows.shape)
        self.dtype: np.dtype = rows.dtype
        self._offset = getattr(rows, "offset", 0)  # of the values in a .npy file
        wrong_axes = len(self.shape) < 4 if axes is None else len(self.shape) != axes
        if (
            wrong_axes
            or 0 in self.shape
            or self.dtype.kind not in ("iu" if self.dataset == ORDER else "fiu")
        ):
            raise ValueError(f"{self}: found shape {self.shape}, {self.dtype}; {needed(stem)}")

    def __str__(self) -> str:
        return (
            f"{self.path}, dataset {self.dataset!r}"
            if self.path.suffix == ".h5"
            else str(self.path)
        )

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice) -> np.ndarray:
        if self.path.suffix == ".npy":
            return self._read_npy(rows)
        if (
            self._handle is None or self._pid != os.getpid()
        ):  # after a fork the parent's handle is not ours to use
            self._handle, self._pid = self._open_h5(), os.getpid()
        try:
            return self._handle[rows]
        except OSError as error:
            raise ValueError(f"{self}: rows {rows} cannot be read ({error})") from None

    def _read_npy(self, rows: int | slice) -> np.ndarray:
        # A map that lived on would count every page it ever read as memory of this process.
        try:
            return np.array(np.memmap(self.path, self.dtype, "r", self._offset, self.shape)[rows])
        except (OSError, ValueError) as error:
            raise ValueError(f"{self}: rows {rows} cannot be read ({error})") from None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}

    def row_bytes(self) -> int:
        return int(np.prod(self.shape[1:])) * self.dtype.itemsize

    def storage(self) -> str:
        """How the array lies on disk, in words: "contiguous", or chunks and compression."""
        if self.path.suffix == ".npy":
            return "contiguous"
        rows = self._open_h5()
        if rows.chunks is None:
            return "contiguous"
        return f"chunks of {rows.chunks}, " + (
            f"{rows.compression} compression" if rows.compression else "uncompressed"
        )

    def _open_h5(self) -> Any:
        import h5py

        try:
            file = h5py.File(self.path, "r")
        except OSError as error:
            size = f"{self.path.stat().st_size:,} bytes"
            raise ValueError(
                f"{self.path}: not a whole HDF5 file, {size} ({error}); {needed(self.path.stem)}"
            ) from None
        if not isinstance(file.get(self.dataset), h5py.Dataset):
            raise ValueError(
                f"{self.path}: found datasets {sorted(file) or 'none'}; {needed(self.path.stem)}"
            )
        return file[self.dataset]

    def _open_npy(self) -> np.memmap:
        try:
            rows = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(
                f"{self.path}: not a whole .npy file ({error}); {needed(self.path.stem)}"
            ) from None
        if not rows.flags.c_contiguous:
            raise ValueError(
                f"{self.path}: found an array in Fortran order; needed: C order, row after row"
            )
        return rows


def exists(root: str | Path, stem: str) -> bool:
    """Whether `<stem>.h5` or `<stem>.npy` lies under `root`."""
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


def read_order(root: str | Path, split: str, num_clips: int | None = None) -> np.ndarray:
    """Row numbers of a split in its own order, (n,) int64; checked against `num_clips` rows when given."""
    table = Table(root, f"{split}_order")
    order = table[:].astype(np.int64)
    bad = np.flatnonzero((order < 0) | (order >= (num_clips if num_clips is not None else np.inf)))
    if bad.size:
        upper = (
            f"{num_clips - 1} (the feature files have {num_clips} rows)"
            if num_clips is not None
            else "more"
        )
        raise ValueError(
            f"{table}: found row {order[bad[0]]} at position {bad[0]}; needed: rows from 0 to {upper}"
        )
    return order


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path`; on success its file is synced and takes the place of `path` in one step."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder to write {path.name} into")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: str | Path) -> None:
    """Force a file's contents to the disk."""
    with Path(path).open("rb") as file:
        os.fsync(file.fileno())


def write_h5(
    path: str | Path, attributes: dict[str, str] | None = None, /, **datasets: np.ndarray
) -> None:
    """Write small arrays as contiguous datasets of one new h5 file, atomically."""
    import h5py

    with replacing(path) as temporary, h5py.File(temporary, "w", libver="earliest") as file:
        for name, values in datasets.items():
            file.create_dataset(name, data=values)
        file.attrs.update(attributes or {})


def require_space(folder: str | Path, num_bytes: int, what: str) -> None:
    """Raise OSError unless the disk of `folder` has room for `num_bytes` more and 1 % to spare."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes * 1.01:
        raise OSError(
            f"{folder}: {free / 1e9:.2f} GB free; needed: {num_bytes * 1.01 / 1e9:.2f} GB for {what}"
        )
