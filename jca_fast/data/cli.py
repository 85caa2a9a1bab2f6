"""The commands `jca-fast data labels`, `check`, `prepare`, `split` and `synth`."""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import sys
import time
from pathlib import Path

from jca_fast.reading import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the five commands and their options to `parser`."""
    commands = parser.add_subparsers(
        dest="data_command", metavar="labels|check|prepare|split|synth", required=True
    )
    add = functools.partial(commands.add_parser, allow_abbrev=False)
    _add_labels(add("labels", help="rebuild label files from Annotations.txt"))
    _add_check(add("check", help="find missing, damaged and inconsistent files of a data folder"))
    _add_prepare(
        add("prepare", help="turn the features into a memory-mapped float32 or float16 cache")
    )
    _add_split(add("split", help="write the order files from lists of clips or from ratios"))
    _add_synth(add("synth", help="make a planted set in the published layout"))


def run(args: argparse.Namespace) -> int:
    """Run the chosen command; returns the exit status."""
    commands = {
        "labels": _labels,
        "check": _check,
        "prepare": _prepare,
        "split": _split,
        "synth": _synth,
    }
    return commands[args.data_command](args)


def _add_labels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "annotations", type=user_path, help="Annotations.txt: category&video id&quality&start&end"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=user_path,
        default=Path("labels.h5"),
        help="labels by segment",
    )
    parser.add_argument(
        "--mil",
        type=user_path,
        metavar="FILE",
        help="also write the labels by clip",
    )
    parser.add_argument(
        "--foreground",
        type=user_path,
        metavar="FILE",
        help="also write whether each segment has an event (labels_closs.h5)",
    )
    parser.add_argument("--segments", type=int, default=10, help="segments in a clip (10)")


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=user_path)
    parser.add_argument(
        "--full",
        action="store_true",
        help="examine every value, and verify the checksums of a cache",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=user_path, help="the set in the published layout")
    parser.add_argument(
        "--out",
        type=user_path,
        help="folder of the cache (FOLDER/prepared, which AVEDataset finds)",
    )
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a cache of another source or dtype"
    )


def _add_split(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", type=user_path, help="folder with Annotations.txt, which gets the order files"
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--lists",
        type=user_path,
        metavar="DIR",
        help="folder with trainSet.txt, valSet.txt and testSet.txt, as published with AVE",
    )
    source.add_argument(
        "--ratios",
        type=float,
        nargs=3,
        metavar=("TRAIN", "VAL", "TEST"),
        help="shares of the videos, such as 80 10 10, drawn at random for each class",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random draw (0)")
    parser.add_argument("--segments", type=int, default=10, help="segments in a clip (10)")
    parser.add_argument("--overwrite", action="store_true", help="replace existing order files")


def _add_synth(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", type=user_path)
    clip = parser.add_mutually_exclusive_group().add_argument
    clip("--num-clips", type=int, metavar="N", help="make N clips (600)")
    clip("--videos", type=int, metavar="N", help="render N video files instead of features")
    clip(
        "--annotations",
        type=user_path,
        metavar="FILE",
        help="make the clips of Annotations.txt",
    )
    add(
        "--orders",
        type=user_path,
        metavar="DIR",
        help="take the splits from the files in DIR",
    )
    add("--num-noisy", type=int, default=0, metavar="N", help="also N background clips (0)")
    add("--seed", type=int, default=0)
    add(
        "--dtype", choices=["float64", "float32"], default="float64", help="dtype on disk (float64)"
    )
    add(
        "--segments",
        dest="num_segments",
        type=int,
        default=10,
        metavar="N",
        help="segments of a clip (10)",
    )
    add(
        "--grid",
        type=int,
        nargs=2,
        default=[7, 7],
        metavar=("ROWS", "COLUMNS"),
        help="grid of regions (7 7)",
    )
    add("--audio-dim", type=int, default=128, metavar="D", help="audio channels (128)")
    add("--visual-dim", type=int, default=512, metavar="D", help="visual channels (512)")
    add(
        "--difficulty",
        choices=["standard", "hard"],
        default="standard",
        help="preset of the next three options; hard suits ablations (standard)",
    )
    add("--noise", type=float, help="scale of the noise; more is harder (1; hard: 1.15)")
    add("--distractors", type=int, metavar="N", help="silent objects, 0 to 3 (2; hard: 3)")
    add("--offscreen", type=float, help="share of clips with a second sound (0.5; hard: 1)")
    add(
        "--full-length",
        type=float,
        default=0.4,
        help="share of generated events of full length (0.4)",
    )
    add("--classes", type=int, default=8, metavar="N", help="classes of the videos, 4 to 28 (8)")
    add("--overwrite", action="store_true", help="replace the set in FOLDER")


def _labels(args: argparse.Namespace) -> int:
    from . import files
    from .annotations import foreground_labels, mil_labels, read_annotations, segment_labels

    if args.segments < 1:
        raise ValueError(f"--segments is {args.segments}; needed: 1 or more")
    events = read_annotations(args.annotations, args.segments)
    wanted = {
        args.output: segment_labels(events, args.segments),
        args.mil: mil_labels(events),
        args.foreground: foreground_labels(events, args.segments),
    }
    for path, values in wanted.items():
        if path is not None:
            files.write_h5(path, avadataset=values)
            print(f"{path}: {values.shape} {values.dtype}, dataset 'avadataset'")
    return 0


def _check(args: argparse.Namespace) -> int:
    from .checks import check

    findings = check(args.folder, full=args.full, progress=args.full and sys.stderr.isatty())
    errors = sum(finding.level == "error" for finding in findings)
    if args.json:
        listed = [vars(finding) for finding in findings]
        print(
            json.dumps({"folder": str(args.folder), "errors": errors, "findings": listed}, indent=2)
        )
    else:
        print(*findings, sep="\n")
        print(f"{args.folder}: {errors or 'no'} error{'s' * (errors != 1)}")
    return 1 if errors else 0


def _prepare(args: argparse.Namespace) -> int:
    from .cache import FOLDER
    from .prepare import prepare

    out = args.out or args.folder / FOLDER
    for report in prepare(
        args.folder,
        out,
        dtype=args.dtype,
        overwrite=args.overwrite,
        progress=sys.stderr.isatty(),
    ):
        print(report)
    print(f"{out}: {sum(path.stat().st_size for path in out.iterdir()) / 1e9:.2f} GB, ready")
    return 0


def _split(args: argparse.Namespace) -> int:
    from .splits import write_splits

    splits = write_splits(
        args.folder,
        lists=args.lists,
        ratios=args.ratios,
        seed=args.seed,
        num_segments=args.segments,
        overwrite=args.overwrite,
    )
    for split, order in splits.items():
        print(f"{args.folder / f'{split}_order.h5'}: {len(order)} clips")
    return 0


def _synth(args: argparse.Namespace) -> int:
    if args.videos is not None:
        return _synth_videos(args)
    from .synthetic import synthesize

    started = time.monotonic()
    settings = {
        name: value
        for name, value in vars(args).items()
        if name not in ("command", "data_command", "folder", "videos", "classes")
    }
    synthesize(args.folder, **{**settings, "grid": tuple(args.grid)}, progress=sys.stderr.isatty())
    size = sum(path.stat().st_size for path in args.folder.iterdir())
    print(f"{args.folder}: {size / 1e9:.2f} GB in {time.monotonic() - started:.1f} s")
    return 0


def _synth_videos(args: argparse.Namespace) -> int:
    started = time.monotonic()
    for name, default in {
        "orders": None,
        "num_noisy": 0,
        "dtype": "float64",
        "grid": [7, 7],
        "audio_dim": 128,
        "visual_dim": 512,
        "difficulty": "standard",
        "noise": None,
    }.items():
        if getattr(args, name) != default:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} concerns features; needed: omit it with --videos")
    planted = importlib.import_module("jca_fast.video.planted")
    names = ("classes", "num_segments", "seed", "distractors", "offscreen", "full_length")
    given = {name: getattr(args, name) for name in (*names, "overwrite")}
    settings = {name: value for name, value in given.items() if value is not None}
    planted.synthesize_videos(args.folder, args.videos, **settings, progress=sys.stderr.isatty())
    size = sum(path.stat().st_size for path in (args.folder / planted.FOLDER).iterdir())
    seconds = time.monotonic() - started
    print(f"{args.folder}: {args.videos} videos, {size / 1e6:.1f} MB in {seconds:.1f} s")
    return 0
