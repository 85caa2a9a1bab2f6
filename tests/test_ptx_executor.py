"""The PTX executor on small kernels: its results, and every fault that it must find."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from tests.ptx import formats
from tests.ptx.machine import SCHEDULES, Launch, Machine, Options
from tests.ptx.memory import Arena, Findings, KernelError
from tests.ptx.parser import parse

HEAD = """
.version 8.4
.target sm_80
.address_size 64
.extern .shared .align 16 .b8 dynamic[];
.visible .entry kernel(.param .u64 .ptr .global .align 1 a, .param .u32 n)
.reqntid 64
{
 .reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<20>; .reg .b64 %rd<9>;
 .loc 1 10 3
 ld.param.b64 %rd1, [a];
 ld.param.b32 %r1, [n];
 mov.u32 %r2, %tid.x;
 mov.u32 %r3, %ctaid.x;
 mad.lo.s32 %r4, %r3, 64, %r2;
 mul.wide.s32 %rd3, %r4, 4;
 add.s64 %rd2, %rd1, %rd3;
 shl.b32 %r5, %r2, 2;
 mov.b32 %r6, dynamic;
 add.s32 %r7, %r6, %r5;
"""
"""%rd2: the thread's number in global memory; %r7: its number in shared memory."""


def execute(
    body: str, data: np.ndarray, n: int = 0, ctas: int = 1, threads: int = 64, **options
) -> tuple[np.ndarray, Findings, Machine]:
    """Run HEAD and ``body`` on ``data``; the data afterwards, the findings and the machine."""
    kernel = parse(HEAD + body + "\n ret;\n}")["kernel"]
    arena = Arena([data.nbytes])
    arena.buffers[0][:] = data.view(np.uint8)
    findings = Findings()
    packed = struct.pack("<QI", arena.addresses[0], n)
    launch = Launch(kernel, (ctas,), threads, 512, packed, arena)
    machine = Machine(launch, Options(**options), findings).run()
    return arena.buffers[0].view(data.dtype), findings, machine


def numbers(count: int = 64) -> np.ndarray:
    return np.arange(count, dtype=np.int32)


LOOP = """
 mov.b32 %r8, 0;
 setp.eq.s32 %p1, %r2, 0;
 @%p1 bra $end;
$loop:
 add.s32 %r8, %r8, 1;
 setp.lt.s32 %p2, %r8, %r2;
 @%p2 bra $loop;
$end:
 st.global.b32 [%rd2], %r8;
"""


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_lanes_that_branch_apart_meet_again(schedule):
    out, findings, machine = execute(LOOP, numbers(128), ctas=2, schedule=schedule)
    assert out.tolist() == list(range(64)) * 2
    assert not findings.counts
    assert machine.covered.all()
    steps = 13 + 3 * 63 + 2  # of all lanes in step: each round of the loop once
    assert machine.executed <= steps * (1 if schedule == "together" else 2)


REVERSE = """
 ld.global.b32 %r8, [%rd2];
 st.shared.b32 [%r7], %r8;
 {barrier}
 xor.b32 %r9, %r5, {mask};
 add.s32 %r10, %r6, %r9;
 ld.shared.b32 %r11, [%r10];
 st.global.b32 [%rd2], %r11;
"""


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_barrier_orders_shared_memory(schedule):
    body = REVERSE.format(barrier="bar.sync 0;", mask=252)
    out, findings, _ = execute(body, numbers(128), ctas=2, schedule=schedule)
    assert out.tolist() == [*range(63, -1, -1), *range(127, 63, -1)]
    assert not findings.counts


@pytest.mark.parametrize(
    ("mask", "barrier", "kind"),
    [
        (252, "", "read after write, race of warps"),
        (252, "bar.warp.sync -1;", "read after write, race of warps"),
        (124, "", "read after write, race of lanes"),
        (124, "bar.warp.sync -1;", None),
    ],
)
def test_a_race_in_shared_memory_is_found(mask, barrier, kind):
    _, findings, _ = execute(REVERSE.format(barrier=barrier, mask=mask), numbers())
    assert findings.kinds() == ({kind} if kind else set())
    if kind:
        assert "ld.shared.b32 %r11, [%r10]" in findings.lines()[0]


def test_what_several_warps_read_may_not_be_overwritten():
    body = """
     st.shared.b32 [%r7], %r2;
     bar.sync 0;
     ld.shared.b32 %r8, [%r6];
     setp.eq.s32 %p1, %r2, 0;
     @%p1 st.shared.b32 [%r6], 7;
    """
    kind = "write after read, race of"
    _, findings, _ = execute(body, numbers())
    assert {f"{kind} lanes", f"{kind} warps"} == findings.kinds()
    fenced = body.replace("setp", "bar.sync 0;\n setp")
    assert not execute(fenced, numbers())[1].counts


def test_ctas_may_not_share_a_number():
    body = "st.global.b32 [%rd2], 5;\n bar.sync 0;\n ld.global.b32 %r8, [%rd1];"
    _, findings, _ = execute(body, numbers(128), ctas=2)
    assert findings.kinds() == {"read after write, race of CTAs"}
    assert not execute(body, numbers(64), ctas=1)[1].counts


def test_equal_values_may_be_written_at_once():
    body = "st.global.b32 [%rd1], 5;\n st.global.b32 [%rd1], 5;"
    assert not execute(body, numbers(), ctas=2)[1].counts


def test_different_values_written_at_once_are_found():
    _, findings, _ = execute("st.global.b32 [%rd1], %r2;", numbers(), threads=32)
    assert findings.kinds() == {"different values written at once"}


def test_shared_memory_must_be_written_before_it_is_read():
    _, findings, _ = execute("ld.shared.b32 %r8, [%r7];", numbers())
    assert findings.kinds() == {"read of uninitialised memory"}


COPY = """
 cp.async.ca.shared.global [%r7], [%rd2], 4;
 cp.async.commit_group;
 {wait}
 ld.shared.b32 %r8, [%r7];
 add.s32 %r8, %r8, 1;
 st.global.b32 [%rd2], %r8;
"""


@pytest.mark.parametrize("wait", ["cp.async.wait_group 0;", "cp.async.wait_all;"])
def test_an_asynchronous_copy_arrives_at_its_wait(wait):
    out, findings, _ = execute(COPY.format(wait=wait), numbers())
    assert out.tolist() == list(range(1, 65))
    assert not findings.counts


@pytest.mark.parametrize("wait", ["", "cp.async.wait_group 1;"])
def test_an_asynchronous_copy_does_not_arrive_before(wait):
    out, findings, _ = execute(COPY.format(wait=wait), numbers())
    assert {"read of a copy before its wait", "copy without a wait"} <= findings.kinds()
    assert out.tolist() == [0] * 64  # poison: all bits are set


PARTIAL_BARRIER = """
 setp.eq.s32 %p1, %r2, 0;
 @%p1 bra $skip;
 bar.sync 0;
$skip:
 bar.sync 0;
"""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("ld.global.b32 %r8, [%rd2 + 256];", "global access out of bounds: 4 bytes"),
        ("ld.global.b32 %r8, [%rd2 + -4];", "lane 0, 1 lanes: ld.global.b32"),
        ("ld.global.b32 %r8, [%rd1 + 2];", "global access misaligned"),
        ("ld.shared.b32 %r8, [%r7 + 512];", "shared access out of bounds"),
        ("ld.global.b32 %r8, [%rd5];", "global access out of bounds"),
        (PARTIAL_BARRIER, "part of a warp is at a barrier"),
    ],
)
def test_what_ends_a_kernel_on_a_gpu_is_an_error(body, message):
    with pytest.raises(KernelError, match=message):
        execute(body, numbers())


