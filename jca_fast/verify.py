"""``jca-fast verify``: the full numerical check of kernels against float64 and PyTorch."""

from __future__ import annotations

import argparse
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from .ops.backends import Backend

_HEADER = (
    f"{'backend':<10} {'tier':<9} {'op':<18} {'sizes':<30} {'drop':>4} {'what':<7} {'error':>8} "
    f"{'PyTorch':>8} {'bound':>8}"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend", default="", help="only this backend (default: all with kernels for CUDA)"
    )
    parser.add_argument(
        "--device", default="", help="the device to check (default: the backend's, or cuda)"
    )
    parser.add_argument(
        "--tier", default="", help="only this tier: exact, tf32, bfloat16 or float16"
    )
    parser.add_argument(
        "--quick", action="store_true", help="only the cases of the self-check on first use"
    )


def run(args: argparse.Namespace) -> int:
    import torch

    from .ops.backends import find, on_device
    from .ops.tiers import TIERS

    if args.tier and args.tier not in TIERS:
        raise ValueError(f"--tier must be one of {', '.join(TIERS)}; got {args.tier!r}")
    row = find(args.backend) if args.backend else None
    device = torch.device(args.device or (row.device or "cpu" if row else "cuda"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("no CUDA device found: there is nothing to verify")
    rows = (row,) if row else on_device(device.type)
    if not rows:
        raise RuntimeError(f"--device {device}: no backend has kernels for it")
    tiers = [args.tier] if args.tier else [t for t in TIERS if device.type != "cpu" or t != "tf32"]
    absent = {} if row else {r.name: why for r in rows if (why := _problem(r, device))}
    if len(absent) == len(rows):
        raise RuntimeError("; ".join(absent.values()))
    rows = tuple(r for r in rows if r.name not in absent)
    for row in rows:
        _launchers(row, device)  # raises before anything is printed
    print(_HEADER)
    for why in absent.values():
        print(f"{why}: not checked")
    for row in rows:
        _print_missing(row, device)
    failed = sum(_verify(row, device, tier, args.quick) for row in rows for tier in tiers)
    print(f"{failed} checks failed" if failed else "all checks passed")
    return 1 if failed else 0


def _verify(row: Backend, device: torch.device, tier: str, quick: bool) -> int:
    """Check one backend in one tier, print a line for each comparison, and count the failures."""
    from .ops.backends import parity

    failed, launchers = 0, _launchers(row, device)
    cases = parity.with_kernels(parity.QUICK if quick else parity.FULL, launchers)
    for result in (r for case in cases for r in parity.run_checks([case], tier, device, launchers)):
        case = result.case
        print(
            f"{row.name:<10} {tier:<9} {case.op:<18} {case.sizes!s:<30} {case.dropout:>4} "
            f"{result.what:<7} {result.error:>8.1e} {result.baseline:>8.1e} {result.bound:>8.1e}"
            + ("" if result.passed else "  FAILED"),
            flush=True,
        )
        failed += not result.passed
    return failed


def _print_missing(row: Backend, device: torch.device) -> None:
    """Name the ops for which a backend has no kernels, which are not checked."""
    from .ops.backends.launchers import missing
    from .ops.library import OPS

    launchers = _launchers(row, device)
    if lacks := [name for op in OPS if (name := missing(launchers, op))]:
        print(f"{row.name:<10} has no kernel for {', '.join(lacks)}: not checked")


def _problem(row: Backend, device: torch.device) -> str:
    """Why a backend cannot run on tensors of ``device``; "" if it can."""
    try:
        _launchers(row, device)
    except RuntimeError as error:
        return str(error)
    return ""


def _launchers(row: Backend, device: torch.device) -> ModuleType:
    """The launchers of a backend; RuntimeError if they cannot run on tensors of ``device``."""
    from .ops.backends.launchers import load, problem

    if row.module and (why := problem(row.module)):
        raise RuntimeError(f"backend {row.name!r}: {why}")
    launchers = load(row.module)
    taken = getattr(launchers, "DEVICES", (row.device,))
    if row.device and device.type not in taken:
        raise RuntimeError(f"--device {device}: backend {row.name!r} runs on {' and '.join(taken)}")
    return launchers
