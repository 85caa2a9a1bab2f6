"""``python -m benchmarks.audit.cuda``: read the machine code of the CUDA kernels in the library.

Limits on every chip: no stack and no local memory. On sm_90: no global atomics, and a bound on the
instructions per element. Counted are those of the shortest way through the loop over the other
side that takes every product: whole tiles, one block of columns, numbers that lie side by side, no
dropout. The kernels of the joint affinity are not counted: memory bounds them.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
import tempfile
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from jca_fast.ops.tiers import TIERS

from .sass import INSTRUCTION, tool

ELEMENTS = {"narrow_attention_forward": 128, "narrow_attention_backward": 64}
"""Elements of the affinity matrix of a thread in one round of the loop of a kernel of 16 bits: the
walked rows of a step, see ``walk.h``."""
OTHER_ELEMENTS = 32
"""Those of the other kernels."""
LOOPS = {"joint_coattention_attention": 2}
"""Loops with tanh in a kernel, if not one: over the rows of a modality, and over those of a part of
its joint feature."""
COUNTED = 90
"""The chip whose instructions are counted."""
PER_ELEMENT = {
    ("exact", "narrow_attention_forward"): 28.5,
    ("exact", "tanh_attention_forward"): 34.0,
    ("exact", "tanh_attention_columns"): 50.0,
    ("exact", "tanh_attention_rows"): 41.0,
    ("tf32", "tanh_attention_forward"): 15.5,
    ("tf32", "tanh_attention_columns"): 26.0,
    ("tf32", "tanh_attention_rows"): 20.0,
    ("bfloat16", "narrow_attention_forward"): 2.8,
    ("bfloat16", "narrow_attention_backward"): 9.0,
    ("float16", "narrow_attention_forward"): 2.8,
    ("float16", "narrow_attention_backward"): 9.0,
    ("exact", "joint_coattention_forward"): 34.0,
    ("exact", "joint_coattention_attention"): 92.0,
    ("tf32", "joint_coattention_forward"): 14.0,
    ("tf32", "joint_coattention_attention"): 43.8,
    ("bfloat16", "joint_coattention_forward"): 7.8,
    ("bfloat16", "joint_coattention_attention"): 24.6,
    ("float16", "joint_coattention_forward"): 7.8,
    ("float16", "joint_coattention_attention"): 24.6,
}
"""Most instructions per element, of all loops: up to 7 % above the counts of nvcc 13.0."""


@dataclass(frozen=True)
class Row:
    """A kernel of one tier for one chip."""

    chip: int
    tier: str
    kernel: str
    registers: int
    instructions: int | None
    per_element: tuple[float, ...]
    """Instructions of each loop that is counted."""
    breaches: tuple[str, ...]


def image(tier: str) -> bytes:
    """The fat binary of a tier from the built library."""
    from jca_fast.kernels.cuda.native import library

    get, size = library().jca_cuda_image, ctypes.c_size_t()
    get.restype = ctypes.c_void_p
    start = get(list(TIERS).index(tier), ctypes.byref(size))
    return ctypes.string_at(start, size.value)


def ptx(tier: str) -> str:
    """The PTX in the fat binary of a tier, of which its machine code is made."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernels.fatbin")
        file.write_bytes(image(tier))
        _run("cuobjdump", "-xptx", "all", file.name, folder=folder)
        (found,) = Path(folder).glob("*.ptx")
        return found.read_text()


def audit(tier: str) -> list[Row]:
    """The kernels of a tier for every chip."""
    with tempfile.NamedTemporaryFile(suffix=".fatbin") as file:
        file.write(image(tier))
        file.flush()
        usage = _run("cuobjdump", "-res-usage", file.name)
        listing = _run("cuobjdump", "-sass", "-arch", f"sm_{COUNTED}", file.name)
    code = dict(re.findall(r"Function : (\w+)\n(.*?)(?=Function :|\Z)", listing, re.DOTALL))
    rows = []
    for chip, functions in re.findall(r"arch = sm_(\d+)\n(.*?)(?=arch = |\Z)", usage, re.DOTALL):
        for kernel, registers, stack, local in re.findall(
            r"Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", functions
        ):
            lines = code[kernel] if int(chip) == COUNTED else ""
            resources = int(registers), int(stack), int(local)
            rows.append(judge(int(chip), tier, kernel, resources, lines))
    return rows


