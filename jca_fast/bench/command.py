"""`jca-fast bench`: jca_fast against PyTorch on this machine, as JSON and as one HTML page.

Every figure is the median over rounds in which all providers run one after the other, after a
parity check. The run takes about four minutes on two cores, or less than one minute with --quick,
at small sizes.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from jca_fast.reading import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `jca-fast bench`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = __doc__
    parser.add_argument("--quick", action="store_true", help="small sizes, less than a minute")
    parser.add_argument("--out", metavar="DIR", help="folder to write (default: runs/bench)")
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("A.json", "B.json"),
        help="do not measure: list the cases that are slower in B than in A beyond the noise of "
        "both; exit status 1 if there are any",
    )


def run(args: argparse.Namespace) -> int:
    """Measures and writes the results, or compares two of them."""
    if args.compare:
        from jca_fast.bench.compare import compare, read

        if args.quick or args.out:
            raise ValueError("--compare measures nothing; needed: omit --quick and --out")
        lines, slower = compare(*(read(user_path(path)) for path in args.compare))
        print("\n".join(lines))
        return int(slower)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler reports every start
    from jca_fast.atomic import check_folder, write_json, write_text
    from jca_fast.bench.measure import measure
    from jca_fast.bench.report import page

    out = user_path(args.out or "runs/bench")
    check_folder(out, "--out")
    out.mkdir(parents=True, exist_ok=True)
    result = measure(args.quick)
    write_json(out / "bench.json", result)
    write_text(out / "bench.html", page(result))
    print("\n".join(table(result)))
    for reason in result["disturbances"]:
        print(f"DISTURBED RUN, do not rely on it: {reason}")
    print(f"{out / 'bench.html'}, {out / 'bench.json'}")
    return 0


def table(result: dict[str, Any]) -> list[str]:
    """A line for each case: milliseconds, and the ratio with its 20th and 80th percentile."""
    width = max(map(len, result["cases"]))
    lines = [f"{'milliseconds':<{width}}  jca_fast    eager  times faster"]
    for name, case in result["cases"].items():
        ours, eager = (case["times"][provider] for provider in ("jca_fast", "eager"))
        ms = [f"{t:8.0f}" if t >= 100 else f"{t:8.3g}" for t in (ours["ms"], eager["ms"])]
        ratio = f"{eager['ratio']:.1f} ({eager['low']:.1f} to {eager['high']:.1f})"
        lines.append(f"{name:<{width}}  {ms[0]} {ms[1]}  {ratio}")
    facts = result["machine"]
    machine = f"{facts['processor']}, {facts['threads']} threads, torch {facts['torch']}"
    return [*lines, f"{machine}, kernels {facts['kernels']}"]
