"""The PTX executor on a kernel that nvcc compiles, and on two broken variants of it."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.ptx.machine import SCHEDULES, Launch, Machine, Options
from tests.ptx.memory import Arena, Findings
from tests.ptx.parser import parse

SOURCE = Path(__file__).parent / "ptx" / "gemm.cu"

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A function that compiles SOURCE to PTX with some macros, each set of macros once."""
    folder, texts = tmp_path_factory.mktemp("ptx"), {}

    def compile_with(*macros: str) -> str:
        if macros not in texts:
            out = folder / f"gemm{len(texts)}.ptx"
            command = ["nvcc", "-ptx", "-arch=sm_80", "-lineinfo", "-o", str(out), str(SOURCE)]
            subprocess.run([*command, *(f"-D{macro}" for macro in macros)], check=True)
            texts[macros] = out.read_text()
        return texts[macros]

    return compile_with


def multiply(ptx: str, m: int, n: int, k: int, **options) -> tuple[float, Findings]:
    """Run the kernel; the largest error over the largest number, and the findings."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((m, k)).astype(np.float16)
    b = rng.standard_normal((n, k)).astype(np.float16)
    arena = Arena([a.nbytes, b.nbytes, 4 * m * n])
    for buffer, array in zip(arena.buffers, (a, b), strict=False):
        buffer[:] = array.view(np.uint8).reshape(-1)
    packed = struct.pack("<3Q3i", *arena.addresses, m, n, k)
    grid = -(-m // 64), -(-n // 64)
    launch = Launch(parse(ptx)["gemm"], grid, 128, 0, packed, arena)
    findings = Findings()
    Machine(launch, Options(**options), findings).run()
    got = arena.buffers[2].view(np.float32).reshape(m, n)
    want = a.astype(np.float64) @ b.astype(np.float64).T
    return float(np.abs(got - want).max() / np.abs(want).max()), findings


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_kernel_of_nvcc_runs_right(compiled, schedule):
    error, findings = multiply(compiled(), 100, 70, 96, schedule=schedule)
    assert error < 1e-6
    assert not findings.counts


def test_a_missing_wait_is_found(compiled):
    error, findings = multiply(compiled("WAIT=0"), 100, 70, 96)
    assert not error < 1e-6
    assert "read of a copy before its wait" in findings.kinds()
    assert any("ldmatrix" in line and "gemm.cu:" in line for line in findings.lines())


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_missing_barrier_is_found(compiled, schedule):
    """A warp that is ahead copies over what others still read; in step the result is right."""
    error, findings = multiply(compiled("LAST_BARRIER=0"), 100, 70, 96, schedule=schedule)
    assert "write after read, race of warps" in findings.kinds() or not error < 1e-6
    assert findings.counts
