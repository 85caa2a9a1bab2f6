"""``python -m tests.ptx.faults``: break kernels and the executor, and count the findings.

* A synchronisation that runs is left out of a kernel, one at a time. It is *found* if the executor
  reports something, *wrong* if only the result differs, else *missed*.
* The executor gives the tensor cores a wrong fragment. Triton knows the layouts independently, so
  results must become wrong.
"""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from unittest import mock

import numpy as np

from . import tensor_cores
from .cases import EVERY, run_case, run_checks, tiled
from .formats import Array
from .machine import Launch, Machine, Options
from .memory import Findings, KernelError
from .triton_device import emulate

SYNCHRONISATIONS = ("bar.sync", "bar.warp.sync", "cp.async.wait_group", "cp.async.wait_all",
                    "fence.proxy.async.shared::cta", "wgmma.wait_group.sync.aligned")  # fmt: skip
KERNELS = {80: "layer, aligned", 90: "layer, aligned"}
"""For each chip, the call whose kernels lose their synchronisations."""


def synchronisations(chip: int, name: str, tier: str = "bfloat16") -> dict[str, dict[str, int]]:
    """For each omitted instruction: the number of found, wrong and missed faults."""
    counts: dict[str, Counter[str]] = {}
    for launch in _launches(chip, name, tier):
        before = launch.arena.bytes.copy()
        machine = Machine(launch, Options(), Findings())
        covered = machine.run().covered
        after = launch.arena.bytes.copy()
        for i, ins in enumerate(launch.kernel.code):
            if covered[i] and ins.opcode in SYNCHRONISATIONS:
                launch.arena.bytes[:] = before
                outcome = _without(machine, i, after)
                counts.setdefault(ins.opcode, Counter())[outcome] += 1
    return {opcode: dict(count) for opcode, count in counts.items()}


def _launches(chip: int, name: str, tier: str) -> list[Launch]:
    from jca_fast.kernels import triton as kernels

    with emulate(chip) as device, tiled("large"):  # only they copy asynchronously
        device.launches = []
        run_checks([EVERY[name]], tier, "cpu", kernels)
    return device.launches[: len(device.launches) // 2]  # each call is made twice


def _without(machine: Machine, place: int, right: Array) -> str:
    """Judge a launch in which one instruction never runs."""
    machine.findings.counts.clear()
    ins, _, run = kept = machine.program[place]
    machine.program[place] = ins, lambda: np.False_, run
    try:
        machine.run()
    except KernelError:
        return "found"
    finally:
        machine.program[place] = kept
    if machine.findings.counts:
        return "found"
    return "missed" if np.array_equal(machine.launch.arena.bytes, right) else "wrong"


def _swap_left_registers(k: int, per: int, warps: int = 1) -> tensor_cores.Places:
    rows, columns = LEFT(k, per, warps)
    return rows[:, [0, 2, 1, 3]], columns[:, [0, 2, 1, 3]]


def _swap_right_registers(k: int, per: int) -> tensor_cores.Places:
    rows, columns = RIGHT(k, per)
    return rows[:, ::-1], columns[:, ::-1]


def _swap_halves(k: int, per: int, warps: int = 1) -> tensor_cores.Places:
    rows, columns = LEFT(k, per, warps)
    return rows[..., ::-1], columns[..., ::-1]


def _transpose_lanes(k: int, per: int) -> tensor_cores.Places:
    rows, columns = RIGHT(k, per)
    order = np.arange(32) % 4 * 8 + np.arange(32) // 4
    return rows[order], columns[order]


def _swap_two_lanes(k: int, per: int, warps: int = 1) -> tensor_cores.Places:
    rows, columns = (x.copy() for x in LEFT(k, per, warps))
    for x in (rows, columns):
        x[[5, 6], 0] = x[[6, 5], 0]
    return rows, columns


LEFT, RIGHT = tensor_cores.left_places, tensor_cores.right_places
FRAGMENTS = {
    "registers 1 and 2 of A exchanged": ("left_places", _swap_left_registers),
    "registers of B exchanged": ("right_places", _swap_right_registers),
    "halves of A exchanged": ("left_places", _swap_halves),
    "lanes of B transposed": ("right_places", _transpose_lanes),
    "two lanes of A exchanged in one register": ("left_places", _swap_two_lanes),
}


def fragments(name: str = "quick tanh_attention", tier: str = "float16") -> dict[str, float]:
    """The error of a call's output under each wrong fragment, and with the right ones."""
    errors = {"right": run_case(name, tier, 80).errors["out"]}
    for what, (function, wrong) in FRAGMENTS.items():
        with mock.patch.object(tensor_cores, function, wrong):
            errors[what] = run_case(name, tier, 80).errors["out"]
    return errors


def main() -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        wrong = pool.submit(fragments)
        broken = {chip: pool.submit(synchronisations, chip, name) for chip, name in KERNELS.items()}
        removed = {f"sm_{chip}": future.result() for chip, future in broken.items()}
        print(json.dumps({"removed": removed, "fragments": wrong.result()}, indent=1))


if __name__ == "__main__":
    main()
