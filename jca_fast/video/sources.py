"""Finds the video files of a command line."""

from __future__ import annotations

import glob
import os.path
from collections.abc import Iterable, Iterator
from pathlib import Path

SUFFIXES = frozenset(
    [
        ".3gp",
        ".asf",
        ".avi",
        ".flv",
        ".m2ts",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".mxf",
        ".ogv",
        ".ts",
        ".vob",
        ".webm",
        ".wmv",
    ]
)
"""The suffixes of videos inside a folder; a file that is given by name may have any suffix."""


def find_videos(arguments: Iterable[str]) -> list[Path]:
    """Paths of the videos of files, folders, globs and lists of paths (.txt), each once.

    Folders are searched recursively. Lines of a list are paths relative to the working folder, or
    else to the folder of the list. A path that does not exist stays in the result and is reported
    with the others. Raises ValueError for an empty argument, a folder, a glob or a list without
    videos, and a list that is not UTF-8 text or names itself.
    """
    found = (path for argument in arguments for path in _expand(argument))
    return list({os.path.realpath(path): path for path in found}.values())


def shown(path: Path) -> str:
    """The path as one line of text: line breaks and bytes that are not text are escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(path))


def _expand(argument: str, lists: tuple[Path, ...] = ()) -> Iterator[Path]:
    """The videos of an argument, or of a line of `lists`, each of which names the next one."""
    if not argument.strip():
        raise ValueError("VIDEO is empty; needed: a file, a folder, a glob or a .txt file of paths")
    path = Path(argument)
    if path.is_dir():
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not inside:
            raise ValueError(
                f"{path}: no video in this folder; needed: {', '.join(sorted(SUFFIXES))}"
            )
        yield from inside
    elif path.is_file() and path.suffix.lower() == ".txt":
        yield from _listed(path, lists)
    elif not path.exists() and glob.has_magic(argument):
        matches = sorted(Path(m) for m in glob.glob(argument, recursive=True))  # noqa: PTH207
        if not matches:
            raise ValueError(f"{argument}: matches no file")
        yield from (match for match in matches if match.is_file())
    else:
        yield path


def _listed(path: Path, lists: tuple[Path, ...]) -> Iterator[Path]:
    if path.resolve() in lists:
        raise ValueError(f"{path}: this list of videos names itself")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a UTF-8 list of paths ({error})") from None
    named = list(filter(None, map(str.strip, lines)))
    if not named:
        raise ValueError(f"{path}: an empty list; needed: a path on each line")
    for line in named:
        found = line if Path(line).exists() else str(path.parent / line)
        yield from _expand(found, (*lists, path.resolve()))
