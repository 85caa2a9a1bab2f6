"""Reading compiled kernels: resources, instructions and innermost loops, by the disassembler that Triton brings."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Loop:
    """An innermost loop: its instructions, without predicates and operands."""

    instructions: tuple[str, ...]

    def count(self, pattern: str) -> int:
        """How many instructions match a regular expression from their start."""
        return sum(re.match(pattern, op) is not None for op in self.instructions)


@dataclass(frozen=True)
class Binary:
    """One kernel's machine code: registers, bytes of stack and local memory, all instructions, innermost loops."""

    registers: int
    stack: int
    local: int
    instructions: tuple[str, ...]
    loops: tuple[Loop, ...]

    def count(self, pattern: str) -> int:
        """How many instructions match a regular expression from their start."""
        return sum(re.match(pattern, op) is not None for op in self.instructions)


def tool(name: str) -> Path:
    """``nvdisasm`` or ``cuobjdump`` from the installed Triton."""
    import triton

    path = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: this Triton has no NVIDIA tools")
    return path


def read(cubin: bytes) -> Binary:
    """Disassemble one kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        sass = _run("nvdisasm", "-c", file.name)
        usage = _run("cuobjdump", "-res-usage", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump -res-usage printed no resources:\n{usage}")
    registers, stack, local = (int(n) for n in found.groups())
    instructions, loops = parse(sass)
    return Binary(registers, stack, local, instructions, loops)


def _run(name: str, *args: str) -> str:
    return subprocess.run([str(tool(name)), *args], capture_output=True, text=True, check=True).stdout


def parse(sass: str) -> tuple[tuple[str, ...], tuple[Loop, ...]]:
    """Opcodes in order, and the innermost loops: spans closed by a branch back that hold no other such span."""
    opcodes: list[str] = []
    labels: dict[str, int] = {}
    spans: list[tuple[int, int]] = []
    for line in sass.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(opcodes)
        elif code := re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?(\S+)(.*?)\s*;", line):
            opcodes.append(code[1])
            target = re.search(r"`\((\.L_x_\d+)\)", code[2]) if code[1].startswith("BRA") else None
            if target and target[1] in labels:
                spans.append((labels[target[1]], len(opcodes)))
    inner = [a for a in spans if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in spans)]
    return tuple(opcodes), tuple(Loop(tuple(opcodes[a:b])) for a, b in inner)


def most_common(loop: Loop, n: int = 12) -> list[tuple[str, int]]:
    """The most frequent instructions of a loop, without their modifiers: for a person who tunes a kernel."""
    return Counter(op.split(".")[0] for op in loop.instructions).most_common(n)
