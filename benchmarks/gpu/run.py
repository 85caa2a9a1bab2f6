"""The one GPU measurement: ``python benchmarks/gpu/run.py`` (under 8 minutes on an H200;
``--dry-run`` without a GPU).

Checks run first and in parallel; timings follow, alone on the machine. Writes
``benchmarks/results/gpu_<architecture>_<time>`` ``.json`` after every phase and a log beside it,
prints a short table at the end, and fails if anything is missing. ``--only layers,visual`` repeats
a part, and ``--backend`` measures another backend. ``--write-table`` turns the recorded runs that
passed everything into the table of architectures on which "auto" trusts the kernels, and the times
of several backends into that of the fastest ones.
"""

from __future__ import annotations

import argparse
import importlib.util
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the script runs from a plain checkout

from benchmarks.gpu import bars, build, checks, counters, plan, store, summary, trusted  # noqa: E402
from benchmarks.gpu.processes import Site  # noqa: E402

NEEDED = ("torch", "triton", "numpy", "pytest")
NOT_NEEDED = ("h5py", "tqdm", "safetensors", "matplotlib", "hypothesis")
"""Packages that the library or other tests use and this script does not need."""
DRY_PATIENCE = 4
"""Factor on the budgets in a dry run, which interprets on a small machine."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    plan.add_options(parser)
    parser.add_argument(
        "--only", default="", help=f"only these phases, of {', '.join(plan.BUDGETS)}"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of JSON and log"
    )
    parser.add_argument(
        "--commit", default="", help="the commit of this tree, where it came without its repository"
    )
    parser.add_argument(
        "--write-table", action="store_true", help="only rewrite jca_fast/ops/backends/verified.py"
    )
    args = parser.parse_args(argv)
    if args.write_table:
        return trusted.write_table(args.out)
    phases = args.only.split(",") if args.only else list(plan.BUDGETS)
    phases += (
        ["build"] if "checks" in phases and "build" not in phases else []
    )  # some tests use the native library
    if unknown := set(phases) - set(plan.BUDGETS):
        parser.error(
            f"--only must name phases of {', '.join(plan.BUDGETS)}; got "
            f"{', '.join(sorted(unknown))}"
        )
    try:
        options = plan.options(args)
    except ValueError as error:
        parser.error(str(error))
    if problem := refusal(args.dry_run):
        print(problem, file=sys.stderr)
        return 2
    (ROOT / "build").mkdir(exist_ok=True)
    if not args.dry_run:
        return measure(Site(ROOT / "build" / "gpu"), options, phases, args.out, args.commit)
    with tempfile.TemporaryDirectory(dir=ROOT / "build", prefix="gpu-dry-") as folder:
        return measure(Site(Path(folder), dry=True), options, phases, args.out, args.commit)


def refusal(dry: bool) -> str:
    """Why this machine cannot measure; prints the missing packages that only tests need."""
    missing = [name for name in (*NEEDED, *NOT_NEEDED) if importlib.util.find_spec(name) is None]
    if others := [name for name in missing if name in NOT_NEEDED]:
        print(
            f"not installed: {', '.join(others)}; this script does without, a GPU test that "
            "imports one fails"
        )
    if needed := [name for name in missing if name in NEEDED]:
        return f"cannot measure: {', '.join(needed)} is not installed"
    import torch

    if not dry and not torch.cuda.is_available():
        return "no CUDA device found: use --dry-run to test this script"
    return ""


def measure(
    site: Site, options: plan.Options, phases: list[str], out: Path, commit: str = ""
) -> int:
    """All phases in the order of the plan; the record is on disk after each of them."""
    begin, allowed = time.monotonic(), 0.0
    end_with_us(site)
    site.lay_out()
    sys.path.insert(0, str(site.folder / "site"))
    record: dict[str, Any] = {
        "passed": False,
        "complete": sorted(phases) == sorted(plan.BUDGETS) and options == plan.Options(),
        "dry run": options.dry,
        "backend": backend(options),
        "tiers": options.tiers,
        "budgets": plan.BUDGETS,
        "machine": store.machine(options.dry, commit),
        "phases": {},
    }
    facts = record["machine"]
    kind = "dry-run" if options.dry else facts["architecture"]
    name = f"gpu_{kind}_{facts['time'].replace(':', '')}"
    for phase in (p for p in plan.BUDGETS if p in phases):
        allowed += plan.BUDGETS[phase] * (DRY_PATIENCE if options.dry else 1)
        site.deadline, started = begin + allowed, time.monotonic()
        found = run_phase(phase, site, options)
        record["phases"][phase] = {"seconds": round(time.monotonic() - started, 1), **found}
        record["seconds"] = round(time.monotonic() - begin, 1)
        finish(record, phases)
        store.write(out / f"{name}.json", record)
        (out / f"{name}.log").write_text("\n\n".join(site.log))
    print(f"{summary.table(record)}\n{out / name}.json")
    return 0 if record["passed"] else 1


def backend(options: plan.Options) -> str:
    """The name of the backend that the workers measure."""
    from benchmarks.gpu import subjects

    return options.backend or subjects.BACKEND[0]


def end_with_us(site: Site) -> None:
    """Kill the children when this script gets SIGTERM or SIGINT."""

    def stop(signum: int, frame: Any) -> None:
        site.end()
        sys.exit(128 + signum)

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop)


def run_phase(phase: str, site: Site, options: plan.Options) -> dict[str, Any]:
    """One phase; its list of failures has every error."""
    try:
        if phase == "build":
            return build.native_library(site)
        if phase == "checks":
            return checks.run_checks(site, options)
        if phase == "counters":
            return counters.read(site)
        return timed(phase, site, options)
    except Exception as error:  # the phases after it still count
        return {"failures": [f"{type(error).__name__}: {error}"]}


def timed(phase: str, site: Site, options: plan.Options) -> dict[str, Any]:
    """A timed phase in a separate process; a case without a row in its result was not
    measured.
    """
    result = site.folder / f"{phase}.json"
    result.unlink(missing_ok=True)
    worker = site.module(
        "benchmarks.gpu.measure", phase, "--result", str(result), *options.arguments()
    )
    ended = checks.outcome(*site.run(phase, worker))["problem"]
    found = store.read(result)
    rows = {row["name"]: row for row in found.setdefault("rows", [])}
    failures = [ended] if ended else []
    for row in plan.rows(phase, options):
        problem = rows[row.name].get("failed") if row.name in rows else bars.ABSENT
        failures += [f"{row.name}: {problem}"] if problem else []
    return {**found, "failures": failures}


def finish(record: dict[str, Any], phases: list[str]) -> None:
    """Complete the record of the run so far; a phase that has not run has not passed."""
    done = record["phases"]
    record["failures"] = [
        f"{name}: {text}" for name, found in done.items() for text in found["failures"]
    ]
    record["failures"] += [f"{name}: {bars.ABSENT}" for name in phases if name not in done]
    record["verdicts"] = bars.verdicts(done, record["dry run"])
    record["passed"] = not record["failures"]


if __name__ == "__main__":
    raise SystemExit(main())
