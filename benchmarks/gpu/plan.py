"""The phases of a run and their time budgets. It needs no torch."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

BUDGETS = {
    "build": 20,  # the native CPU library, by CMake
    "checks": 180,  # tests, verify, sanitizers, first call, compile caches: all at once
    "kernels": 30,  # the chip's own rates, then each kernel's share of its floor
    "layers": 155,  # one and four layers, against eager PyTorch and torch.compile
    "training": 40,  # a training step of the whole network
    "visual": 35,  # the visual reduction
    "counters": 20,  # Nsight Compute, where the machine allows it
}
"""Phases in order and their seconds. Unused time of a phase goes to later ones."""
LIMIT = 480
"""Seconds of a whole run."""
TIERS = ("exact", "tf32", "bfloat16", "float16")
BATCHES = (1, 8, 64, 256)
MODES = ("default", "reduce-overhead", "max-autotune-no-cudagraphs")
"""The compared modes of torch.compile. The last is max-autotune without its CUDA graphs, so that it
can be replayed in one like ours; "reduce-overhead" keeps its own graphs.
"""


@dataclass(frozen=True)
class Options:
    """The options of a run, which its workers receive as arguments."""

    tiers: tuple[str, ...] = TIERS
    batches: tuple[int, ...] = BATCHES
    dry: bool = False
    backend: str = ""

    def arguments(self) -> list[str]:
        """The options as a worker's arguments."""
        arguments = ["--tiers", ",".join(self.tiers), "--batches", ",".join(map(str, self.batches))]
        arguments += ["--backend", self.backend] if self.backend else []
        return [*arguments, "--dry-run"] if self.dry else arguments


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="tiny shapes by Triton's interpreter: tests the script",
    )
    parser.add_argument(
        "--tiers", default=",".join(TIERS), help="precision tiers (default: all four)"
    )
    parser.add_argument(
        "--backend",
        default="",
        help="the backend to time (default: the table's first with GPU kernels)",
    )
    parser.add_argument(
        "--batches", default=",".join(map(str, BATCHES)), help="batch sizes (default: 1,8,64,256)"
    )


def options(args: argparse.Namespace) -> Options:
    """The options of parsed arguments; ValueError for an unknown tier."""
    tiers, batches = tuple(args.tiers.split(",")), tuple(map(int, args.batches.split(",")))
    if unknown := set(tiers) - set(TIERS):
        raise ValueError(
            f"--tiers must be among {', '.join(TIERS)}; got {', '.join(sorted(unknown))}"
        )
    if args.dry_run:
        batches = batches if batches != BATCHES else (64,)
    return Options(tiers, batches, args.dry_run, args.backend)


@dataclass(frozen=True)
class Row:
    """One measured case: a phase's sizes and the modes of torch.compile it is compared with."""

    name: str
    tier: str
    batch: int
    layers: int = 1
    modes: tuple[str, ...] = ()
    backward: bool = True


def rows(phase: str, options: Options) -> list[Row]:
    """The cases of a timed phase, the paper's batch first, so that a phase cut short has the
    figures of the bars.
    """
    found: dict[str, Any] = {
        "kernels": _kernels,
        "layers": _layers,
        "training": _training,
        "visual": _visual,
    }
    return found[phase](options) if phase in found else []


def _layers(options: Options) -> list[Row]:
    """float16 runs bfloat16's kernels, so it gets one row. At other sizes than the paper's,
    autotuning is left out: at 30 s for each graph it would take an hour.
    """
    found = []
    for layers in (1, 4):
        for batch in sorted(options.batches, key=lambda b: (b != 64, b)):
            for tier in options.tiers:
                if tier == "float16" and (layers, batch) != (1, 64):
                    continue
                if (
                    options.dry and layers > 1 and tier != options.tiers[0]
                ):  # the interpreter takes its time
                    continue
                modes = MODES if batch == 64 else MODES[:2] if layers == 1 else MODES[:1]
                modes = () if tier == "float16" else modes
                found.append(
                    Row(
                        f"{tier}, {layers} layer{'s' * (layers > 1)}, B={batch}",
                        tier,
                        batch,
                        layers,
                        modes,
                    )
                )
    large = [
        Row(f"{t}, 1 layer, B=1024, forward", t, 1024, backward=False)
        for t in options.tiers
        if t != "float16"
    ]
    return sorted(found + large, key=lambda row: row.batch != 64)


def _training(options: Options) -> list[Row]:
    return [
        Row(f"{tier}, B={batch}", tier, batch, 4, MODES[:1] if batch == 64 else ())
        for batch in sorted(options.batches, key=lambda b: (b != 64, b))
        for tier in options.tiers
        if tier != "float16"
    ]


def _visual(options: Options) -> list[Row]:
    """``batch`` is the number of segments; a graph of "default" is what "reduce-overhead" makes."""
    dtypes = [tier for tier in ("exact", "bfloat16") if tier in options.tiers]
    return [
        Row(f"{tier}, S={segments}", tier, segments, modes=(MODES[0], MODES[2]))
        for segments in ((3,) if options.dry else (10240, 640))
        for tier in dtypes
    ]


def _kernels(options: Options) -> list[Row]:
    batch = 1 if options.dry else 64
    found = [
        Row(f"{tier}, layer {way}, B={batch}", tier, batch, backward=way != "forward")
        for tier in options.tiers
        if tier != "float16"
        for way in ("forward", "forward+backward")
    ]
    visual = [row for row in _visual(options) if row.batch != 640]
    return found + [
        Row(f"{row.tier}, visual, S={row.batch}", row.tier, row.batch, layers=0) for row in visual
    ]


def fills(options: Options) -> list[str]:
    """The parts in which the compile cache is filled, each in a process: a phase, a tier, and the
    kind of its graphs.
    """
    kinds = ("autotune", "4", "1")
    parts = [
        f"layers {tier} {kind}" for kind in kinds for tier in options.tiers if tier != "float16"
    ]
    return [*(["layers all all"] if options.dry else parts), "visual all all", "training all all"]


def fill_rows(part: str, options: Options) -> list[tuple[Row, tuple[str, ...]]]:
    """The rows of one such part, each with the modes to compile; parts without autotuning are split
    by layers.
    """
    phase, tier, kind = part.split()
    found = []
    for row in rows(phase, options):
        parts = [
            (mode, "autotune" if mode.startswith("max") else str(row.layers)) for mode in row.modes
        ]
        wanted = tuple(mode for mode, its in parts if kind in ("all", its))
        if wanted and tier in ("all", row.tier):
            found.append((row, wanted))
    return found[:1] if options.dry else found
