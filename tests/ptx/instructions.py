"""The list of instructions: patterns of opcodes and their builders.

A builder gets the machine, an instruction and the pattern's groups, numbers as int. It looks
operands up once and returns a function that executes the instruction for a set of lanes. An opcode
or a modifier that no pattern matches is an error: nothing is skipped.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from .parser import Instruction, Number

if TYPE_CHECKING:
    from .machine import Lanes, Machine

Run = Callable[["Lanes"], None]
Builder = Callable[..., Run]
BUILDERS: dict[re.Pattern[str], Builder] = {}


def instruction(pattern: str) -> Callable[[Builder], Builder]:
    """Register a builder of the opcodes that match ``pattern``, which has spaces for dots."""

    def register(builder: Builder) -> Builder:
        BUILDERS[re.compile(pattern)] = builder
        return builder

    return register


@cache
def _builder(opcode: str) -> tuple[Builder, list[str | int | None]] | None:
    for pattern, builder in BUILDERS.items():
        if match := pattern.fullmatch(opcode):
            return builder, [int(x) if x and x.isdigit() else x for x in match.groups()]
    return None


def link(machine: Machine, ins: Instruction) -> Run | None:
    """The function that executes an instruction; None for branches, ends and barriers."""
    if ins.parts[0] in ("bra", "ret", "exit"):
        return None
    if ins.opcode == "bar.sync" and ins.operands == (Number(0),):
        return None
    if (found := _builder(" ".join(ins.parts))) is None:
        raise unknown(ins)
    builder, groups = found
    return builder(machine, ins, *groups)


def unknown(ins: Instruction) -> NotImplementedError:
    return NotImplementedError(f"this form of the instruction is not modelled: {ins}")
