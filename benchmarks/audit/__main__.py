"""``python -m benchmarks.audit``: compile every shipped launch for six chips without a GPU and read
the machine code.

The compiled launches are listed in ``cases.py``, their limits in ``limits.py``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict

from .audit import ARCHITECTURES, audit, in_parallel, names
from .limits import Row

_HEADER = (
    f"{'sm':>3} {'case':<34} {'kernel':<25} {'tile':<16} {'regs':>4} {'smem':>6} "
    f"{'stack':>5} {'instr/el':>8} {'mufu':>5}"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Audit, print a row for each kernel, and return 1 if one breaks a limit or 2 for a bad
    request.
    """
    args = _parser().parse_args(argv)
    try:
        archs = _requested(args)
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.jobs > 1:
        rows = in_parallel(archs, args.case, args.jobs)
    else:
        rows = audit(archs, args.case, args.loops)
    broken = count = 0
    for row in rows:
        if count == 0 and not args.json:
            print(_HEADER)
        print(json.dumps(asdict(row)) if args.json else _line(row), flush=True)
        count, broken = count + 1, broken + bool(row.breaches)
    if not args.json:
        print(f"{count} kernels on {len(archs)} architectures, {broken} break a limit")
    return 1 if broken else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.audit", description=__doc__)
    add = parser.add_argument
    add(
        "--arch", default=",".join(map(str, ARCHITECTURES)), help="compute capabilities, like 80,90"
    )
    add("--case", default="", help="audit only the cases whose name contains this text")
    add("--json", action="store_true", help="print one JSON object per kernel instead of the table")
    add(
        "--jobs",
        type=int,
        default=os.cpu_count(),
        help="processes to compile in (default: all CPUs)",
    )
    add(
        "--loops",
        action="store_true",
        help="also print the instructions of each loop (with --jobs 1)",
    )
    return parser


def _requested(args: argparse.Namespace) -> list[int]:
    """The architectures to compile for; an error names the architecture or case that cannot be
    compiled.
    """
    known = ", ".join(map(str, ARCHITECTURES))
    try:
        archs = [int(a) for a in args.arch.split(",")]
    except ValueError:
        raise ValueError(
            f"--arch must be compute capabilities like 80,90; got {args.arch!r}"
        ) from None
    if unknown := [a for a in archs if a not in ARCHITECTURES]:
        raise ValueError(f"--arch must be among {known}; got {unknown[0]}")
    if importlib.util.find_spec("triton") is None:
        raise RuntimeError("triton is not installed; install it by pip install -e '.[triton]'")
    if not any(args.case in name for name in names()):
        raise ValueError(f"--case {args.case!r} is in none of: {', '.join(names())}")
    return archs


def _line(row: Row) -> str:
    per = "" if row.per_element is None else f"{row.per_element:.2f}"
    mufu = "" if row.mufu is None else f"{row.mufu:.2f}"
    text = (
        f"{row.arch:>3} {row.case:<34} {row.kernel:<25} {row.tile:<16} {row.registers:>4} "
        f"{row.shared:>6} "
        f"{row.stack:>5} {per:>8} {mufu:>5}"
    )
    return text + ("  BREACH: " + "; ".join(row.breaches) if row.breaches else "")


if __name__ == "__main__":
    raise SystemExit(main())
