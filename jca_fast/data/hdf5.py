"""h5py, called so that HDF5 cannot crash the process.

HDF5 crashes when it cannot write: Python writes every byte to the disk, and a full disk raises
OSError. It crashes when it cannot allocate its caches: `library` asks for that memory before.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from jca_fast.atomic import naming, replacing
from jca_fast.memory import require

ROOM = 32 * 2**20
"""Bytes that must be free before HDF5 is called. Opening a file takes two or three MiB."""


def library() -> Any:
    """The module h5py, if there is memory for its work; else MemoryError."""
    require(ROOM, "reading or writing an HDF5 file")
    import h5py

    return h5py


UNREADABLE = (OSError, ValueError, RuntimeError, KeyError, TypeError, EOFError, RecursionError)
"""The errors that h5py raises for a damaged file."""


def open_h5(path: Path, needed: str = "") -> Any:
    """The file `path`, open for reading; ValueError naming it and the reason if that fails.

    A file that reads other files is refused.
    """
    h5py = library()
    try:
        file = h5py.File(path, "r")
    except BlockingIOError:
        raise ValueError(
            f"{path}: locked by another process; needed: wait until that closes the file, "
            "or set HDF5_USE_FILE_LOCKING=FALSE"
        ) from None
    except PermissionError as error:
        raise ValueError(f"{path}: cannot be opened ({error.strerror})") from None
    except UNREADABLE as error:
        size = f"{path.stat().st_size:,} bytes"
        raise ValueError(
            f"{path}: not a whole HDF5 file, {size} ({error})" + (f"; {needed}" if needed else "")
        ) from None
    _refuse_other_files(path, file)
    return file


def _refuse_other_files(path: Path, file: Any) -> None:
    """Refuse links and datasets that read other files.

    HDF5 waits for a pipe, reads a device, and takes zeros for the numbers of a missing file.
    """
    h5py = library()

    def other(name: str, link: Any) -> str | None:
        if isinstance(link, h5py.ExternalLink):
            return f"{name!r} is a link to {link.filename!r}"
        try:
            found = file.get(name) if isinstance(link, h5py.HardLink) else None
        except UNREADABLE:
            return None  # whoever opens it reports a better error
        if isinstance(found, h5py.Dataset) and (found.is_virtual or found.external):
            return f"the numbers of {name!r} are in other files"
        return None

    try:
        refused = file.visititems_links(other)
    except UNREADABLE as error:
        refused = f"its index is damaged ({error})"
    if refused:
        file.close()
        raise ValueError(f"{path}: {refused}; needed: a whole file that holds its own numbers")


def read_h5(path: Path, *names: str, needed: str = "") -> list[np.ndarray]:
    """Whole datasets of one file; ValueError naming it and the reason if one cannot be read."""
    advice = f"; {needed}" if needed else ""
    with open_h5(path, needed) as file:
        try:
            return [file[name][:] for name in names]
        except MemoryError:
            reason = "they do not fit in memory"
        except UNREADABLE as error:
            reason = str(error)
    raise ValueError(f"{path}: {', '.join(names)} cannot be read ({reason}){advice}")


def write_h5(
    path: str | Path, attributes: dict[str, str] | None = None, /, **datasets: np.ndarray
) -> None:
    """Write small arrays as contiguous datasets of one new HDF5 file, whole or not at all."""
    h5py = library()

    memory = io.BytesIO()
    with h5py.File(memory, "w", libver="earliest") as file:
        for name, values in datasets.items():
            file.create_dataset(name, data=values)
        file.attrs.update(attributes or {})
    with replacing(path) as temporary:
        temporary.write_bytes(memory.getbuffer())


class RowWriter:
    """A new HDF5 file with one contiguous dataset, written row after row in a `with` block.

    All its disk space is reserved at the start. OSError names the file `reported`, the final path.
    """

    def __init__(
        self, path: Path, dataset: str, shape: tuple[int, ...], dtype: str, reported: Path
    ) -> None:
        self.dtype, self.reported = np.dtype(dtype), reported
        header, offset = _lay_out(dataset, shape, self.dtype)
        with naming(reported):
            self._file = path.open("wb")
            try:
                os.posix_fallocate(self._file.fileno(), 0, header.size)
                for position, piece in header.pieces:
                    self._file.seek(position)
                    self._file.write(piece)
                self._file.seek(offset)
            except BaseException:
                self._file.close()
                raise

    def write(self, row: np.ndarray) -> None:
        """Append one row of the dataset."""
        with naming(self.reported):
            self._file.write(np.ascontiguousarray(row, self.dtype).data)

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with naming(self.reported):
            self._file.close()


def _lay_out(dataset: str, shape: tuple[int, ...], dtype: np.dtype) -> tuple[_Recorder, int]:
    """The bytes of a file with an empty contiguous dataset, and the offset of its values."""
    h5py = library()

    recorder = _Recorder()
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.CONTIGUOUS)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    layout.set_obj_track_times(False)
    with h5py.File(recorder, "w", libver="earliest") as file:
        kind = h5py.h5t.py_create(dtype, logical=True)
        space = h5py.h5s.create_simple(shape)
        offset = h5py.h5d.create(file.id, dataset.encode(), kind, space, layout).get_offset()
    return recorder, offset


class _Recorder:
    """A file in memory that records each write with its position, without the gaps."""

    def __init__(self) -> None:
        self.pieces: list[tuple[int, bytes]] = []
        self.size = 0
        self._position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = {
            os.SEEK_SET: 0,
            os.SEEK_CUR: self._position,
            os.SEEK_END: self.size,
        }[whence] + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self.pieces.append((self._position, piece))
        self._position += len(piece)
        self.size = max(self.size, self._position)
        return len(piece)

    def read(self, size: int = -1) -> bytes:
        raise io.UnsupportedOperation("this file is write-only")

    readinto = read

    def truncate(self, size: int) -> int:
        self.size = size
        return size

    def flush(self) -> None:
        pass
