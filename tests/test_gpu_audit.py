"""The audit of the GPU kernels' machine code: parser, broken limits and shipped kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.audit import accumulation, cuda, limits, sass
from benchmarks.audit.__main__ import main

ROOT = Path(__file__).resolve().parents[1]
TANH = "MUFU.TANH R7, R8"
TILE_CODE = """
    scf.if %4 {{
      %1:2 = scf.for %i = %c0 to %n step %c1 iter_args(%a = %b) -> (tensor<8x8xf32>) : i32 {{
        {body}
        %9 = scf.for %j = %c0 to %m step %c1 iter_args(%c = %d) -> (tensor<8x16xf32>) : i32 {{
          scf.yield %c : tensor<8x16xf32>
        }}
        scf.yield %2 : tensor<8x8xf32>
      }}
    }}
"""
COMPUTE = (
    '%2 = tt.elementwise_inline_asm "tanh.approx.f32 $0, $1;" {pure = true} '
    "%1 : tensor<8x8xf32, #m> -> tensor<8x8xf32, #m>"
)


def listing(
    *body: str, matrix: str = "HGMMA.64x64x16.F32.BF16 R24, R4, gdesc[UR8]", begin: int = 0x500
) -> list[str]:
    """A listing of kernels as the disassembler prints it; one has a loop around ``body``."""
    inside = ["LDGSTS.E.BYPASS.128 [R1], desc[UR4][R2.64]", matrix, *body]
    back = begin + 16
    code = ["MOV R1, R2", *inside, f"@!P0 BRA 0x{back:x}", "STG.E desc[UR4][R2.64], R5", "@P1 EXIT"]
    code.append(
        f"BRA 0x{begin + 16 * len(code):x}"
    )  # the padding behind a kernel: a branch to itself
    return [
        f"        /*{begin + 16 * i:04x}*/                   {line} ;"
        for i, line in enumerate(code)
    ]


def test_finds_the_innermost_loop():
    instructions, loops = sass.parse(listing(TANH, TANH))
    assert len(instructions) == 9
    assert [loop.instructions for loop in loops] == [
        ("LDGSTS.E.BYPASS.128", "HGMMA.64x64x16.F32.BF16", "MUFU.TANH", "MUFU.TANH", "BRA")
    ]
    annotated = [
        line.replace(" ;", "          &req={4}  ?WAIT15_END_GROUP;") for line in listing(TANH, TANH)
    ]
    assert sass.parse(annotated)[1] == loops  # as Triton 3.6 prints it for sm_120
    other = [line.replace("BRA 0x510", "BRA.U !UP0, 0x510") for line in listing(TANH, TANH)]
    assert len(sass.parse(other)[1][0].instructions) == 5
    outer = [*listing(TANH)[:-1], f"        /*{0x500 + 16 * 7:04x}*/     @P2 BRA 0x500 ;"]
    assert [len(loop.instructions) for loop in sass.parse(outer)[1]] == [4]


def judge(
    *body: str,
    tier="half",
    stack=0,
    shared=0,
    arch=90,
    case="half layer forward, paper",
    kernel="joint_coattention_forward_kernel",
    computed=1,
    **lines,
):
    """The breaches of a kernel of one warp whose tile has two elements for each thread."""
    code = TILE_CODE.format(body="\n        ".join([COMPUTE] * computed))
    meta = {"BM": 8, "BN": 8, "BD": 16, "num_warps": 1}
    item = SimpleNamespace(
        kernel=kernel,
        dtype="torch.bfloat16",
        meta=meta,
        shared=shared,
        ttgir=code,
    )
    binary = sass.Binary(100, stack, 0, *sass.parse(listing(*body, **lines)))
    return " ".join(limits.judge(arch, case, tier, item, binary).breaches)


def test_reports_every_broken_limit():
    assert judge(TANH, TANH) == ""
    assert "8 bytes of stack" in judge(TANH, TANH, stack=8)
    assert "1 local" in judge(TANH, TANH, "LDL R1, [R2]")
    assert "shared memory" in judge(TANH, TANH, shared=100 * 1024)
    assert "atomics" in judge(TANH, TANH, "ATOMG.E.ADD R1, [R2], R3")
    assert "atomics" in judge(TANH, TANH, "RED.E.ADD.F32 [R2], R3")
    assert "1.500 MUFU" in judge(TANH, TANH, "MUFU.RCP R1, R2")
    assert "F2F" in judge(TANH, TANH, "F2F.BF16.F32 R1, R2")
    assert "F2F" not in judge(TANH, TANH, "F2FP.BF16.F32.PACK_AB R1, R2, R3")
    assert "limit 3.1" in judge(TANH, TANH, *["FADD R1, R2, R3"] * 4)
    assert "MUFU.TANH in the exact tier" in judge(TANH, TANH, tier="exact")
    assert "no loop with" in judge("FADD R1, R2, R3")


def test_requires_the_matrix_instructions_of_each_chip():
    hmma = "HMMA.16816.F32.BF16 R4, R8, R12, R4"
    assert "no matrix instruction HGMMA" in judge(TANH, TANH, matrix=hmma)
    assert judge(TANH, TANH, matrix=hmma, case="half layer forward, odd") == ""
    assert judge(TANH, TANH, matrix=hmma, arch=80) == ""
    assert "no matrix instruction" in judge(TANH, TANH, matrix="FFMA R1, R2, R3, R4", arch=80)
    assert "no matrix instruction" in judge(TANH, TANH, arch=120)
    assert judge(TANH, TANH, matrix="UTCHMMA gdesc[UR8], gdesc[UR10], tmem[UR4]", arch=100) == ""


def test_an_unrolled_loop_computes_each_element_once():
    assert judge(*[TANH] * 4) == ""
    assert "for [128] elements of a tile of 64" in judge(*[TANH] * 4, computed=2)
    assert "for [] elements" in judge(TANH, TANH, computed=0)


def test_a_kernel_with_tanh_in_a_loop_must_be_listed():
    assert "TANH of benchmarks/audit/limits.py" in judge(TANH, TANH, kernel="new_kernel")
    assert judge(TANH, TANH, kernel="new_kernel", computed=0) == ""


ZERO = "%cst = arith.constant dense<0.000000e+00> : tensor<8x8xf32, #mma>"
OUTSIDE = (  # two products from zero, added by assembly
    ZERO,
    "%1 = tt.dot %a, %b, %cst, inputPrecision = tf32 : tensor<8x8xf32> -> tensor<8x8xf32>",
    "%2 = tt.dot %c, %d, %1, inputPrecision = tf32 : tensor<8x8xf32> -> tensor<8x8xf32>",
    '%3 = tt.elementwise_inline_asm "add.rn.f32 $0, $1, $2;" %sum, %2 : tensor<8x8xf32>',
)
TENSOR_MEMORY = (
    ZERO,
    "%acc = ttng.tmem_alloc : () -> !ttg.memdesc<8x8xf32>",
    "ttng.tmem_store %cst, %acc, %true : tensor<8x8xf32> -> !ttg.memdesc<8x8xf32>",
    "ttng.tc_gen5_mma %a, %b, %acc, %true, %true : !ttg.memdesc<8x8xf32>",
)


def test_reports_a_product_that_accumulates_onto_a_sum():
    folded = accumulation.folded
    assert folded("\n".join(OUTSIDE)) == []
    assert folded("\n".join(OUTSIDE).replace("%b, %cst", "%b, %sum")) == ["%sum"]
    grouped = "\n".join(OUTSIDE).replace("tt.dot", "ttng.warp_group_dot")
    waited = grouped.replace(
        "%2 =", "%w:2 = ttng.warp_group_dot_wait %1, %a {pendings = 0}\n%2 ="
    ).replace("%d, %1", "%d, %w#0")
    assert folded(waited) == []
    assert folded(waited.replace("%d, %w#0", "%d, %w#1")) == ["%w#1"]
    assert folded("\n".join(TENSOR_MEMORY)) == []
    assert folded("\n".join(TENSOR_MEMORY).replace("%cst, %acc", "%sum, %acc")) == ["%acc"]
    in_a_loop = "\n".join((*TENSOR_MEMORY[:-1], f"  {TENSOR_MEMORY[-1]}"))
    assert folded(in_a_loop) == ["%acc"]


def test_a_plain_addition_is_folded_and_reported():
    """The kernels add in assembly; a plain sum of scores must be reported, whatever its name."""
    pytest.importorskip("triton", reason="triton is not installed")
    code = (
        "import sys; from jca_fast.kernels.triton import tanh_attention_forward as f, tiles\n"
        "import triton, triton.language as tl\n"
        "from benchmarks.audit.cases import cases\n"
        "from benchmarks.audit.audit import compiled\n"
        "from benchmarks.audit.accumulation import folded\n"
        "tiles.add_outside = f.add_outside = tl.add\n"
        "case = next(c for c in cases() if c.name == 'exact attention forward, N=200 D=512')\n"
        "print(len(folded(compiled(case, 80)[0].ttgir)))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


@pytest.mark.parametrize(("dtype", "needed"), [("torch.float32", 4), ("torch.bfloat16", 2)])
def test_visual_kernels_move_regions_by_128_bits(dtype, needed):
    meta = {"BR": 4, "BD": 128, "num_warps": 1, "WANT_REGIONS": True}
    item = SimpleNamespace(
        kernel="visual_reduction_backward_kernel", dtype=dtype, meta=meta, shared=0, ttgir=""
    )

    def breaches(*opcodes: str) -> tuple[str, ...]:
        return limits.judge(
            80, "visual", "half", item, sass.Binary(100, 0, 0, opcodes, ())
        ).breaches

    loads, stores = ["LDG.E.128.CONSTANT"] * needed, ["STG.E.128"] * needed
    assert breaches(*loads, *stores) == ()
    assert breaches(*loads[1:], "LDG.E.64", *stores) == (
        f"{needed - 1} 128-bit loads of K, {needed} are needed",
    )
    assert breaches(*loads, *stores[1:]) == (
        f"{needed - 1} 128-bit stores of dK, {needed} are needed",
    )
    meta["WANT_REGIONS"] = False
    assert breaches(*loads) == ()


def test_every_entry_of_the_table_is_audited():
    pytest.importorskip("triton", reason="triton is not installed")
    from jca_fast.kernels.triton.configurations import ENTRIES

    from benchmarks.audit.cases import cases

    found = cases()
    assert {case.key for case in found if case.key} == set(ENTRIES)
    assert len({case.name for case in found}) == len(found)


def test_no_tile_of_zeros_that_triton_3_6_cannot_compile():
    """Its ``tl.zeros`` takes no entries of the structure of constants."""
    files = sorted((ROOT / "kernels" / "triton").glob("*.py"))
    assert len(files) > 10
    assert [f.name for f in files if "tl.zeros((TILE." in f.read_text(encoding="utf-8")] == []


def run_audit(*args: str) -> subprocess.CompletedProcess[str]:
    """The command in a separate process: kernels compile there, where this one
    interprets them.
    """
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks.audit", *args]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_shipped_kernels_keep_every_limit():
    pytest.importorskip("triton", reason="triton is not installed")
    done = run_audit("--arch", "90", "--jobs", "1", "--case", "half layer forward", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, [row["breaches"] for row in rows]) == (0, [[]] * 5), (
        done.stdout + done.stderr
    )
    assert all(row["mufu"] == 1 and row["stack"] == 0 and row["instructions"] > 500 for row in rows)
    assert 2 < rows[0]["per_element"] <= limits.PER_ELEMENT["half", "forward"]


def test_a_breach_is_printed_and_fails():
    """A tile of twice the size spills; the table and the exit code of the command report it."""
    pytest.importorskip("triton", reason="triton is not installed")
    code = (
        "import sys; from jca_fast.kernels.triton.configurations import ENTRIES\n"
        "ENTRIES['forward', 'half', 'narrow'] = {'': (128, 256, 4, 1)}\n"
        "from benchmarks.audit.__main__ import main; sys.exit(main(['--arch', '80', "
        "'--jobs', '1', '--case', "
        "'half layer forward, paper']))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "BREACH:" in done.stdout
    assert "1 kernels on 1 architectures, 1 break a limit" in done.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--arch", "75"], "--arch must be among"),
        (["--arch", "x"], "--arch"),
        (["--case", "x?"], "is in none of"),
    ],
)
def test_refuses_what_it_cannot_compile_for(args, message):
    if "--case" in args:
        pytest.importorskip("triton", reason="triton is not installed")
    done = run_audit(*args)
    assert done.returncode == 2
    assert message in done.stderr


def test_without_triton_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main([]) == 2
    assert "triton is not installed" in capsys.readouterr().err


ELEMENTS = cuda.OTHER_ELEMENTS


def code_of(*lines: str) -> str:
    """Machine code as cuobjdump prints it."""
    return "\n".join(f"/*{16 * i:04x}*/ {line} ;" for i, line in enumerate(lines))


def cuda_listing(*extra: str) -> str:
    """A loop in whose rounds a thread computes tanh 32 times, with a way around ``extra``, and a
    tanh behind it.
    """
    tanh = ["HMMA.16816 R1, R2", *["MUFU.TANH R1, R2"] * ELEMENTS]
    first = f"@!P0 BRA 0x{16 * (1 + len(extra)):x}"
    return code_of(first, *extra, *tanh, "@P1 BRA 0x0", "MUFU.TANH R1, R2", "@P2 BRA 0x0", "EXIT")


def test_a_round_of_a_cuda_kernel_is_counted_along_its_shortest_way():
    instructions = cuda.parse(cuda_listing("LDS R3, [R4]", "STS [R4], R3", "MOV R1, R2"))
    assert cuda.shortest_rounds(instructions, "bfloat16", ELEMENTS) == [ELEMENTS + 3]
    row = cuda.judge(90, "tf32", "tanh_attention_forward", (99, 0, 0), cuda_listing("NOP"))
    assert not row.breaches
    assert row.per_element == ((ELEMENTS + 3) / ELEMENTS,)


def test_the_counted_way_takes_every_product():
    """A branch over a product is for a run-time condition that always holds."""
    tanh = ["MUFU.TANH R1, R2"] * ELEMENTS
    code = code_of("@!P0 BRA 0x20", "HMMA.16816 R1, R2", *tanh, "@P1 BRA 0x0", "EXIT")
    assert cuda.shortest_rounds(cuda.parse(code), "bfloat16", ELEMENTS) == [ELEMENTS + 3]


def test_a_way_past_all_products_is_no_round():
    code = code_of(*["MUFU.TANH R1, R2"] * ELEMENTS, "@P1 BRA 0x0", "EXIT")
    with pytest.raises(ValueError, match=r"no round computes 32 MUFU\.TANH"):
        cuda.shortest_rounds(cuda.parse(code), "bfloat16", ELEMENTS)


def test_every_loop_of_a_cuda_kernel_is_counted():
    """The attention of a layer has two; a kernel that misses one is named."""
    tanh = ["HMMA.16816 R1, R2", *["MUFU.TANH R1, R2"] * ELEMENTS]
    second = 16 * (len(tanh) + 1)
    code = code_of(*tanh, "@P1 BRA 0x0", "NOP", *tanh, f"@P1 BRA 0x{second:x}", "EXIT")
    kernel = "joint_coattention_attention"
    row = cuda.judge(90, "bfloat16", kernel, (99, 0, 0), code)
    assert row.per_element == ((ELEMENTS + 2) / ELEMENTS, (ELEMENTS + 3) / ELEMENTS)
    assert not row.breaches
    row = cuda.judge(90, "bfloat16", kernel, (99, 0, 0), cuda_listing("NOP"))
    assert row.breaches == ("1 loops compute tanh, expected 2",)


@pytest.mark.parametrize(
    ("resources", "code", "text"),
    [
        ((99, 16, 0), "NOP", "16 bytes of stack"),
        ((99, 0, 0), "STL [R1], R2", "local accesses"),
        ((99, 0, 0), "RED.E.ADD [R1], R2", "global atomics"),
    ],
)
def test_a_cuda_kernel_that_breaks_a_limit_is_named(resources, code, text):
    listing = cuda_listing(code, "NOP")
    assert text in str(cuda.judge(90, "tf32", "sum_parts", resources, listing).breaches)


def test_a_slow_round_of_a_cuda_kernel_breaks_its_limit():
    many = ELEMENTS * 16
    tanh = ["HMMA.16816 R1, R2", *["MUFU.TANH R1, R2"] * ELEMENTS]
    slow = code_of(*["MOV R1, R2"] * many, *tanh, "@P1 BRA 0x0", "EXIT")
    row = cuda.judge(90, "tf32", "tanh_attention_forward", (99, 0, 0), slow)
    assert "instructions per element, limit 15.5" in row.breaches[0]
    assert not cuda.judge(80, "tf32", "tanh_attention_forward", (99, 0, 0), "").breaches
