"""Paths and small files that users name; every error names the file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """The text of a file; OSError or ValueError names the file and the reason."""
    try:
        with naming_unreadable(path):
            return path.read_text(encoding=encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a UTF-8 text file ({error})") from None


def user_path(text: str | Path) -> Path:
    """The path of a text that may begin with ``~`` or ``~user``."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{text}: {error}") from None


@contextlib.contextmanager
def naming_unreadable(path: Path) -> Iterator[None]:
    """Turn a failure to read into an OSError whose line names the file and the reason."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise type(error)(f"{path}: cannot be read: {reason}") from error
