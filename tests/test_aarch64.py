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
from typing import Any

import pytest
import torch
from numerics import assert_as_good_as_torch
from torch import Tensor

from jca_fast.ops import reference
from jca_fast.ops.backends.parity import QUICK, Case, arguments, tensors_of, with_kernels
from jca_fast.ops.library import overload

TOOLS = ("cmake", "aarch64-linux-gnu-g++", "aarch64-linux-gnu-objdump", "qemu-aarch64")
if missing := [tool for tool in TOOLS if not shutil.which(tool)]:
    pytest.skip(f"not installed: {', '.join(missing)}", allow_module_level=True)

cpu = pytest.importorskip("jca_fast.kernels.cpu")
if cpu.problem():
    pytest.skip(cpu.problem(), allow_module_level=True)

ROOT = Path(__file__).resolve().parents[1]
SYSROOT = "/usr/aarch64-linux-gnu"
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
TYPES = (*DTYPES, torch.int64)
"""The dtypes of driver.cpp."""
SHARED = Case("tanh_attention", (3, 37, 70, 7, 5, 1))
CASES = {case.op: case for case in with_kernels(QUICK, cpu)} | {"tanh_attention_shared": SHARED}


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> Path:
    """The library and the driver, compiled for aarch64."""
    folder = tmp_path_factory.mktemp("aarch64")
    compiler = "aarch64-linux-gnu-g++"
    configure = ["cmake", "-S", ROOT, "-B", folder, f"-DJCA_OUTPUT={folder}"]
    target = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"]
    driver = [compiler, "-O1", "-std=c++17", "-Wall", "-Wextra", "-rdynamic"]
    sources = [ROOT / "tests" / "aarch64" / "driver.cpp", folder / "libjca_cpu.so"]
    for command in (
        [*configure, *target, f"-DCMAKE_CXX_COMPILER={compiler}"],
        ["cmake", "--build", folder, "--parallel", "2"],
        [
            *driver,
            f"-I{ROOT / 'kernels' / 'cpu'}",
            *sources,
            "-ldl",
            "-o",
            folder / "driver",
            "-Wl,-rpath,$ORIGIN",
        ],
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


def packed(*numbers: int | float) -> bytes:
    return b"".join(struct.pack("d" if isinstance(x, float) else "q", x) for x in numbers)


def encoded(value: Any, kind: str) -> bytes:
    """A value in the format of driver.cpp; ``kind`` is its type in the schema."""
    if kind.startswith("Optional["):
        inner = kind[len("Optional[") : -1]
        return packed(3, 0) if value is None else packed(3, 1) + encoded(value, inner)
    if kind.startswith("List["):
        inner = kind[len("List[") : -1]
        items = b"".join(encoded(item, inner) for item in value)
        return packed(1, inner == "Tensor", len(value)) + items
    if kind == "Tensor":
        head = packed(0, TYPES.index(value.dtype), value.dim(), *value.shape)
        return head + value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return packed(2, value)


def call(op: str, args: Sequence[Any]) -> bytes:
    """One call in the format of driver.cpp."""
    schema = overload(op, "cpu")._schema
    given = [*args, *(a.default_value for a in schema.arguments[len(args) :])]
    values = [encoded(v, str(a.type)) for v, a in zip(given, schema.arguments, strict=True)]
    of_list = str(schema.returns[0].type) == "List[Tensor]"
    name = f"{op}.cpu".encode()
    head = packed(len(name)) + name + packed(len(values))
    return head + b"".join(values) + packed(-1 if of_list else len(schema.returns))


def run(build: Path, data: bytes, like: Sequence[Tensor]) -> list[Tensor]:
    """The results of one call under qemu, shaped like the expected ones."""
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


def formula(op: str, args: Sequence[Any]) -> list[Tensor]:
    out = getattr(reference, op)(*args)
    return [out] if isinstance(out, Tensor) else list(out)


@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_every_op_is_as_good_as_plain_torch(build, name, dtype, dropout_p):
    case = CASES[name]._replace(dropout=dropout_p)
    tensors = tensors_of(case, dtype)
    given, exact = arguments(case, tensors), arguments(case, [t.double() for t in tensors])
    for op, args, wide, factor in zip(
        (case.op, f"{case.op}_backward"), given, exact, (2, 3), strict=True
    ):
        plain, oracle = formula(op, args), formula(op, wide)
        ours = run(build, call(op, args), plain)
        names = [f"{op}: result {i}" for i in range(len(ours))]
        assert_as_good_as_torch(names, ours, plain, oracle, factor)
