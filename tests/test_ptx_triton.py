"""The compiled Triton kernels, executed instruction by instruction: errors, findings and coverage.

This process interprets Triton, so ``python -m tests.ptx`` compiles and executes them in another
process.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from tests.ptx.cases import CHIPS, SUITE, Row, coverage, from_json

TIERS = ("exact", "bfloat16")
LEAST_COVERAGE = 0.95
ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.timeout(1800)  # the first time kernels compile; later they are cached


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@functools.cache
def rows(tier: str, chip: int) -> dict[str, Row]:
    done = run("tests.ptx", "--tier", tier, "--chip", str(chip), "--json")
    found = [from_json(json.loads(line)) for line in done.stdout.splitlines()]
    assert len(found) == len(SUITE), done.stderr
    return {row.case: row for row in found}


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("case", SUITE)
def test_results_are_right_and_nothing_is_found(case, tier, chip):
    row = rows(tier, chip)[case]
    assert row.launches >= 4
    assert not row.findings
    assert not row.failures


@pytest.mark.parametrize("guard_bits", [2, 1, 0])
def test_the_exact_tier_keeps_its_bound_when_tensor_cores_cut_their_sums(guard_bits):
    """Tensor cores do not round their sums; how many bits they keep differs from chip to chip."""
    calls = "--tier", "exact", "--chip", "80", "--case", "quick tanh_attention"
    done = run("tests.ptx", *calls, "--guard-bits", str(guard_bits))
    assert done.returncode == 0, done.stdout + done.stderr


def test_nearly_every_instruction_runs(capsys):
    """An instruction that never ran has not been checked. Those left out are behind bounds."""
    every = [row for tier in TIERS for chip in CHIPS for row in rows(tier, chip).values()]
    found = coverage(every)
    with capsys.disabled():
        print("\ninstructions that ran, of the best covered compilation of each kernel:")
        for x in found:
            text = f"{x.covered} of {x.instructions} ({x.share:.1%})"
            print(f"  sm_{x.chip} {x.tier:<9} {x.kernel:<32} {text}")
    assert len(found) == len(TIERS) * len(CHIPS) * len({x.kernel for x in found})
    assert min(x.share for x in found) >= LEAST_COVERAGE


@functools.cache
def faults() -> dict:
    done = run("tests.ptx.faults")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


NOTICED = {
    "sm_80": {"bar.sync": 0.8, "cp.async.wait_group": 1.0},
    "sm_90": {
        "bar.sync": 0.7,
        "cp.async.wait_group": 0.7,
        "fence.proxy.async.shared::cta": 0.3,
        "wgmma.wait_group.sync.aligned": 0.7,
    },
}
"""The least share that must be noticed. The others are redundant in these calls: fences with no
write since the last one, barriers between writes to different places, waits whose data is not
used."""


def test_a_missing_synchronisation_is_noticed(capsys):
    removed = faults()["removed"]
    with capsys.disabled():
        print("\nsynchronisations left out, one at a time:")
        for chip, counts in removed.items():
            for opcode, count in counts.items():
                print(f"  {chip} {opcode:<32} {count}")
    for chip, shares in NOTICED.items():
        for opcode, least in shares.items():
            count = removed[chip][opcode]
            total = sum(count.values())
            assert total - count.get("missed", 0) >= least * total, (chip, opcode, count)


def test_a_wrong_fragment_is_seen(capsys):
    """Triton knows the layouts of the tensor cores independently of the executor."""
    errors = faults()["fragments"]
    with capsys.disabled():
        print("\nerror of tanh attention in float16 with a wrong fragment:")
        for what, error in errors.items():
            print(f"  {what:<42} {error:.1e}")
    assert errors.pop("right") < 1e-3
    assert min(errors.values()) > 0.1
