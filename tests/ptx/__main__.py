"""``python -m tests.ptx``: execute compiled Triton kernels and print errors, findings, coverage."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product

from .cases import CHIPS, EVERY, SUITE, TILES, Coverage, Row, coverage, run_case, to_json
from .machine import SCHEDULES, Options

TIERS = ("exact", "tf32", "bfloat16", "float16")
Job = tuple[str, str, int, str, Options]


def main() -> int:
    args = _arguments()
    rows = []
    for row in _rows(_jobs(args), args.jobs):
        rows.append(row)
        print(json.dumps(to_json(row)) if args.json else _line(row), flush=True)
    if not args.json:
        print("\n".join(_coverage_line(x) for x in coverage(rows)))
        print(f"{len(rows)} calls, {sum(not row.passed for row in rows)} failed")
    return int(not rows or not all(row.passed for row in rows))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.ptx", description=__doc__)
    parser.add_argument("--all", action="store_true", help="all calls, tiers and tiles")
    parser.add_argument("--case", default="", help="only calls whose name contains this text")
    parser.add_argument("--tier", type=_some_of(TIERS), help="like exact,bfloat16")
    parser.add_argument("--chip", type=_some_of(map(str, CHIPS)), help="like 80,90")
    parser.add_argument("--tiles", type=_some_of(TILES), help="like chosen,large,small")
    parser.add_argument("--schedule", default="together", choices=SCHEDULES)
    parser.add_argument(
        "--guard-bits", type=int, help="tensor cores cut their sums, with this many guard bits"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object for each call")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    args = parser.parse_args()
    if not any(args.case in name for name in (EVERY if args.all else SUITE)):
        parser.error(f"argument --case: {args.case!r} is in none of {', '.join(EVERY)}")
    return args


def _some_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """A type of argument: some of the known names, between commas."""
    known = tuple(known)

    def split(text: str) -> list[str]:
        for name in (names := text.split(",")):
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return split


def _jobs(args: argparse.Namespace) -> list[Job]:
    """The most expensive tier comes first, so that all processes end at about the same time."""
    cases = [name for name in (EVERY if args.all else SUITE) if args.case in name]
    tiers = args.tier or (TIERS if args.all else ("exact", "bfloat16"))
    tiles = args.tiles or (("chosen", "large") if args.all else ("chosen",))
    chips = [int(chip) for chip in args.chip or CHIPS]
    options = Options(schedule=args.schedule, guard_bits=args.guard_bits)
    return list(product(cases, tiers, chips, tiles, [options]))


def _rows(jobs: list[Job], processes: int) -> Iterator[Row]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        yield from pool.map(run_case, *zip(*jobs, strict=True))


def _line(row: Row) -> str:
    errors = "  ".join(f"{what} {error:.1e}" for what, error in row.errors.items())
    text = (
        f"{row.chip} {row.tier:<9} {row.tiles:<7} {row.case:<28} {errors}  "
        f"{row.launches} launches  {row.executed} instructions  {row.seconds:.1f} s"
    )
    return "\n    ".join([text, *row.failures, *row.findings])


def _coverage_line(x: Coverage) -> str:
    return f"{x.chip} {x.tier:<9} {x.kernel:<32} {x.covered} of {x.instructions} ({x.share:.1%})"


if __name__ == "__main__":
    sys.exit(main())
