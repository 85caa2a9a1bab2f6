"""The executed calls of the Triton kernels, and their judgement."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from unittest import mock

import numpy as np
import torch
from jca_fast.kernels import triton as kernels

from jca_fast.ops.backends.parity import QUICK, Case, run_checks, with_kernels

from .machine import Options
from .triton_device import emulate

CHIPS = (80, 90)
SUITE = {
    **{f"quick {case.op}": case for case in with_kernels(QUICK, kernels)},
    "long tanh_attention": Case("tanh_attention", (1, 150, 300, 10, 9, 0), 0.3),
    "long joint_coattention": Case("joint_coattention", (1, 10, 150, 140, 9, 0), 0.3),
}
"""The test suite's calls. Only the long ones enter every main loop."""
EVERY = {
    **SUITE,
    "attention": Case("tanh_attention", (2, 70, 65, 10, 9, 0)),
    "attention, shared v": Case("tanh_attention", (17, 3, 20, 5, 3, 1), 0.1),
    "attention, ones": Case("tanh_attention", (1, 1, 1, 1, 1, 1)),
    "attention, aligned": Case("tanh_attention", (2, 64, 256, 10, 32, 0), 0.3),
    "attention, wide": Case("tanh_attention", (2, 40, 70, 24, 40, 0), 0.3),
    "attention, blocked": Case("tanh_attention", (1, 40, 70, 70, 150, 1), 0.3),
    "released": Case("released_attention", (2, 10, 70, 65)),
    "released, long": Case("released_attention", (1, 10, 150, 300), 0.3),
    "layer": Case("joint_coattention", (2, 10, 64, 48, 8, 0)),
    "layer, odd": Case("joint_coattention", (3, 7, 65, 33, 9, 0), 0.3),
    "layer, aligned": Case("joint_coattention", (2, 10, 64, 192, 32, 0), 0.3),
    "layer, apart": Case("joint_coattention", (2, 7, 1, 20, 5, 0), 0.3),
    "layer, one joint": Case("joint_coattention", (2, 7, 30, 20, 5, 1), 0.3),
    "layer, two joints": Case("joint_coattention", (2, 7, 30, 40, 33, 2)),
    "layer, wide": Case("joint_coattention", (2, 13, 30, 40, 30, 0), 0.1),
    "layer, wider": Case("joint_coattention", (1, 20, 70, 40, 60, 0), 0.1),
    "affinity, two tiles": Case("joint_affinity", (3, 130, 65, 16)),
    "affinity, N = 70": Case("joint_affinity", (1, 130, 65, 70)),
    "visual, odd": Case("visual_reduction", (2, 50, 100)),
    "visual, many channels": Case("visual_reduction", (1, 3, 1500)),
}
TILES = {"chosen": None, "large": 0, "small": 2**40}
"""``table.SMALL``: up to this much work a launch takes small tiles."""


@dataclass
class Row:
    """One executed call: errors, findings, and the instructions that ran."""

    case: str
    tier: str
    chip: int
    tiles: str
    options: Options
    failures: list[str]
    findings: list[str]
    errors: dict[str, float]
    launches: int
    executed: int
    seconds: float
    covered: dict[str, tuple[str, int, str]]
    """Of each PTX text: kernel, number of instructions, and a bit for each as hexadecimal text."""

    @property
    def passed(self) -> bool:
        return not self.failures and not self.findings


def run_case(
    name: str, tier: str, chip: int, tiles: str = "chosen", options: Options | None = None
) -> Row:
    """Outputs and gradients of one call against float64, executed twice."""
    options = options or Options()
    with emulate(chip, options) as device, _poisoned(), tiled(tiles):
        results = run_checks([EVERY[name]], tier, "cpu", kernels)
    covered = {
        key: (kernel, len(bits), np.packbits(bits).tobytes().hex())
        for key, (kernel, bits) in device.covered.items()
    }
    return Row(
        name, tier, chip, tiles, options,
        failures=[f"{r.what}: {r.error:.2e} > {r.bound:.2e}" for r in results if not r.passed],
        findings=device.findings.lines(),
        errors={r.what: r.error for r in results},
        launches=len(device.executed),
        executed=sum(device.executed),
        seconds=device.seconds,
        covered=covered,
    )  # fmt: skip


@contextlib.contextmanager
def _poisoned() -> Iterator[None]:
    """New tensors hold NaN until they are written, as in PyTorch's deterministic mode."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def tiled(name: str) -> Iterator[None]:
    from jca_fast.kernels.triton import table

    if TILES[name] is None:
        yield
    else:
        with mock.patch.object(table, "SMALL", TILES[name]):
            yield


@dataclass
class Coverage:
    """The best covered compilation of a kernel for one chip in one tier."""

    kernel: str
    tier: str
    chip: int
    covered: int
    instructions: int

    @property
    def share(self) -> float:
        return self.covered / self.instructions


def coverage(rows: list[Row]) -> list[Coverage]:
    """The best covered compilation of each kernel, chip and tier over all rows."""
    bits: dict[str, np.ndarray] = {}
    best: dict[tuple[str, int, str], Coverage] = {}
    for row in rows:
        for key, (kernel, count, packed) in row.covered.items():
            new = np.unpackbits(np.frombuffer(bytes.fromhex(packed), np.uint8), count=count)
            bits[key] = bits.get(key, 0) | new
            found = Coverage(kernel, row.tier, row.chip, int(bits[key].sum()), count)
            group = kernel, row.chip, row.tier
            if group not in best or best[group].share < found.share:
                best[group] = found
    return [best[group] for group in sorted(best)]


def from_json(fields: dict) -> Row:
    return Row(**fields | {"options": Options(**fields["options"])})


def to_json(row: Row) -> dict:
    return dataclasses.asdict(row)
