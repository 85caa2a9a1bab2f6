"""`jca-fast visualize`: pictures of attention and predictions (the kinds of Figs. 3 and 4).

For every clip drawn:

* `<clip>_attention.png`: the audio-guided attention of each segment, over the frames if these are
  given (like Fig. 3);
* `<clip>_timeline.png`: predicted and true labels over the segments (like Fig. 4);
* `<clip>_maps.png`: the affinities C and the attention maps H of every fusion layer, and their
  saturation.

`<clip>` is `<row>_<video id>`, or `<row>` without Annotations.txt.
"""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from jca_fast.reading import user_path

EPILOG = """\
Frames: one folder for each clip, named by its video id (by its row without
Annotations.txt), holding one image for each segment, counted from 0:
FRAMES/<video id>/<segment>.jpg, .jpeg or .png, with or without leading zeros.

Clips: a number takes this number of clips from the split, in its order: first
clips whose event begins or ends inside them, one of each class. The choice does
not depend on the predictions. Otherwise a comma-separated list of video ids, of
rows written as "412:", or of the names of `jca-fast predict`, "412:<video id>";
an id that begins with a dash needs --clips=-abc.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `jca-fast visualize`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument(
        "checkpoint", type=user_path, help="a checkpoint file, or the folder of a run (its best.pt)"
    )
    parser.add_argument(
        "--data",
        type=user_path,
        required=True,
        metavar="DIR|FILE.npz",
        help="folder with the data, published or prepared, or an .npz as for predict",
    )
    parser.add_argument(
        "--split", default="test", choices=("train", "val", "test"), help="default: test"
    )
    parser.add_argument(
        "--clips", default="3", metavar="NUMBER|IDS", help="which clips, see below (default: 3)"
    )
    parser.add_argument(
        "--frames",
        type=user_path,
        metavar="DIR",
        help="folder with the frames of the clips, see below",
    )
    parser.add_argument(
        "--dpi", type=int, default=150, help="pixels per inch, 50 to 600 (default: 150)"
    )
    parser.add_argument(
        "--format",
        default="png",
        metavar="LIST",
        help="formats out of png, pdf, svg, separated by commas (default: png)",
    )
    parser.add_argument("--no-titles", action="store_true", help="omit the titles")
    parser.add_argument(
        "-o",
        "--out",
        type=user_path,
        required=True,
        metavar="DIR",
        help="folder for the pictures, which is made if missing",
    )


def run(args: argparse.Namespace) -> int:
    """Draws the pictures and prints their names."""
    from jca_fast.visualize.draw import visualize

    paths = visualize(
        args.checkpoint,
        args.data,
        args.out,
        split=args.split,
        clips=args.clips,
        frames=args.frames,
        dpi=args.dpi,
        formats=args.format.split(","),
        titles=not args.no_titles,
        say=print,
    )
    print(f"{len(paths)} pictures in {args.out}")
    return 0


def __getattr__(name: str) -> Any:
    if name != "visualize":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.draw").visualize
