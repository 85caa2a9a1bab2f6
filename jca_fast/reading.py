"""Paths and small files that users name; every error names the file."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """The text of a file; OSError or ValueError names the file and the reason."""
    try:
        with naming_unreadable(path):
            return path.read_text(encoding=encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a UTF-8 text file ({error})") from None


def read_json(path: Path) -> Any:
    """The JSON value in a file; OSError or ValueError names the file and the reason."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; ValueError for another value."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: holds a {type(value).__name__}; needed: an object")
    return value


def require_number(path: Path, content: dict[str, Any], *keys: str) -> None:
    """Raise ValueError unless the value under the keys is a finite number, not negative."""
    value: Any = content
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= sys.float_info.max:
        place = " / ".join(keys)
        raise ValueError(f"{path}: {place} is {value!r}; needed: a finite number, not negative")


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
