"""``jca-fast verify``: the numerical check of the GPU kernels at full length, against float64 and plain PyTorch."""

from __future__ import annotations

import argparse
import os


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cuda", help="the device to check (default: cuda)")
    parser.add_argument(
        "--tier", default="", help="only this tier: exact, tf32, bfloat16 or float16"
    )
    parser.add_argument(
        "--quick", action="store_true", help="only the cases of the self-check on first use"
    )


def run(args: argparse.Namespace) -> int:
    import torch

    from .check import FULL, QUICK, TIERS, run_checks

    if args.tier and args.tier not in TIERS:
        raise ValueError(f"--tier must be one of {', '.join(TIERS)}; got {args.tier!r}")
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("no CUDA device found: there is nothing to verify")
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError(
            f"--device {device}: the kernels run on CUDA, elsewhere only under TRITON_INTERPRET=1"
        )
    failed = 0
    print(
        f"{'tier':<9} {'op':<18} {'sizes':<30} {'drop':>4} {'what':<7} {'error':>8} {'PyTorch':>8} {'bound':>8}"
    )
    for tier in [args.tier] if args.tier else TIERS:
        for result in run_checks(QUICK if args.quick else FULL, tier, device):
            case = result.case
            print(
                f"{tier:<9} {case.op:<18} {case.sizes!s:<30} {case.dropout:>4} {result.what:<7} "
                f"{result.error:>8.1e} {result.baseline:>8.1e} {result.bound:>8.1e}"
                + ("" if result.passed else "  FAILED"),
                flush=True,
            )
            failed += not result.passed
    print(f"{failed} checks failed" if failed else "all checks passed")
    return 1 if failed else 0