def test_a_barrier_that_some_lanes_never_reach_does_not_hold_those_that_have_ended():
    body = "setp.eq.s32 %p1, %r2, 0;\n @%p1 ret;\n bar.sync 0;\n st.global.b32 [%rd2], 9;"
    out, findings, _ = execute(body, numbers())
    assert out.tolist() == [0, *[9] * 63]
    assert not findings.counts


def test_a_warp_that_has_diverged_may_not_shuffle():
    body = "setp.eq.s32 %p1, %r2, 0;\n @%p1 shfl.sync.idx.b32 %r8, %r2, 0, 31, -1;"
    with pytest.raises(KernelError, match="diverged"):
        execute(body, numbers())


@pytest.mark.parametrize(
    "line",
    [
        "popc.b32 %r8, %r2;",
        "add.sat.s32 %r8, %r2, 1;",
        "bar.sync 1;",
        "atom.global.add.u32 %r8, [%rd2], 1;",
    ],
)
def test_an_unknown_instruction_is_an_error(line):
    with pytest.raises(NotImplementedError, match="not modelled"):
        execute(line, numbers())


def test_registers_hold_nan_until_they_are_written():
    out, _, _ = execute("st.global.b32 [%rd2], %r15;", np.zeros(64, np.float32))
    assert np.isnan(out).all()


X, Y = np.int32(-1234567), np.int32(99)
COMPUTED = {
    "div.s32 %r8, %r9, %r10;": int(-1234567 / 99),
    "rem.s32 %r8, %r9, %r10;": -(1234567 % 99),
    "mul.hi.s32 %r8, %r9, %r9;": 1234567**2 >> 32,
    "bfe.s32 %r8, %r9, 4, 8;": ((-1234567 >> 4) % 256 ^ 128) - 128,
    "bfe.u32 %r8, %r9, 4, 8;": (-1234567 >> 4) % 256,
    "bfi.b32 %r8, %r10, %r9, 8, 4;": (-1234567 & ~0xF00) | (99 & 15) << 8,
    "shr.s32 %r8, %r9, 40;": -1,
    "shl.b32 %r8, %r9, 40;": 0,
    "prmt.b32 %r8, %r9, %r10, 0x4321;": (-1234567 >> 8 & 0xFFFFFF) | 99 << 24,
    "cvt.rna.tf32.f32 %r8, 0f3F801000;": 0x3F802000,
    "cvt.rn.bf16x2.f32 %r8, 0f3F800000, 0f40000000;": 0x3F804000,
    "cvt.rn.f16x2.f32 %r8, 0f3F800000, 0f40000000;": 0x3C004000,
    "min.NaN.xorsign.abs.f32 %r8, 0fC0000000, 0f3F800000;": 0xBF800000 - 2**32,
    "max.f32 %r8, 0f7FC00000, 0f3F800000;": 0x3F800000,
    "max.NaN.f32 %r8, 0f7FC00000, 0f3F800000;": 0x7FC00000,
    "fma.rn.f32 %r8, 0f3F800001, 0f3F800001, 0fBF800002;": 0x28800000,
    "selp.b32 %r8, %r9, %r10, %p8;": 99,
}