def judge(chip: int, tier: str, kernel: str, resources: tuple[int, int, int], listing: str) -> Row:
    """One kernel against the limits; ``listing`` is empty for a chip that is not counted."""
    registers, stack, local = resources
    breaches = [f"{stack} bytes of stack, {local} of local memory"] if stack or local else []
    if not listing:
        return Row(chip, tier, kernel, registers, None, (), tuple(breaches))
    instructions = parse(listing)
    if any(re.match(r"LDL|STL", op) for op, _ in instructions):
        breaches.append("local accesses")
    if any(re.match(r"ATOMG|ATOM\b|RED\b", op) for op, _ in instructions):
        breaches.append("global atomics")
    per_element: tuple[float, ...] = ()
    limit = PER_ELEMENT.get((tier, kernel))
    if limit is not None:
        elements = OTHER_ELEMENTS if tier == "exact" else ELEMENTS.get(kernel, OTHER_ELEMENTS)
        rounds = shortest_rounds(instructions, tier, elements)
        per_element = tuple(length / elements for length in rounds)
        if len(rounds) != (loops := LOOPS.get(kernel, 1)):
            breaches.append(f"{len(rounds)} loops compute tanh, expected {loops}")
        if sum(per_element) > limit:
            breaches.append(f"{sum(per_element):.1f} instructions per element, limit {limit}")
    return Row(chip, tier, kernel, registers, len(instructions), per_element, tuple(breaches))


def parse(listing: str) -> list[tuple[str, list[int]]]:
    """Each instruction: its opcode, and the instructions that may come next."""
    lines = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);", listing)
    found = []
    for i, (_, guard, op, operands) in enumerate(lines):
        following = [i + 1] if guard or not re.match(r"BRA|EXIT", op) else []
        # A branch with a predicate among its operands, like "BRA P1, 0x20", is conditional.
        if op.startswith("BRA") and (target := re.search(r"0x([0-9a-f]+)", operands)):
            following = [i + 1] if guard or "P" in operands.split("0x")[0] else []
            following.append(int(target[1], 16) // INSTRUCTION)
        found.append((op, following))
    return found


def shortest_rounds(
    instructions: list[tuple[str, list[int]]], tier: str, elements: int
) -> list[int]:
    """For each loop, the number of instructions of the shortest way from a tanh back to it, on
    which ``elements`` are computed.

    An integer division before the loop has a reciprocal too, and an activation behind it a tanh:
    their ways lead round an outer loop, past all products.
    """
    unit = "MUFU.RCP" if tier == "exact" else "MUFU.TANH"
    units = [i for i, (op, _) in enumerate(instructions) if op == unit]
    rounds = {}
    for first in units[:: elements // 2]:
        way = shortest_way(instructions, first)
        passed = [i for i in way if instructions[i][0] == unit]
        products = any(instructions[i][0].startswith("HMMA") for i in way)
        if len(passed) == elements and products:
            rounds[min(passed)] = len(way)
    if not rounds:
        raise ValueError(f"no round computes {elements} {unit}")
    return [*rounds.values()]


def shortest_way(instructions: list[tuple[str, list[int]]], first: int) -> list[int]:
    """The shortest way from an instruction back to it; empty where there is none."""
    previous: dict[int, int] = {}
    queue = deque([first])
    while queue and first not in previous:
        at = queue.popleft()
        for following in nexts(instructions, at):
            if following < len(instructions) and following not in previous:
                previous[following] = at
                queue.append(following)
    if first not in previous:
        return []
    way, at = [first], previous[first]
    while at != first:
        way.append(at)
        at = previous[at]
    return way


def nexts(instructions: list[tuple[str, list[int]]], at: int) -> list[int]:
    """What may come after an instruction. A branch over products is not taken: the kernel asks at
    run time whether there is a block to multiply, and there is at least one.
    """
    following = instructions[at][1]
    if len(following) > 1 and any(
        op.startswith("HMMA") for op, _ in instructions[at : following[1]]
    ):
        return following[:1]
    return following


def _run(name: str, *arguments: str, folder: str | None = None) -> str:
    command = [str(tool(name)), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout


def main() -> int:
    from jca_fast.kernels.cuda.native import library_path

    if not library_path().is_file():
        print("the CUDA library is not built: nothing to audit")
        return 0
    broken = 0
    print(f"{'sm':>3} {'tier':<9} {'kernel':<27} {'regs':>4} {'instr':>6} {'instr/el':>11}")
    for row in (row for tier in TIERS for row in audit(tier)):
        per = " + ".join(f"{count:.1f}" for count in row.per_element)
        text = (
            f"{row.chip:>3} {row.tier:<9} {row.kernel:<27} {row.registers:>4} "
            f"{row.instructions or '':>6} {per:>11}"
        )
        print(text + ("  BREACH: " + "; ".join(row.breaches) if row.breaches else ""))
        broken += bool(row.breaches)
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
