"""The kernels on aarch64: cross-compiled, run under qemu, judged like the native ones.

Needs Debian's packages g++-aarch64-linux-gnu and qemu-user, and is skipped without them:

    apt-get install g++-aarch64-linux-gnu qemu-user && pytest tests/test_aarch64.py
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from numerics import assert_as_good_as_torch
from torch import Tensor

from jca_fast.ops import reference
from jca_fast.ops.dropout import threshold

TOOLS = ("cmake", "aarch64-linux-gnu-g++", "aarch64-linux-gnu-objdump", "qemu-aarch64")
if missing := [tool for tool in TOOLS if not shutil.which(tool)]:
    pytest.skip(f"not installed: {', '.join(missing)}", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[1]
SYSROOT = "/usr/aarch64-linux-gnu"
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
OPS = (
    "tanh_attention",
    "released_attention",
    "joint_affinity",
    "joint_coattention",
    "visual_reduction",
)
"""In the order of ``JCA_OPS`` in abi.h."""


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> Path:
    """The library and the driver, compiled for aarch64."""
    folder = tmp_path_factory.mktemp("aarch64")
    compiler = "aarch64-linux-gnu-g++"
    configure = ["cmake", "-S", ROOT, "-B", folder, f"-DJCA_OUTPUT={folder}"]
    target = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"]
    driver = [compiler, "-O1", "-std=c++17", "-Wall", "-Wextra", f"-I{ROOT / 'kernels' / 'cpu'}"]
    sources = [ROOT / "tests" / "aarch64" / "driver.cpp", folder / "libjca_cpu.so"]
    for command in (
        [*configure, *target, f"-DCMAKE_CXX_COMPILER={compiler}"],
        ["cmake", "--build", folder, "--parallel", "2"],
        [*driver, *sources, "-o", folder / "driver", "-Wl,-rpath,$ORIGIN"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_inner_loops_are_neon_multiply_adds(build):
    listing = subprocess.run(
        ["aarch64-linux-gnu-objdump", "-dC", build / "libjca_cpu.so"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    functions = re.split(r"\n\n", listing)
    for kernel in (
        "score_tile<float",
        "gradient_tile<float",
        "rank_rows<float",
        "lane_update<float",
    ):
        found = [f for f in functions if f"::{kernel}" in f.split("\n", 1)[0]]
        assert found, kernel
        for body in found:
            assert re.search(r"\bfmla\s+v\d+\.4s", body), kernel


def case(
    op: str, inputs: Sequence[Tensor], sizes: Sequence[int], scale: float, backward: bool, dropout
) -> bytes:
    """One case in the format of driver.cpp."""
    dtype = inputs[0].dtype
    p, seed = dropout
    drop = (threshold(p), int(seed)) if seed is not None else (0, 0)
    head = (OPS.index(op), DTYPES.index(dtype), dtype.itemsize, backward, *drop)
    numbers = struct.pack(f"6qd{1 + len(sizes)}q", *head, scale, len(sizes), *sizes)
    return numbers + b"".join(t.contiguous().view(torch.uint8).numpy().tobytes() for t in inputs)


def run(build: Path, data: bytes, like: Sequence[Tensor]) -> list[Tensor]:
    """The results of one case under qemu, shaped like the expected ones."""
    cases, results = build / "cases", build / "results"
    cases.write_bytes(data)
    command = ["qemu-aarch64", "-L", SYSROOT, build / "driver", cases, results]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "baseline"
    raw, out = bytearray(results.read_bytes()), []
    for t in like:
        size = t.numel() * t.element_size()
        out.append(torch.frombuffer(raw[:size], dtype=t.dtype).view(t.shape))
        del raw[:size]
    assert not raw
    return out


def rand(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(*shape).to(dtype)


def forward_inputs(op: str, dtype: torch.dtype) -> tuple[list[Tensor], list[int], float]:
    """Inputs of the forward, sizes for the driver, and the scale."""
    if op == "tanh_attention":
        b, m, length, n, d = sizes = 3, 37, 70, 7, 5
        shapes, sizes = [(b, m, n), (b, length, n), (1, length, d)], [*sizes, 1]
    elif op == "released_attention":
        b, n, width, keys = sizes = 2, 7, 70, 45
        shapes = [(b, n, width), (b, n, keys), (b, n, keys)]
    elif op == "joint_affinity":
        b, m, length, n = sizes = 2, 37, 70, 7
        shapes = [(b, m, n), (b, length, n)]
    elif op == "joint_coattention":
        b, n, width, k = sizes = 3, 7, 70, 9
        shapes = [(b, n, width), (n, n), (k, n), (k, width), (k, n)]
    else:
        s, r, width = sizes = 5, 9, 45
        shapes = [(s, width), (s, r, width)]
    return [rand(dtype, *s) for s in shapes], list(sizes), 0.3


def formula(op: str, inputs: Sequence[Tensor], scale: float, dropout) -> list[Tensor]:
    if op == "joint_coattention":
        groups = [[t] for t in inputs]
        return reference.joint_coattention(groups[0], [], *groups[1:], [scale], *dropout, True)
    rest = dropout if op in OPS[:2] else ()
    out = getattr(reference, op)(*inputs, scale, *rest)
    return list(out) if isinstance(out, tuple) else [out]


def backward_call(
    op: str, saved: Sequence[Tensor], grads: Sequence[Tensor], inputs, scale, dropout
):
    """The gradients in the order of the inputs, by the reference."""
    if op == "joint_coattention":
        groups = [[t] for t in inputs]
        lists = ([grads[0]], [saved[1]], groups[0], [], *groups[1:])
        return reference.joint_coattention_backward(*lists, [scale], *dropout)
    if op == "visual_reduction":
        return reference.visual_reduction_backward(*grads, *inputs, saved[1], scale, True)
    if op == "joint_affinity":
        return reference.joint_affinity_backward(*grads, *inputs, *saved, scale)
    if op == "released_attention":
        return reference.released_attention_backward(*grads, *saved, *inputs, scale, *dropout)
    return reference.tanh_attention_backward(*grads, *inputs, scale, *dropout)


def driver_inputs(op: str, saved, grads, inputs) -> list[Tensor]:
    """The inputs of the backward in the order of driver.cpp."""
    order = {
        "tanh_attention": [*inputs, *grads],
        "joint_coattention": [*inputs, saved[-1], grads[0]],
        "visual_reduction": [*inputs, saved[-1], *grads],
    }
    return order.get(op, [*inputs, saved[0], *grads])


@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_every_op_is_as_good_as_plain_torch(build, op, dtype, dropout_p):
    dropout = (dropout_p, torch.tensor(-(2**61) + 5) if dropout_p else None)
    inputs, sizes, scale = forward_inputs(op, dtype)
    exact = [t.double() for t in inputs]
    plain, oracle = formula(op, inputs, scale, dropout), formula(op, exact, scale, dropout)
    ours = run(build, case(op, inputs, sizes, scale, False, dropout), plain)
    assert_as_good_as_torch(["out", "second"][: len(ours)], ours, plain, oracle, factor=2)

    grads = [torch.randn_like(t) for t in plain[: 2 if op == "visual_reduction" else 1]]
    plain_grads = backward_call(op, plain, grads, inputs, scale, dropout)
    saved = [t.double() for t in plain]
    oracle = backward_call(op, saved, [g.double() for g in grads], exact, scale, dropout)
    data = case(op, driver_inputs(op, plain, grads, inputs), sizes, scale, True, dropout)
    ours = run(build, data, plain_grads)
    names = [f"gradient {i}" for i in range(len(ours))]
    assert_as_good_as_torch(names, ours, plain_grads, oracle, factor=3)