@pytest.mark.parametrize("line", COMPUTED)
def test_results_of_instructions(line):
    head = f"mov.b32 %r9, {X};\n mov.b32 %r10, {Y};\n setp.eq.s32 %p8, %r9, %r10;\n"
    out, _, _ = execute(f"{head} {line}\n st.global.b32 [%rd2], %r8;", numbers())
    assert (out == np.array(COMPUTED[line]).astype(np.int32)).all(), out[:2]


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_16_bit_floats_are_rounded_and_computed_with(kind):
    """Alone and in pairs: 1.5, and 1 + 2^-12, which is rounded to 1."""
    body = f"""
     mov.b32 %r8, 0f3FC00000;
     mov.b32 %r9, 0f3F800800;
     cvt.rn.{kind}.f32 %h1, %r8;
     cvt.rn.{kind}.f32 %h2, %r9;
     add.{kind} %h3, %h1, %h2;
     mov.b32 %r10, {{%h1, %h2}};
     cvt.rn.{kind}x2.f32 %r11, %r9, %r8;
     add.{kind}x2 %r12, %r10, %r11;
     mov.b32 {{%h4, %h5}}, %r12;
     setp.gt.{kind}x2 %p1|%p2, %r10, %r12;
     @%p1 mov.b16 %h4, 0;
     cvt.f32.{kind} %r13, %h3;
     cvt.f32.{kind} %r14, %h4;
     cvt.f32.{kind} %r15, %h5;
     add.f32 %r13, %r13, %r14;
     add.f32 %r13, %r13, %r15;
     st.global.b32 [%rd2], %r13;
    """
    out, _, _ = execute(body, np.zeros(64, np.float32))
    assert (out == 2.5 + 3 + 2).all()


NAN = "0f7FC00000"


@pytest.mark.parametrize(
    ("comparison", "expected"),
    [("eq", 0), ("ne", 0), ("neu", 1), ("lt", 0), ("geu", 1), ("num", 0), ("nan", 1)],
)
def test_comparisons_with_nan(comparison, expected):
    body = f"setp.{comparison}.f32 %p1, {NAN}, 0f00000000;\n selp.b32 %r8, 1, 0, %p1;"
    out, _, _ = execute(body + "\n st.global.b32 [%rd2], %r8;", numbers())
    assert (out == expected).all()


@pytest.mark.parametrize(
    ("line", "bound"),
    [("tanh.approx.f32", 2**-11), ("ex2.approx.f32", 2**-22), ("rcp.approx.f32", 2**-23)],
)
def test_approximate_instructions_use_up_their_bound_and_no_more(line, bound):
    x = np.linspace(0.1, 2, 64, dtype=np.float32)
    body = f"ld.global.b32 %r8, [%rd2];\n {line} %r9, %r8;\n st.global.b32 [%rd2], %r9;"
    out, _, _ = execute(body, x.copy())
    exact = {"tanh": np.tanh, "ex2": np.exp2, "rcp": np.reciprocal}[line.split(".")[0]](
        x.astype(float)
    )
    error = np.abs(out / exact - 1).max()
    assert 0.3 * bound < error <= bound + 2**-23


def test_sums_of_tensor_cores_are_cut_as_measured():
    """1 + four times 2^-24 is lost without guard bits, and rounded to 1 + 2^-22 when exact."""
    a, b = np.full((1, 4), 2.0**-12), np.full((4, 1), 2.0**-12)
    one = np.ones((1, 1), np.float32)
    total = {
        bits: float(formats.multiply_accumulate(a, b, one, "tf32", bits)[0, 0]) - 1
        for bits in (None, 0, 1, 2)
    }
    assert total == {None: 2**-22, 0: 0.0, 1: 2**-22, 2: 2**-22}
    negative = formats.multiply_accumulate(-a[:, :1], b[:1], one, "tf32", 2)
    assert float(negative[0, 0]) == np.nextafter(np.float32(1), np.float32(0))
    third = formats.multiply_accumulate(a[:, :1] * 3, b[:1], one, "tf32", 2)
    assert float(third[0, 0]) == 1 + 2**-23  # 1.5 units in the last place, toward zero
