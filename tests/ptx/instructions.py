"""The list of instructions: opcode -> builder.

A builder gets the machine and an instruction, looks operands up once, and returns a function that
executes the instruction for a set of lanes. An opcode or a modifier that no builder knows is an
error: nothing is skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .parser import Instruction, Number, Operand, Vector

if TYPE_CHECKING:
    from .machine import Lanes, Machine

Run = Callable[["Lanes"], None]
Builder = Callable[["Machine", Instruction], Run]
BUILDERS: dict[str, Builder] = {}


def instruction(*names: str) -> Callable[[Builder], Builder]:
    """Register a builder for instructions whose opcodes begin with one of ``names``."""

    def register(builder: Builder) -> Builder:
        BUILDERS.update(dict.fromkeys(names, builder))
        return builder

    return register


def link(machine: Machine, ins: Instruction) -> Run | None:
    """The function that executes an instruction; None for branches, ends and barriers."""
    from . import arithmetic, tensor_cores, transfers  # noqa: F401  they register their builders

    name = ins.parts[0]
    if name in ("bra", "ret", "exit"):
        return None
    if name == "bar" and ins.parts[1] == "sync":
        if ins.operands != (Number(0),):
            raise unknown(ins)
        return None
    if name not in BUILDERS:
        raise unknown(ins)
    return BUILDERS[name](machine, ins)


def unknown(ins: Instruction) -> NotImplementedError:
    return NotImplementedError(f"this form of the instruction is not modelled: {ins}")


def require(ins: Instruction, modifiers: str) -> None:
    """Raise if an instruction has a modifier, between name and type, that is not listed."""
    if not set(ins.parts[1:-1]) <= set(modifiers.split()):
        raise unknown(ins)


def entries(operand: Operand) -> tuple[Operand, ...]:
    return operand.entries if isinstance(operand, Vector) else (operand,)
