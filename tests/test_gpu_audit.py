"""The audit of the GPU kernels' machine code: what it reads, which bars it sees broken, and two kernels that pass."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from jca_fast.gpu import audit, sass

LOOP = """
.L_x_1:
        /*0010*/                   LDGSTS.E.BYPASS.128 [R1], desc[UR4][R2.64] ;
        /*0020*/                   HGMMA.64x64x16.F32.BF16 R24, R4, gdesc[UR8] ;
{body}
        /*0090*/              @!P0 BRA `(.L_x_1) ;
.L_x_2:
        /*00a0*/                   STG.E desc[UR4][R2.64], R5 ;
        /*00b0*/               @P1 BRA `(.L_x_0) ;
        /*00c0*/                   EXIT ;
"""
TANH = "        /*0030*/                   MUFU.TANH R7, R8 ;\n"


def code(*lines: str) -> str:
    return ".L_x_0:\n        /*0000*/ MOV R1, R2 ;\n" + LOOP.format(body="".join(lines))


def test_finds_the_innermost_loop():
    instructions, loops = sass.parse(code(TANH, TANH))
    assert len(instructions) == 9
    assert [loop.instructions for loop in loops] == [
        ("LDGSTS.E.BYPASS.128", "HGMMA.64x64x16.F32.BF16", "MUFU.TANH", "MUFU.TANH", "BRA")
    ]


@pytest.fixture
def judged(monkeypatch):
    """Judges a kernel of one warp whose tile has two elements per thread, made of the given loop."""

    def judge(*lines, tier="half", stack=0, shared=0):
        instructions, loops = sass.parse(code(*lines))
        binary = sass.Binary(100, stack, 0, instructions, loops)
        monkeypatch.setattr(sass, "read", lambda _: binary)
        meta = {"BM": 8, "BN": 8, "BD": 16, "num_warps": 1}
        item = SimpleNamespace(cubin=b"", meta=meta, shared=shared, kernel="layer_kernel")
        return " ".join(audit.judge(90, "half layer forward, paper", tier, item).breaches)

    return judge


def test_sees_every_broken_bar(judged):
    assert judged(TANH, TANH) == ""
    assert "stack" in judged(TANH, TANH, stack=8)
    assert "local" in judged(TANH, TANH, "        /*0040*/   LDL R1, [R2] ;\n")
    assert "shared memory" in judged(TANH, TANH, shared=100 * 1024)
    assert "atomics" in judged(TANH, TANH, "        /*0040*/   ATOMG.E.ADD R1, [R2], R3 ;\n")
    assert "1.500 MUFU" in judged(TANH, TANH, "        /*0040*/   MUFU.RCP R1, R2 ;\n")
    assert "F2F" in judged(TANH, TANH, "        /*0040*/   F2F.BF16.F32 R1, R2 ;\n")
    assert "F2F" not in judged(TANH, TANH, "        /*0040*/   F2FP.BF16.F32.PACK_AB R1, R2, R3 ;\n")
    assert "bar 3.6" in judged(TANH, TANH, *["        /*0040*/   FADD R1, R2, R3 ;\n"] * 4)
    assert "MUFU.TANH in the exact tier" in judged(TANH, TANH, tier="exact")


def run_audit(*args: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: kernels compile there, where this one interprets them."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "jca_fast", "gpu-audit", *args]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_two_shipped_kernels_keep_every_bar():
    pytest.importorskip("triton", reason="triton is not installed")
    done = run_audit("--arch", "90", "--jobs", "1", "--case", "half layer forward, paper", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, [row["breaches"] for row in rows]) == (0, [[], []]), done.stdout + done.stderr
    assert all(row["mufu"] == 1 and row["stack"] == 0 for row in rows)


@pytest.mark.parametrize(("args", "message"), [(["--arch", "75"], "--arch must be among"), (["--arch", "x"], "--arch")])
def test_refuses_what_it_cannot_compile_for(args, message):
    done = run_audit(*args)
    assert done.returncode == 2
    assert message in done.stderr
