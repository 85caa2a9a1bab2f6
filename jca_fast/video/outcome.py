"""The extraction of one video, and its outcome."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from jca_fast.atomic import naming_full
from jca_fast.cli import told

from .decode import VideoError
from .settings import Extractor
from .sources import shown
from .store import StoredVideo


@dataclass(frozen=True)
class Outcome:
    """The result of one video: its features, or the reason why there are none."""

    video: Path
    stored: StoredVideo | None
    note: str = ""


def extract_one(path: Path, extractor: Extractor, store: Path, threads: int = 0) -> Outcome:
    """The features of one video, from the store if that has them."""
    from .store import key, store_features

    try:
        target = store / (key(path, extractor) if path.is_file() else "none")
        if not target.is_dir():
            with naming_full(store):
                store_features(path, extractor, target, threads)
        stored = StoredVideo(target)
    except VideoError as error:
        return Outcome(path, None, str(error).removeprefix(f"{shown(path)}: "))
    except OSError as error:
        return Outcome(path, None, _first_line(error))
    except Exception as error:  # a decoder may raise anything on a damaged file
        if os.environ.get("JCA_FAST_DEBUG"):
            raise
        return Outcome(path, None, _reason(error))
    note = f"skipped packets: {stored.damaged}" if stored.damaged else ""
    return Outcome(path, stored, note)


def _reason(error: Exception) -> str:
    """One line on an unexpected error, which says if memory ran out."""
    text = told(error)
    if text.startswith("out of memory"):
        return text
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    """The first line of a message; those of HDF5 have several."""
    return str(error).split("\n")[0]
