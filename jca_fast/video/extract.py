"""`jca-fast extract`: turns video files into a set in the published layout."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from jca_fast import atomic
from jca_fast.reading import user_path

from . import featureset
from .outcome import Outcome
from .settings import Settings, add_flags, from_flags, load_extractor
from .sources import find_videos, shown
from .store import UNFINISHED

STORE = ".videos"
"""Folder inside the set with the features of each video, which are not computed again."""

EPILOG = """\
VIDEO is a file, a folder, a quoted glob, or a .txt file with one of these on each line.
DIR gets audio_feature.h5 and visual_feature.h5 in the published layout, clips.h5 (the video and
the start of each row) and, with --annotations, labels and order files. A second run reuses the
features in DIR/.videos and computes only new ones; delete that folder when the set is complete.
The exit status is 1 if a video could not be used; the set then holds the others.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `jca-fast extract`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument("videos", nargs="+", metavar="VIDEO")
    parser.add_argument("-o", "--out", required=True, type=user_path, metavar="DIR")
    add_flags(parser)
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16"))
    parser.add_argument(
        "--annotations", type=user_path, metavar="FILE", help="Annotations.txt: also write labels"
    )
    parser.add_argument(
        "--orders",
        type=user_path,
        metavar="DIR",
        help="take the splits from the files in DIR",
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
        featureset.make_splits([item[:2] for item in matched], orders)  # fails before any work
        paths = list(dict.fromkeys(path for _, _, path in matched))
        if missing:
            print(f"{annotations}: {len(missing)} rows have no video and are omitted", flush=True)
    extractor = load_extractor(settings)
    store = out / STORE
    store.mkdir(parents=True, exist_ok=True)
    with _alone(store):
        for leftover in store.glob(f"{UNFINISHED}*"):  # left by a run that was killed
            shutil.rmtree(leftover)
        outcomes = extract_all(paths, extractor, store, workers, progress)
        good = {o.video: o.stored for o in outcomes if o.stored}
        if good and annotations is None:
            rows = featureset.all_windows(list(good.values()), settings)
            featureset.clear(out)
            featureset.write_features(out, rows, settings, extractor.record())
        elif good and annotations is not None:
            matched = [item for item in matched if item[2] in good]
            rows = [featureset.all_windows([good[path]], settings)[0] for _, _, path in matched]
            kept = [item[:2] for item in matched]
            splits = featureset.make_splits(kept, orders)
            featureset.clear(out)
            featureset.write_features(out, rows, settings, extractor.record())
            featureset.write_labels(out, kept, splits, annotations, settings.num_segments)
    return outcomes


@contextlib.contextmanager
def _alone(store: Path) -> Iterator[None]:
    """Lock the store against a second run, which would delete what this one is writing."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(atomic.locked(store))
        except BlockingIOError:
            raise ValueError(
                f"{store.parent}: another jca-fast extract writes into it; needed: wait for it"
            ) from None
        yield


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
