"""Fill the compile caches for the timed phases: ``python -m benchmarks.gpu.fill layers bfloat16
autotune``.

Other work beside it does no harm: the autotuner compares the fastest of many runs.
"""

from __future__ import annotations

import argparse

from benchmarks.gpu import plan, subjects
from benchmarks.gpu.measure import attempt, begin, device, precision_dtype
from benchmarks.gpu.training import subjects as steps


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs=3)
    plan.add_options(parser)
    args = parser.parse_args()
    options, failed = plan.options(args), 0
    begin(options)
    for row, modes in plan.fill_rows(" ".join(args.part), options):
        found = attempt(lambda row, modes=modes: _compile(args.part[0], row, modes, options), row)
        print(row.name, *modes, found, flush=True)
        failed += "failed" in found
    return 1 if failed else 0


def _compile(
    phase: str, row: plan.Row, modes: tuple[str, ...], options: plan.Options
) -> dict[str, str]:
    """Call once everything that the phase will time."""
    dtype = precision_dtype(row.tier)
    if phase == "training":
        for call in steps(
            1 if options.dry else row.batch, dtype, device(), options.dry, modes
        ).values():
            call()
        return {}
    for mode in modes:
        if phase == "layers":
            data = subjects.layers(row.batch, dtype, device(), row.layers, options.dry)
            subjects.pin(subjects.leaves(data))
            forward = subjects.compiled(mode, subjects.plain, options.dry)
            calls = [subjects.alone(forward, data), subjects.with_backward(forward, data)]
        else:
            data = subjects.visual_reduction_arguments(row.batch, dtype, device(), options.dry)
            reduce = subjects.compiled(mode, subjects.plain_visual_reduction, options.dry)
            calls = [subjects.alone(reduce, data)]
            calls += [
                subjects.visual_reduction_with_backward(reduce, data, frozen)
                for frozen in (True, False)
            ]
        for call in calls:
            call()
    return {}


if __name__ == "__main__":
    raise SystemExit(main())
