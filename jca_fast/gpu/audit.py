"""``jca-fast gpu-audit``: compile every shipped launch for six chips without a GPU and read the machine code.

What is compiled is listed in ``cases.py``, what is asked of it in ``bars.py``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from typing import Any

from .bars import Row, judge

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
TIERS = ("exact", "tf32", "half")
"""The one that takes longest first, so that all processes end at about the same time."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--arch", default=",".join(map(str, ARCHITECTURES)), help="compute capabilities, like 80,90"
    )
    parser.add_argument(
        "--case", default="", help="audit only the cases whose name contains this text"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object per kernel instead of the table"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count(),
        help="processes to compile in (default: all CPUs)",
    )
    parser.add_argument(
        "--loops", action="store_true", help="also print what each loop is made of (with --jobs 1)"
    )


def run(args: argparse.Namespace) -> int:
    try:
        archs = [int(a) for a in args.arch.split(",")]
    except ValueError:
        raise ValueError(
            f"--arch must be compute capabilities like 80,90; got {args.arch!r}"
        ) from None
    if unknown := [a for a in archs if a not in ARCHITECTURES]:
        raise ValueError(
            f"--arch must be among {', '.join(map(str, ARCHITECTURES))}; got {unknown[0]}"
        )
    if importlib.util.find_spec("triton") is None:
        raise RuntimeError(
            "triton is not installed; it comes with the extra of that name: pip install -e '.[triton]'"
        )
    if not any(args.case in name for name in _names()):
        raise ValueError(f"--case {args.case!r} is in none of: {', '.join(_names())}")
    broken = count = 0
    for row in (
        _in_parallel(archs, args.case, args.jobs)
        if args.jobs > 1
        else audit(archs, args.case, args.loops)
    ):
        if count == 0 and not args.json:
            print(_HEADER)
        print(json.dumps(asdict(row)) if args.json else _line(row), flush=True)
        count, broken = count + 1, broken + bool(row.breaches)
    if not args.json:
        print(f"{count} kernels on {len(archs)} architectures, {broken} break a bar")
    return 1 if broken else 0


_HEADER = (
    f"{'sm':>3} {'case':<34} {'kernel':<25} {'tile':<16} {'regs':>4} {'smem':>6} "
    f"{'stack':>5} {'instr/el':>8} {'mufu':>5}"
)


def _line(row: Row) -> str:
    per = "" if row.per_element is None else f"{row.per_element:.2f}"
    mufu = "" if row.mufu is None else f"{row.mufu:.2f}"
    text = (
        f"{row.arch:>3} {row.case:<34} {row.kernel:<25} {row.tile:<16} {row.registers:>4} {row.shared:>6} "
        f"{row.stack:>5} {per:>8} {mufu:>5}"
    )
    return text + ("  BREACH: " + "; ".join(row.breaches) if row.breaches else "")


def _names() -> list[str]:
    from .cases import cases

    return [case.name for case in cases()]


def _in_parallel(archs: list[int], only: str, jobs: int) -> Iterator[Row]:
    """:func:`audit` in ``jobs`` processes, each with one tier of one architecture at a time."""
    parts = [(arch, tier) for tier in TIERS for arch in archs]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=end_with_parent) as pool:
        for rows in pool.map(_audit_part, *zip(*parts, strict=True), [only] * len(parts)):
            yield from rows


def end_with_parent() -> None:
    """End this process as soon as the one that started it has gone, even when that one was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _audit_part(arch: int, tier: str, only: str) -> list[Row]:
    return list(audit([arch], only, tiers=(tier,)))


def audit(
    archs: Sequence[int], only: str = "", show_loops: bool = False, tiers: Sequence[str] = TIERS
) -> Iterator[Row]:
    """The rows of the audit, one for each kernel that a case's launchers start and no earlier case compiled."""
    from . import sass
    from .cases import cases

    for arch in archs:
        unique: dict[bytes, tuple[Any, Any]] = {}
        for case in cases():
            if only in case.name and case.tier in tiers:
                for item in compiled(case, arch):
                    unique.setdefault(item.cubin, (case, item))
        for (case, item), binary in zip(
            unique.values(), sass.read(list(unique), arch), strict=True
        ):
            yield judge(arch, case.name, case.tier, item, binary)
            if show_loops:
                print("\n".join(f"    {sass.most_common(loop)}" for loop in binary.loops))


def compiled(case: Any, arch: int) -> list[Any]:
    """The kernels of a case, compiled for one chip in the precision of its tier."""
    from .check import precision
    from .compile import compiling_for

    with precision(case.precision), compiling_for(arch, case.kernels) as items:
        case.start(device="cpu")
    return items
