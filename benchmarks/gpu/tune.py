"""Rewrites the table of launch configurations: ``python -m benchmarks.gpu.tune`` on a GPU, for that
GPU's class.

For each entry of the table every candidate tile is compiled first; one that spills or breaks
another limit of ``python -m benchmarks.audit`` is rejected. The rest are timed by replays of CUDA
graphs of the entry's cases, interleaved over rounds, and the fastest by the median is written to
``kernels/triton/configurations.py``. A winner must be 2 % faster than the present entry, so that
noise rewrites nothing.

Without a GPU, ``--arch 90`` ranks by a model instead: the latency of a pass, or the issue slots and
MUFU slots of the warps that fit on an SM, whichever is longer, times the passes of a program and
the waves of programs. It orders tiles roughly and ignores caches; use it for entries without
timings.
"""

from __future__ import annotations

import argparse
import itertools
import math
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Kernels must be compiled, and Triton reads this variable when it is imported.
    os.environ.pop("TRITON_INTERPRET", None)

from jca_fast.kernels.triton import configurations

from benchmarks.audit import audit, limits, sass
from benchmarks.audit.cases import Case, Key, cases
from benchmarks.gpu import timing
from jca_fast.atomic import write_text
from jca_fast.ops.tiers import architecture_class, precision

ENTRIES = configurations.ENTRIES
Tile = tuple[int, int, int, int]
CHIPS = {80: 108, 86: 84, 89: 128, 90: 132, 100: 148, 120: 170}
"""SMs of the largest usual chip of each compute capability."""
PASS_CLOCKS = 600
"""The least clocks of a pass over a tile: loads, two products, tanh and barriers in sequence.
"""
BETTER = 0.98


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--entries",
        default="",
        help='only entries that contain this text, like "forward/half/small"',
    )
    parser.add_argument(
        "--tiles",
        type=parsed,
        help="only these: rows x columns x warps x stages, like 32x64x4x1,32x64x8x1",
    )
    parser.add_argument(
        "--arch", type=int, choices=CHIPS, help="rank for this compute capability by the model"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count(),
        help="processes to compile in (default: all CPUs)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be written, and write nothing"
    )
    parser.add_argument(
        "--table", type=Path, default=Path(configurations.__file__), help="the file to rewrite"
    )
    args = parser.parse_args(argv)
    arch = args.arch or device_capability()
    keys = [key for key in sorted(ENTRIES) if args.entries in "/".join(key)]
    if not keys:
        raise SystemExit(
            f"--entries {args.entries!r} is in none of: "
            f"{', '.join('/'.join(k) for k in sorted(ENTRIES))}"
        )
    for key in keys:
        tiles = args.tiles or list(candidates(key))
        now = ENTRIES[key].get(architecture_class(arch), ENTRIES[key][""])
        sound = dict(filter_tiles(key, tiles, arch, args.jobs))
        costs = (
            {tile: modelled(key, rows, arch) for tile, rows in sound.items()}
            if args.arch
            else timed(key, sound)
        )
        with_tile(key, architecture_class(arch), chosen(key, now, costs))
    if not args.dry_run:
        write_text(args.table, render(ENTRIES))
        print(f"wrote {args.table}")
    return 0


def parsed(text: str) -> list[Tile]:
    """The tiles of an argument."""
    tiles = [tuple(map(int, tile.split("x"))) for tile in text.split(",")]
    if any(len(tile) != 4 for tile in tiles):
        raise argparse.ArgumentTypeError(f"a tile has four numbers, like 32x64x4x1; got {text!r}")
    return tiles  # type: ignore[return-value]


def device_capability() -> int:
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device: give --arch to rank by the model")
    major, minor = torch.cuda.get_device_capability()
    return major * 10 + minor


def candidates(key: Key) -> Iterator[Tile]:
    """Tiles of 4 to 64 elements a thread, in the accumulator that holds a tile of the affinity
    matrix.
    """
    rows = (16, 32, 64) if key[0] == "backward" else (16, 32, 64, 128)
    for tile in itertools.product(rows, (32, 64, 128), (2, 4, 8), (1, 2)):
        if 4 <= tile[0] * tile[1] / (32 * tile[2]) <= 64:
            yield tile


