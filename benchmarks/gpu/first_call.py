"""The waiting times of a first use: ``python -m benchmarks.gpu.first_call`` in a fresh process,
printed as JSON.

Import, the first layer with a named backend (Triton compiles its kernel or reads its cache), the
first layer with "auto" (the self-check, or its kept verdict), and a later call.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true")
    dry = parser.parse_args().dry_run
    seconds = {"import": _seconds(_import)}
    from benchmarks.gpu import plan, subjects, timing
    from benchmarks.gpu.measure import begin, device

    begin(plan.Options(dry=dry))
    import torch

    seconds["device"] = _seconds(lambda: torch.zeros(1, device=device()))
    data = subjects.layers(2 if dry else 64, torch.float32, device(), 1, dry)
    call = subjects.alone(subjects.fused, data)

    def layer() -> None:
        call()
        timing.wait()

    seconds["first layer"] = _seconds(layer)
    seconds["self-check"] = _seconds(lambda: _self_check(dry))
    seconds["next layer"] = _seconds(layer)
    print(json.dumps(seconds))
    return 0


def _import() -> None:
    import jca_fast.functional  # noqa: F401


def _self_check(dry: bool) -> None:
    """The check that "auto" makes before its first call in the exact tier; RuntimeError if it
    fails.
    """
    from benchmarks.gpu.subjects import BACKEND
    from jca_fast.ops.backends import find, parity, trust
    from jca_fast.ops.backends.launchers import load

    row = find(BACKEND[0])
    assert row.module is not None
    if dry:
        kernels = load(row.module)
        last = parity.with_kernels(parity.QUICK, kernels)[-1:]
        results = parity.run_checks(last, "exact", "cpu", kernels)
        problem = str([r for r in results if not r.passed] or "")
    else:
        problem = trust.caution(row.name, row.module, 0, "exact")
    if problem:
        raise RuntimeError(f"the self-check failed: {problem}")


def _seconds(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


if __name__ == "__main__":
    raise SystemExit(main())
