"""Read PTX text into kernels: parameters, shared variables, registers and instructions.

The dialects of LLVM (Triton) and of nvcc are understood. Each instruction keeps its text and its
source line, so that a finding can name both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from .formats import WIDTHS


class Name(NamedTuple):
    """Of a register, a variable or a label. ``negated``: the predicate ``!p``."""

    text: str
    negated: bool = False


class Number(NamedTuple):
    """An immediate, of a float its bits."""

    value: int


class Address(NamedTuple):
    """``[base + offset]``"""

    base: Operand
    offset: int


class Vector(NamedTuple):
    """``{a, b}``, or the two results ``p|q``."""

    entries: tuple[Operand, ...]


Operand = Name | Number | Address | Vector


def entries(operand: Operand) -> tuple[Operand, ...]:
    return operand.entries if isinstance(operand, Vector) else (operand,)


@dataclass(eq=False)
class Instruction:
    """One instruction: its opcode cut at the dots, its operands, and its guard, if any."""

    parts: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: Operand | None
    text: str
    source: str

    @property
    def opcode(self) -> str:
        return ".".join(self.parts)

    def __str__(self) -> str:
        return f"{self.text}  ({self.source})" if self.source else self.text


class Variable(NamedTuple):
    """A parameter or a shared array. ``size`` is 0 for dynamic shared memory."""

    name: str
    size: int
    alignment: int


@dataclass(eq=False)
class Kernel:
    name: str
    parameters: list[Variable] = field(default_factory=list)
    shared: list[Variable] = field(default_factory=list)
    registers: dict[str, int] = field(default_factory=dict)
    """Name and width in bits."""
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)


_ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*(?:\(([^)]*)\))?[^{;]*\{")
_STATEMENT = re.compile(
    r"\s*(?:(?P<label>[\w$]+):(?!:)|(?P<brace>[{}])|(?P<loc>\.loc[^\n]*)|"
    r"(?P<code>[^;{}]*(?:\{[^{}]*\}[^;{}]*)*);)"
)
_VARIABLE = re.compile(r"\.(?:shared|param)\b(.*?)([\w$%]+)\s*(\[\s*\d*\s*\])?\s*$", re.S)
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/|\.pragma[^;]*", re.S)


def parse(text: str) -> dict[str, Kernel]:
    """All kernels of a PTX module by name."""
    files = {number: Path(f).name for number, f in re.findall(r'\.file\s+(\d+)\s+"([^"]*)"', text)}
    text = _COMMENT.sub("", text)
    kernels: dict[str, Kernel] = {}
    end, outside = 0, ""
    while entry := _ENTRY.search(text, end):
        outside += text[end : entry.start()]
        kernel = Kernel(entry[1])
        kernel.parameters = [_variable(x) for x in (entry[2] or "").split(",") if ".param" in x]
        kernel.shared = [_variable(x) for x in outside.split(";") if ".shared" in x]
        end = _read_body(kernel, text, entry.end(), files)
        kernels[kernel.name] = kernel
    return kernels


def _variable(statement: str) -> Variable:
    match = _VARIABLE.search(statement)
    if match is None:
        raise ValueError(f"not a variable: {statement.strip()}")
    words, name, count = match.groups()
    kind = next(word for word in re.findall(r"\.(\w+)", words) if word in WIDTHS)
    size = WIDTHS[kind] // 8
    # The .align of a .ptr parameter describes the memory behind the pointer.
    align = None if ".ptr" in words else re.search(r"\.align\s+(\d+)", words)
    length = 1 if count is None else int(count.strip("[] ") or 0)
    return Variable(name, size * length, int(align[1]) if align else size)


def _read_body(kernel: Kernel, text: str, at: int, files: dict[str, str]) -> int:
    """Read statements until the brace of the body closes; returns where the text goes on."""
    source = ""
    scopes: list[dict[str, str]] = [{}]
    while scopes:
        match = _STATEMENT.match(text, at)
        if match is None:
            raise ValueError(f"{kernel.name}: not a statement: {text[at : at + 80]!r}")
        at = match.end()
        code = " ".join((match["code"] or "").split())
        if match["label"]:
            kernel.labels[match["label"]] = len(kernel.code)
        elif match["brace"] == "{":
            scopes.append(dict(scopes[-1]))
        elif match["brace"] == "}":
            scopes.pop()
        elif match["loc"]:
            _, number, line = match["loc"].split()[:3]
            source = f"{files.get(number, number)}:{line}"
        elif code.startswith(".reg"):
            _declare(kernel, code, scopes)
        elif code.startswith(".shared"):
            kernel.shared.append(_variable(code))
        elif code.startswith("."):
            raise NotImplementedError(f"{kernel.name}: {code}")
        elif code:
            kernel.code.append(_instruction(code, scopes[-1], source))
    return at


def _declare(kernel: Kernel, code: str, scopes: list[dict[str, str]]) -> None:
    """Registers; those of an inner scope are renamed, because names may repeat."""
    _, kind, names = code.split(maxsplit=2)
    for stem, count in re.findall(r"([\w$%]+)(?:<(\d+)>)?", names):
        for name in [f"{stem}{i}" for i in range(int(count))] if count else [stem]:
            full = f"%{name}@{len(kernel.registers)}"
            if len(scopes) == 1 and name[0] == "%":
                full = name
            else:
                scopes[-1][name] = full
            kernel.registers[full] = WIDTHS[kind.lstrip(".")]


def _instruction(code: str, renamed: dict[str, str], source: str) -> Instruction:
    if renamed:
        code = re.sub(r"[\w$%]+", lambda match: renamed.get(match[0], match[0]), code)
    match = re.match(r"(?:@(!?[^\s]+)\s+)?([\w.:]+)\s*(.*)$", code)
    if match is None:
        raise ValueError(f"not an instruction: {code}")
    guard = _operand(match[1]) if match[1] else None
    return Instruction(tuple(match[2].split(".")), _operands(match[3]), guard, code, source)


def _operands(text: str) -> tuple[Operand, ...]:
    """The operands between commas that are not inside brackets."""
    return tuple(_operand(x) for x in re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|[^,{\[])+", text))


@lru_cache(1 << 16)
def _operand(text: str) -> Operand:
    text = text.strip()
    if text[0] == "{":
        return Vector(_operands(text[1:-1]))
    if text[0] == "[":
        base, sign, offset = re.fullmatch(r"\[\s*(.+?)\s*(?:([-+])\s*(-?\d+))?\s*\]", text).groups()
        return Address(_operand(base), int(f"{sign}1") * int(offset) if sign else 0)
    if text[0] == "!":
        return Name(text[1:], negated=True)
    if "|" in text:
        return Vector(tuple(_operand(part) for part in text.split("|")))
    if re.match(r"-?\d", text):
        return Number(int(re.sub("^0[fFdD]", "0x", text).rstrip("U"), 0))
    return Name(text)
