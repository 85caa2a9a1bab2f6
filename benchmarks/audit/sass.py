"""Read resources, instructions and loops of compiled kernels, by the tools that Triton ships."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

INSTRUCTION = 16
"""Bytes of an instruction, compute capability 7.0 and newer."""


@dataclass(frozen=True)
class Loop:
    """An innermost loop: its instructions, without predicates and operands."""

    instructions: tuple[str, ...]

    def count(self, pattern: str) -> int:
        """The number of instructions whose beginning matches a regular expression."""
        return sum(re.match(pattern, op) is not None for op in self.instructions)


@dataclass(frozen=True)
class Binary:
    """One kernel's machine code: registers, bytes of stack and local memory, all instructions,
    innermost loops.
    """

    registers: int
    stack: int
    local: int
    instructions: tuple[str, ...]
    loops: tuple[Loop, ...]

    def count(self, pattern: str) -> int:
        """The number of instructions whose beginning matches a regular expression."""
        return sum(re.match(pattern, op) is not None for op in self.instructions)


def tool(name: str) -> Path:
    """``nvdisasm`` or ``cuobjdump``: Triton's, or that of the toolkit that the build takes."""
    triton = importlib.util.find_spec("triton")
    if triton and triton.origin:
        path = Path(triton.origin).parent / "backends/nvidia/bin" / name
        if path.exists():
            return path
    toolkits = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    folders = [os.environ.get("PATH", ""), *(f"{folder}/bin" for folder in toolkits if folder)]
    if found := shutil.which(name, path=os.pathsep.join(folders)):
        return Path(found)
    raise FileNotFoundError(f"{name} is missing: neither Triton nor a CUDA toolkit has it")


def read(cubins: Sequence[bytes], capability: int) -> list[Binary]:
    """Disassemble kernels of one compute capability, in one run of the tool, because its start
    takes longest.
    """
    if not cubins:
        return []
    codes = [code_of(cubin) for cubin in cubins]
    lines = _run(
        "nvdisasm", "-b", f"SM{capability}{'a' * (capability >= 90)}", content=b"".join(codes)
    ).splitlines()
    lines = [line for line in lines if re.match(r"\s*/\*[0-9a-f]+\*/", line)]
    binaries, first = [], 0
    for cubin, code in zip(cubins, codes, strict=True):
        last = first + len(code) // INSTRUCTION
        binaries.append(Binary(*resources(cubin), *parse(lines[first:last])))
        first = last
    return binaries


def resources(cubin: bytes) -> tuple[int, int, int]:
    """Registers, bytes of stack and bytes of local memory of a kernel."""
    usage = _run("cuobjdump", "-res-usage", content=cubin)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump -res-usage printed no resources:\n{usage}")
    registers, stack, local = (int(n) for n in found.groups())
    return registers, stack, local


def code_of(cubin: bytes) -> bytes:
    """The machine code in a cubin, which is a 64-bit ELF file: its one section ".text.<kernel>"."""
    table, (size, count, names) = (
        struct.unpack_from("<Q", cubin, 0x28)[0],
        struct.unpack_from("<3H", cubin, 0x3A),
    )
    sections = [struct.unpack_from("<IIQQQQ", cubin, table + i * size) for i in range(count)]
    for name, _, _, _, offset, length in sections:
        if cubin.startswith(b".text.", sections[names][4] + name):
            return cubin[offset : offset + length]
    raise ValueError("the cubin has no section .text")


def _run(name: str, *args: str, content: bytes) -> str:
    """The output of a tool for a file with this content."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        return subprocess.run(
            [str(tool(name)), *args, file.name], capture_output=True, text=True, check=True
        ).stdout


def parse(lines: Sequence[str]) -> tuple[tuple[str, ...], tuple[Loop, ...]]:
    """Opcodes in order, and the innermost loops: spans that end with a backward branch and contain
    no other such span.
    """
    opcodes: list[str] = []
    spans: list[tuple[int, int]] = []
    first = 0
    for i, line in enumerate(lines):
        code = re.match(r"\s*/\*([0-9a-f]+)\*/\s+(?:@!?U?P\w+\s+)?([\w.]+)(.*)", line)
        if code is None:
            raise ValueError(f"not an instruction: {line!r}")
        if i == 0:
            first = int(code[1], 16)
        opcodes.append(code[2])
        target = (
            re.match(r"\s*(?:!?U?P\w+,\s*)?0x([0-9a-f]+)", code[3])
            if code[2].startswith("BRA")
            else None
        )
        start = (int(target[1], 16) - first) // INSTRUCTION if target else len(opcodes)
        if 0 <= start < i:  # a branch to itself is the padding behind a kernel
            spans.append((start, i + 1))
    inner = [a for a in spans if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in spans)]
    return tuple(opcodes), tuple(Loop(tuple(opcodes[a:b])) for a, b in inner)


def most_common(loop: Loop, n: int = 12) -> list[tuple[str, int]]:
    """The most frequent instructions of a loop, without their modifiers, for tuning by hand."""
    return Counter(op.split(".")[0] for op in loop.instructions).most_common(n)
