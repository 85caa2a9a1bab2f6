"""`jca-fast demo --video`: renders videos, extracts features, trains, and localizes a video."""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from pathlib import Path

from jca_fast import demo

CLIPS = 200
"""The default number of videos of the planted set."""

LEAST = 16

PLANTED, PAGE = "planted", "page"

FRAMES = 4
"""Pictures of a segment; the planted videos have eight pictures per second."""


def run(args: argparse.Namespace) -> int:
    """Render, extract, train three models and localize; print a table and write demo.json."""
    args.clips = CLIPS if args.clips is None else args.clips
    demo.check(args, LEAST)
    out = Path(args.out)
    demo.claim(out)
    with demo.one_thread():
        demonstrate(args, out)
    return 0


def demonstrate(args: argparse.Namespace, out: Path) -> None:
    """Run the steps and print a line for each."""
    from .planted import CLASSES, synthesize_videos

    start = time.perf_counter()
    print(f"jca-fast demo --video in {out}, seed {args.seed}", flush=True)
    with demo.step("videos", f"{args.clips} mp4 files of 10 s, {CLASSES} events and background"):
        synthesize_videos(out / PLANTED, args.clips, seed=args.seed, overwrite=True)
    with demo.step("features", f"embedded extractor, {FRAMES} pictures a second"):
        extract_all(out)
    results = demo.train_all(out, args.epochs, args.seed)
    with demo.step("page", "a video of the test split, localized"):
        video = held_out(out)
        localize_one(video, out)
    seconds = time.perf_counter() - start
    summary = demo.summarize(results, args, demo.backends(out), seconds)
    print(demo.table(summary))
    page = out / PAGE / "index.html"
    print(f"The page of {video.name}: open {page} in a browser")
    print(f"All numbers are in {out / demo.SUMMARY}")
    demo.write_summary(out, {"status": "finished", **summary, "page": str(page)})


def extract_all(out: Path) -> None:
    """Extract the features of all rendered videos into out/data."""
    from jca_fast.data.files import ANNOTATIONS

    from .extract import extract_videos, table
    from .settings import Settings

    root = out / PLANTED
    outcomes = extract_videos(
        [str(root / "videos")],
        out / "data",
        Settings(frames_per_segment=FRAMES),
        annotations=root / ANNOTATIONS,
        orders=root,
        workers=min(2, os.cpu_count() or 1),
    )
    if not all(outcome.stored for outcome in outcomes):
        raise RuntimeError(table(outcomes, out / "data"))


def held_out(out: Path) -> Path:
    """The first video of the test split whose event is shorter than the video."""
    from jca_fast.data.ave import AVEDataset

    dataset = AVEDataset(out / "data", "test")
    assert dataset.events is not None
    events = [dataset.events[row] for row in dataset.indices.tolist()]
    length = dataset.labels.shape[1]
    chosen = next((e for e in events if 2 <= e.end - e.start < length - 2), events[0])
    return out / PLANTED / "videos" / f"{chosen.video_id}.mp4"


def localize_one(video: Path, out: Path) -> None:
    """Write the page of a video with the events of the joint model."""
    from .localize import localize_video

    with contextlib.redirect_stdout(None):
        localize_video(video, out / "both", out / PAGE, device="cpu")
