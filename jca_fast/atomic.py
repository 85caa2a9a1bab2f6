"""Writes files atomically: a file appears whole and on the disk, or the old file is unchanged."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
TEMPORARY = ".*.tmp"
"""The pattern of temporary files; the holder of a folder's lock may delete those in it."""
SCRATCH = ".scratch."
LOCK = ".lock"
"""The file that processes lock in a folder that one of them may use at a time."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_NO_ANONYMOUS_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)


@contextlib.contextmanager
def replacing(path: str | Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary path to write to; the file written there replaces `path` in one step.

    When the block ends, the file and its folder are synced (unless `durable` is false) and the file
    is renamed to `path`. It has the mode of the file it replaces, or the mode that the umask gives.
    If the block or the disk fails, the old file is intact and no temporary file remains.

    The temporary file has no name if the file system allows that. Then a killed process leaves no
    file, except in the instant in which a whole file has a temporary name before it replaces an
    older one. Otherwise it is a new file beside `path` with a random name (`TEMPORARY`). In both
    cases an attacker cannot redirect the writing by a link. The path is valid in this process only,
    and the writer must write to the file that exists there, not replace it.

    Raises FileNotFoundError for a missing folder and OSError naming `path` and the reason for any
    failure to write. Other errors from the block, such as ValueError, pass unchanged.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder to write {path.name} into")
    if path.exists() and not path.is_file():
        raise OSError(f"{path}: not a regular file; needed: the name of a file to write")
    with naming(path), _opened(path.parent, _FOLDER) as folder, _temporary(folder) as temporary:
        descriptor, name, written = temporary
        if path.exists():
            os.fchmod(descriptor, stat.S_IMODE(path.stat().st_mode))
        yield written or path.with_name(name)
        if durable:
            os.fsync(descriptor)
        _put(written, name, path.name, folder)
        if durable:
            os.fsync(folder)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all; NaN and infinity raise ValueError."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def check_folder(path: Path, flag: str) -> None:
    """Raise OSError, which names the flag, unless `path` is a folder or can become one."""
    nearest = next(place for place in (path, *path.parents) if place.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(f"{flag} {path}: {nearest} is a file; needed: a folder to write")


def check_writable(path: Path, flag: str) -> None:
    """Raise OSError, which names the flag, unless `path` is or can become a file."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{flag} {path}: no such folder {path.parent}")
    if path.exists() and not path.is_file():
        raise OSError(f"{flag} {path}: not a regular file; needed: the name of a file to write")


def sync(path: str | Path) -> None:
    """Force the contents of a file, or the names in a folder, to the disk."""
    with naming(Path(path)), _opened(Path(path), os.O_RDONLY) as descriptor:
        os.fsync(descriptor)


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A new folder inside `folder`, deleted after the block. Leftovers of killed runs are deleted
    too. An error of a full disk names `folder`.
    """
    for leftover in folder.glob(f"{SCRATCH}*"):
        with contextlib.suppress(BlockingIOError, FileNotFoundError), locked(leftover):
            shutil.rmtree(leftover)
    with (
        naming_full(folder),
        tempfile.TemporaryDirectory(dir=folder, prefix=SCRATCH) as name,
        locked(Path(name)),
    ):
        yield Path(name)


@contextlib.contextmanager
def exclusive(folder: Path, taken: Exception) -> Iterator[None]:
    """Make `folder` and lock it; raise `taken` if another process has locked it.

    The lock ends with the process, its file stays. A file system without locks lets every process
    in.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    _held.add(lock)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise taken from None
        except OSError:
            pass
        yield
    finally:
        if lock in _held:
            _held.remove(lock)
            os.close(lock)


_held: set[int] = set()


def _leave_locks() -> None:
    """Close the locks in a forked process: a worker of a loader may outlive its parent."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_leave_locks)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder; BlockingIOError if another process has locked it."""
    with _opened(folder, _FOLDER) as held:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _temporary(folder: int) -> Iterator[tuple[int, str, Path | None]]:
    """A new file: its descriptor, its name in `folder`, and its path as long as it has no name."""
    name = f".{os.urandom(16).hex()}.tmp"
    descriptor = _anonymous(folder)
    written = None if descriptor is None else Path(f"/proc/self/fd/{descriptor}")
    if descriptor is None:
        descriptor = os.open(name, _NEW, 0o666, dir_fd=folder)
    try:
        yield descriptor, name, written
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
        raise
    finally:
        os.close(descriptor)


def _put(written: Path | None, name: str, final: str, folder: int) -> None:
    """Give a whole file its final name. A new file never has another name."""
    if written:
        try:
            os.link(written, final, dst_dir_fd=folder)
            return
        except FileExistsError:
            os.link(written, name, dst_dir_fd=folder)
    os.replace(name, final, src_dir_fd=folder, dst_dir_fd=folder)


def _anonymous(folder: int) -> int | None:
    """A file without a name on the disk of `folder`; None if the system has no such files."""
    if not hasattr(os, "O_TMPFILE") or not Path("/proc/self/fd").is_dir():
        return None
    try:
        return os.open(".", os.O_TMPFILE | os.O_RDWR, 0o666, dir_fd=folder)
    except OSError as error:
        if error.errno in _NO_ANONYMOUS_FILES:
            return None
        raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn a failure to write into an OSError whose line names the file and the reason."""
    try:
        yield
    except Exception as error:
        cause = _cause(error)
        if not isinstance(cause, OSError | RuntimeError):
            raise
        reason = getattr(cause, "strerror", None) or str(cause).split("\n")[0]
        kind = type(cause) if isinstance(cause, OSError) else OSError
        failure = kind(f"{path}: cannot be written: {reason or type(cause).__name__}")
        failure.errno = getattr(cause, "errno", None)
        raise failure from error


@contextlib.contextmanager
def naming_full(folder: Path) -> Iterator[None]:
    """Name the folder in an error of a full disk or of a limit; other errors pass unchanged."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL or ": cannot be written" in str(error):
            raise
        with naming(folder):
            raise


def _cause(error: BaseException) -> BaseException:
    """The system's error behind an error of a writer such as torch.save."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError):
            return link
        link = link.__cause__ or link.__context__
    return error
