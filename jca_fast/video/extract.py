"""`jca-fast extract`: turns video files into a set in the published layout."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jca_fast.atomic import naming_full
from jca_fast.cli import told

from . import featureset
from .decode import VideoError
from .settings import Extractor, Settings, add_flags, from_flags, load_extractor
from .sources import find_videos, shown
from .store import UNFINISHED, StoredVideo

STORE = ".videos"
"""Folder inside the set with the features of each video, which are not computed again."""

EPILOG = """\
VIDEO is a file, a folder, a quoted glob, or a .txt file with one of these on each line.
DIR gets audio_feature.h5 and visual_feature.h5 in the published layout, clips.h5 (the video and
the start of each row) and, with --annotations, labels and order files. A second run reuses the
features in DIR/.videos and computes only new ones; delete that folder when the set is complete.
The exit status is 1 if a video could not be used; the set then holds the others.
"""


@dataclass(frozen=True)
class Outcome:
    """The result of one video: its features, or the reason why there are none."""

    video: Path
    stored: StoredVideo | None
    note: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `jca-fast extract`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument("videos", nargs="+", metavar="VIDEO")
    parser.add_argument("-o", "--out", required=True, type=Path, metavar="DIR")
    add_flags(parser)
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16"))
    parser.add_argument(
        "--annotations", type=Path, metavar="FILE", help="Annotations.txt: also write labels"
    )
    parser.add_argument(
        "--orders", type=Path, metavar="DIR", help="take the splits from the order files in DIR"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes (1)")


def run(args: argparse.Namespace) -> int:
    """Extract the features and print the table; exit status 1 if a video could not be used."""
    outcomes = extract_videos(
        args.videos,
        args.out,
        from_flags(args, dtype=args.dtype),
        annotations=args.annotations,
        orders=args.orders,
        workers=args.workers,
        progress=sys.stderr.isatty(),
    )
    print(table(outcomes, args.out))
    return 0 if all(outcome.stored for outcome in outcomes) else 1


def extract_videos(
    videos: Iterable[str],
    out: str | Path,
    settings: Settings | None = None,
    *,
    annotations: Path | None = None,
    orders: Path | None = None,
    workers: int = 1,
    progress: bool = False,
) -> list[Outcome]:
    """Extract the features of videos into the folder `out`; returns the outcome of each video.

    A video that cannot be used is reported on stderr, and the others are extracted. Without
    annotations every window of every video is a clip of the set; with them, the first window of
    each annotated video. Raises ValueError or FileNotFoundError, before any work, for a bad
    argument.
    """
    from .pool import extract_all

    settings, out = settings or Settings(), Path(out)
    if workers < 1:
        raise ValueError(f"--workers is {workers}; needed: 1 or more")
    if orders is not None and annotations is None:
        raise ValueError("--orders was given without --annotations; needed: both or neither")
    paths = find_videos(videos)
    if annotations is not None:
        matched, missing = featureset.match_annotations(annotations, paths, settings.num_segments)
        paths = list(dict.fromkeys(path for _, _, path in matched))
        if missing:
            print(f"{annotations}: {len(missing)} rows have no video and are omitted", flush=True)
    extractor = load_extractor(settings)
    store = out / STORE
    store.mkdir(parents=True, exist_ok=True)
    for leftover in store.glob(f"{UNFINISHED}*"):  # left by a run that was killed
        shutil.rmtree(leftover)
    outcomes = extract_all(paths, extractor, store, workers, progress)
    good = {o.video: o.stored for o in outcomes if o.stored}
    if not good:
        return outcomes
    featureset.clear(out)
    if annotations is None:
        rows = featureset.all_windows(list(good.values()), settings)
    else:
        matched = [item for item in matched if item[2] in good]
        rows = [featureset.all_windows([good[path]], settings)[0] for _, _, path in matched]
    featureset.write_features(out, rows, settings, extractor.record())
    if annotations is not None:
        kept = [(number, event) for number, event, _ in matched]
        featureset.write_labels(out, kept, annotations, orders, settings.num_segments)
    return outcomes


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
    note = f"{stored.damaged} damaged packets skipped" if stored.damaged else ""
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


def table(outcomes: Sequence[Outcome], out: Path, most: int = 30) -> str:
    """One line for each video (of many, only for those with a note) and a line on all."""
    listed = outcomes if len(outcomes) <= most else [o for o in outcomes if o.note]
    width = min(60, max((len(shown(o.video)) for o in listed), default=0))
    lines = [f"{'video':<{width}}  segments  note"] if listed else []
    for outcome in listed:
        count = str(outcome.stored.num_segments) if outcome.stored else "-"
        name = shown(outcome.video)
        name = name if len(name) <= width else f"...{name[-width + 3 :]}"
        lines.append(f"{name:<{width}}  {count:>8}  {outcome.note}".rstrip())
    good = [outcome.stored for outcome in outcomes if outcome.stored]
    total = sum(stored.num_segments for stored in good)
    end = f"{len(good)} of {len(outcomes)} videos, {total} segments"
    return "\n".join([*lines, f"{end} -> {out}" if good else f"{end}; nothing was written"])
