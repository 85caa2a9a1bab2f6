"""The command line: ``jca-fast <command>``, each command in its own module with ``add_arguments`` and ``run``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from ._version import __version__

COMMANDS = {
    "demo": (
        "jca_fast.demo",
        "make a small planted data set, train on it, score it and draw pictures",
    ),
    "doctor": (
        "jca_fast.doctor",
        "report versions, devices and which backend serves what, and why not",
    ),
    "data": ("jca_fast.data.cli", "AVE data: labels, check, prepare, synth"),
    "extract": ("jca_fast.video.extract", "turn video files into features"),
    "localize": ("jca_fast.video.localize", "find the events of a video, and show them on a page"),
    "train": ("jca_fast.training.train", "train the localizer"),
    "evaluate": ("jca_fast.training.evaluate", "score a checkpoint on a split"),
    "predict": (
        "jca_fast.training.predict",
        "write the predicted event of every segment as JSON or CSV",
    ),
    "visualize": ("jca_fast.visualize", "draw attention maps and time lines as PNG"),
    "verify": ("jca_fast.verify", "check the kernels on this device against float64"),
    "convert": ("jca_fast.compat.convert", "turn published checkpoints into safetensors and back"),
    "params": ("jca_fast.models.params", "print the parameter counts of the paper's Tables 3 to 5"),
}


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of ``jca-fast``; only the module of ``command`` is imported, the others show their summary."""
    parser = argparse.ArgumentParser(
        prog="jca-fast", description="Joint Co-Attention for audio-visual fusion."
    )
    parser.add_argument("--version", action="version", version=f"jca-fast {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, (module, summary) in COMMANDS.items():
        sub = subparsers.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + "."
        )
        if name == command:
            importlib.import_module(module).add_arguments(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a user's error is one line on stderr and exit status 2 (``JCA_FAST_DEBUG=1`` shows where)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    command = next((a for a in argv if a in COMMANDS), None)
    args = build_parser(command).parse_args(argv)
    try:
        return importlib.import_module(COMMANDS[args.command][0]).run(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output, such as "head", has gone
        sys.stderr.close()
        return 1
    except (ValueError, TypeError, RuntimeError, OSError, KeyError, ImportError) as error:
        if os.environ.get("JCA_FAST_DEBUG"):
            raise
        print(f"jca-fast {args.command}: error: {error}", file=sys.stderr)
        return 2