def filter_tiles(
    key: Key, tiles: list[Tile], arch: int, jobs: int
) -> Iterator[tuple[Tile, list[Any]]]:
    """The tiles that break no bar in any case of an entry, with the audit's rows."""
    spawn = multiprocessing.get_context("spawn")  # a fork would inherit this process's CUDA
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=audit.end_with_parent) as pool:
        for tile, rows in zip(
            tiles, pool.map(audited, [key] * len(tiles), tiles, [arch] * len(tiles)), strict=True
        ):
            if not any(row.breaches for _, row in rows):
                yield tile, rows


def audited(key: Key, tile: Tile, arch: int) -> list[tuple[Any, Any]]:
    """The launches of an entry's cases with a tile: grids of its kernels, and the audit's rows."""
    found = []
    with_tile(key, architecture_class(arch), tile)
    for case in cases_of(key):
        items = [item for item in audit.compiled(case, arch) if item.kernel in limits.TANH]
        for item, binary in zip(items, sass.read([i.cubin for i in items], arch), strict=True):
            found.append((item.grid, limits.judge(arch, case.name, case.tier, item, binary)))
            if found[-1][1].breaches:
                return found
    return found


def cases_of(key: Key) -> list[Case]:
    """The cases of an entry of the table."""
    return [case for case in cases() if case.key == key]


def with_tile(key: Key, architecture: str, tile: Tile) -> None:
    """Put a tile into this process's table."""
    ENTRIES[key] = {**ENTRIES[key], architecture: tile}


def modelled(key: Key, rows: list[tuple[Any, Any]], arch: int) -> float:
    """Microseconds at 1.7 GHz by the model, over all kernels of an entry's cases."""
    elements = {case.name: case.elements for case in cases_of(key)}
    clocks = 0.0
    for grid, row in rows:
        tile, warps = row.tile.split(" w")
        size, warps = math.prod(int(n) for n in tile.split("x")[:2]), int(warps)
        programs = math.prod(grid)
        fit = min(
            65536 // (32 * warps * -(-row.registers // 8) * 8), 100 * 1024 // max(row.shared, 1), 32
        )
        resident = min(fit, -(-programs // CHIPS[arch]))
        per_thread = size / (32 * warps)
        issue = row.per_element * per_thread if row.per_element else row.instructions / 2
        slots = resident * warps / 4 * max(issue, 8 * per_thread)
        blocks = (
            1 if row.kernel == "layer" else grid[1]
        )  # of N or D, each of which computes the matrix again
        passes = elements[row.case] * blocks / (size * programs)
        clocks += -(-programs // (CHIPS[arch] * fit)) * passes * max(PASS_CLOCKS + issue, slots)
    return clocks / 1700


def timed(key: Key, tiles: Sequence[Tile]) -> dict[Tile, float]:
    """Microseconds of an entry's cases by replays of CUDA graphs, interleaved over the tiles;
    medians, summed.
    """
    architecture, total = architecture_class(device_capability()), dict.fromkeys(tiles, 0.0)
    for case in cases_of(key):
        calls = {}
        with precision(case.precision):
            for tile in tiles:
                with_tile(key, architecture, tile)
                calls[tile] = timing.replayed(partial(case.start, device="cuda"))
        for tile, times in timing.on_device(calls).items():
            total[tile] += times["median"]
    return total


def chosen(key: Key, now: Tile, costs: dict[Tile, float]) -> Tile:
    """The tile of least cost; the present one if it is as good or if no tile keeps every bar."""
    ranking = sorted(costs, key=lambda tile: costs[tile])
    best = ranking[0] if ranking and costs[ranking[0]] < BETTER * costs.get(now, math.inf) else now
    figures = (
        ", ".join(f"{tile} {costs[tile]:.1f} us" for tile in ranking[:5])
        or "no tile keeps every bar"
    )
    print(f"{'/'.join(key)}: {now} -> {best}; {figures}", flush=True)
    return best


def render(entries: dict[Key, dict[str, Tile]]) -> str:
    """The table as Python; an architecture that has the tile of all others is left out."""
    text = Path(configurations.__file__).read_text()
    lines = [text[: text.index("{\n", text.index("ENTRIES")) + 2]]
    for key, tiles in sorted(entries.items()):
        lines.append(f"    {key!r}: {{\n".replace("'", '"'))
        own = {name: tile for name, tile in sorted(tiles.items()) if not name or tile != tiles[""]}
        lines += [f'        "{name}": {tile},\n' for name, tile in own.items()]
        lines.append("    },\n")
    return "".join([*lines, "}\n"])


if __name__ == "__main__":
    raise SystemExit(main())
