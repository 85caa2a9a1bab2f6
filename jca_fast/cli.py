"""The command line ``jca-fast <command>``. The module of each command has ``add_arguments`` and
``run``.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from ._version import __version__
from .memory import require, reserve_blas

COMMANDS = {
    "demo": (
        "jca_fast.demo",
        "make a small planted data set, train on it, score it and draw pictures",
    ),
    "doctor": (
        "jca_fast.doctor",
        "report versions, devices and backends, and reasons why a backend cannot run an op",
    ),
    "data": ("jca_fast.data.cli", "AVE data: labels, check, prepare, split, synth"),
    "extract": ("jca_fast.video.extract", "turn video files into features"),
    "localize": ("jca_fast.video.localize", "find the events of a video, and show them on a page"),
    "train": ("jca_fast.training.train", "train the localizer"),
    "ablate": ("jca_fast.training.ablate", "train every row of a table of the paper"),
    "evaluate": ("jca_fast.training.evaluate", "score a checkpoint on a split"),
    "predict": (
        "jca_fast.training.predict",
        "write the predicted event of every segment as JSON or CSV",
    ),
    "visualize": ("jca_fast.visualize", "draw attention maps and time lines"),
    "bench": ("jca_fast.bench.command", "measure against PyTorch on this machine, as a page"),
    "verify": ("jca_fast.verify", "check the kernels on this device against float64"),
    "convert": ("jca_fast.compat.convert", "turn published checkpoints into safetensors and back"),
    "params": ("jca_fast.models.params", "print the parameter counts of the paper's Tables 3 to 5"),
}


ROOM = 704 * 2**20
"""Bytes that must be free at the start. PyTorch takes 570 MiB at its import, or may crash."""

OUT_OF_MEMORY = (
    "bad_alloc",
    "allocate memory",
    "failed to map segment",  # of a library
    "could not create a primitive",  # of oneDNN, which gives no reason
    "could not create a memory",
    "could not execute a primitive",
    "can't start new thread",
    "error return without exception set",  # of Python, which has lost a MemoryError
    "codec configuration error",  # of Pillow, whose encoder got no memory
)
"""Parts of the messages of the system and of libraries when memory runs out."""


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of ``jca-fast``; only the module of ``command`` is imported."""
    parser = argparse.ArgumentParser(
        prog="jca-fast",
        description="Joint Co-Attention for audio-visual fusion.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"jca-fast {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, (module, summary) in COMMANDS.items():
        sub = subparsers.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            allow_abbrev=False,
        )
        if name not in ("data", "params"):
            sub.add_argument(
                "--threads", type=_count, help="CPU threads of PyTorch and the kernels"
            )
        if name == command:
            importlib.import_module(module).add_arguments(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    An error is printed as one line on stderr, with exit status 2 (``JCA_FAST_DEBUG=1`` raises it).
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    command = next((a for a in argv if a in COMMANDS), None)
    try:
        require(ROOM, "every command")
        args = build_parser(command).parse_args(argv)
        set_threads(getattr(args, "threads", None))
        module = importlib.import_module(COMMANDS[args.command][0])
        reserve_blas()
        return module.run(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of the output, such as "head", has ended
        sys.stderr.close()
        return 1
    except (
        ValueError,
        TypeError,
        RuntimeError,
        OSError,
        KeyError,
        ImportError,
        MemoryError,
        SystemError,
    ) as error:
        if os.environ.get("JCA_FAST_DEBUG"):
            raise
        print(f"jca-fast {command}: error: {told(error)}", file=sys.stderr)
        return 2


def told(error: BaseException) -> str:
    """An error as one line of at most 600 printable characters, which says if memory ran out."""
    text = str(error).split("\nException raised from")[0].split("\nC++ CapturedTraceback")[0]
    line = " ".join(text[:100_000].split())
    line = "".join(c if c.isprintable() else "?" for c in line)
    if isinstance(error, MemoryError) or any(sign in line for sign in OUT_OF_MEMORY):
        line = f"out of memory: {line}".removesuffix(": ")
    return line if len(line) <= 600 else f"{line[:400]} ... {line[-190:]}"


def set_threads(count: int | None) -> None:
    """Set up the threads of OpenMP, if possible before torch loads it.

    Waiting threads sleep instead of spinning, unless OMP_WAIT_POLICY is set: on a machine with
    other work, spinning threads take cores from threads that compute.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if count is None:
        return
    os.environ["OMP_NUM_THREADS"] = str(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 4096:
        raise argparse.ArgumentTypeError(f"expected 1 to 4096, got {text!r}")
    return int(text)
