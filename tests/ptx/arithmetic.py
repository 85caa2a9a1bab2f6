"""Instructions that compute in each lane independently."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .formats import DTYPES, HALVES, WIDTHS, Array, flush, perturb, round_to_tf32
from .instructions import BUILDERS, Run, entries, instruction, require, unknown
from .parser import Instruction, Vector

if TYPE_CHECKING:
    from .machine import Lanes, Machine

SAME = "same"
BITS = "bits"
PRODUCT = "product"
"""Kinds of operands: the instruction's own type, its bits, what ``mul`` yields."""


def elementwise(
    *names: str, sources: tuple[str, ...], result: str = SAME, modifiers: str = ""
) -> Callable[..., Any]:
    """Register ``function(ins, *operands)``, or a numpy ufunc, as an instruction of every lane."""

    def register(function: Any) -> Any:
        def build(m: Machine, ins: Instruction) -> Run:
            require(ins, modifiers)
            kind = _resolve(result, ins)
            reads = [
                m.source(operand, _resolve(source, ins))
                for operand, source in zip(ins.operands[1:], sources, strict=True)
            ]
            if isinstance(function, np.ufunc) and kind not in HALVES and not ins.has("ftz"):
                register = m.register(ins.operands[0], kind)
                return lambda active: function(
                    *[read() for read in reads], out=register, where=active.where
                )
            write = m.target(ins.operands[0], kind)
            call = function if isinstance(function, np.ufunc) else lambda *x: function(ins, *x)
            after = flush if ins.has("ftz") else lambda x: x
            return lambda active: write(after(call(*[read() for read in reads])), active)

        BUILDERS.update(dict.fromkeys(names, build))
        return function

    return register


def _resolve(kind: str, ins: Instruction) -> str:
    own = ins.parts[-1]
    if kind == BITS:
        return f"b{WIDTHS[own]}"
    if kind == PRODUCT:
        return f"{own[0]}{2 * WIDTHS[own]}" if ins.has("wide") else own
    return own if kind == SAME else kind


ONE, TWO = (SAME,), (SAME, SAME)
for _name, _ufunc in {
    "add": np.add, "sub": np.subtract,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
}.items():  # fmt: skip
    elementwise(_name, sources=TWO, modifiers="rn ftz")(_ufunc)
for _name, _ufunc in {"not": np.invert, "neg": np.negative, "abs": np.abs}.items():
    elementwise(_name, sources=ONE, modifiers="ftz")(_ufunc)


@elementwise("mul", sources=TWO, result=PRODUCT, modifiers="rn ftz lo hi wide")
def _multiply(ins: Instruction, a: Any, b: Any) -> Any:
    kind = ins.parts[-1]
    if not ins.has("hi") and not ins.has("wide"):
        return np.multiply(a, b)
    if WIDTHS[kind] > 32:
        raise unknown(ins)
    wide = DTYPES[f"{kind[0]}{2 * WIDTHS[kind]}"]
    product = np.multiply(a, b, dtype=wide)
    return product if ins.has("wide") else product >> wide(WIDTHS[kind])


@elementwise("mad", sources=(*TWO, PRODUCT), result=PRODUCT, modifiers="lo wide")
def _multiply_add(ins: Instruction, a: Any, b: Any, c: Any) -> Any:
    return _multiply(ins, a, b) + c


@elementwise("fma", sources=(*TWO, SAME), modifiers="rn ftz")
def _fused(ins: Instruction, a: Any, b: Any, c: Any) -> Any:
    if ins.has("f64"):
        raise unknown(ins)
    return (np.multiply(a, b, dtype=np.float64) + c).astype(np.float32)  # the product is exact


@elementwise("div", sources=TWO, modifiers="rn full approx ftz")
def _divide(ins: Instruction, a: Any, b: Any) -> Any:
    if ins.parts[-1][0] == "f":
        quotient = np.divide(a, b)
        return quotient if ins.has("rn") else perturb(quotient, 2.0**-22)
    return _quotient(a, b)


@elementwise("rem", sources=TWO)
def _remainder(ins: Instruction, a: Any, b: Any) -> Any:
    return a - _quotient(a, b) * b


def _quotient(a: Any, b: Any) -> Any:
    """Integers divided toward zero; where b is 0 all bits are set."""
    safe = np.where(b == 0, np.ones_like(b), b)
    down = a // safe
    quotient = down + ((down < 0) & (down * safe != a)).astype(safe.dtype)
    return np.where(b == 0, ~np.zeros_like(b), quotient)


@elementwise("min", "max", sources=TWO, modifiers="NaN xorsign abs ftz")
def _extreme(ins: Instruction, a: Any, b: Any) -> Any:
    """Without .NaN a number wins over NaN; with .xorsign.abs magnitudes are compared."""
    lower = ins.parts[0] == "min"
    if ins.has("NaN") or ins.parts[-1][0] in "us":
        pick = np.minimum if lower else np.maximum
    else:
        pick = np.fmin if lower else np.fmax
    if not ins.has("xorsign"):
        return pick(a, b)
    size = pick(np.abs(a), np.abs(b))
    return np.where(np.signbit(a) ^ np.signbit(b), -size, size)


@elementwise("shl", "shr", sources=(SAME, "u32"))
def _shift(ins: Instruction, a: Any, amount: Any) -> Any:
    kind = ins.parts[-1]
    amount = np.minimum(amount, np.uint32(WIDTHS[kind])).astype(DTYPES[kind])
    return np.left_shift(a, amount) if ins.parts[0] == "shl" else np.right_shift(a, amount)


@elementwise("prmt", sources=("b32",) * 3)
def _permute_bytes(ins: Instruction, a: Any, b: Any, selector: Any) -> Any:
    both = np.asarray(b).astype(np.uint64) << np.uint64(32) | a
    result = np.uint32(0)
    for i in range(4):
        choice = selector >> np.uint32(4 * i)
        shift = ((choice & np.uint32(7)) * np.uint32(8)).astype(np.uint64)
        byte = (both >> shift & np.uint64(255)).astype(np.uint32)
        sign = byte >> np.uint32(7) & np.uint32(1)
        byte = np.where(choice & np.uint32(8), sign * np.uint32(255), byte)
        result = result | byte << np.uint32(8 * i)
    return result


@elementwise("bfe", sources=(SAME, "u32", "u32"))
def _extract_bits(ins: Instruction, a: Any, start: Any, length: Any) -> Any:
    """Bits ``start`` .. ``start + length`` of a; a signed field keeps its sign."""
    wide = np.asarray(a).astype(np.int64)
    start = np.minimum(start & np.uint32(255), np.uint32(WIDTHS[ins.parts[-1]])).astype(np.int64)
    length = np.minimum(length & np.uint32(255), np.uint32(32)).astype(np.int64)
    if WIDTHS[ins.parts[-1]] != 32:
        raise unknown(ins)
    field = wide >> start & (np.int64(1) << length) - 1
    if ins.parts[-1][0] == "s":
        sign = np.int64(1) << np.maximum(length - 1, 0)
        field = (field ^ sign) - sign
    return field


@elementwise("bfi", sources=(SAME, SAME, "u32", "u32"))
def _insert_bits(ins: Instruction, a: Any, b: Any, start: Any, length: Any) -> Any:
    width = WIDTHS[ins.parts[-1]]
    a, b = np.asarray(a).astype(np.int64), np.asarray(b).astype(np.int64)
    start, length = ((x & np.uint32(255)).clip(0, width).astype(np.int64) for x in (start, length))
    field = (np.int64(1) << length) - 1 << start
    return b & ~field | a << start & field


APPROXIMATE: dict[str, tuple[Callable[[Any], Any], float]] = {
    "tanh": (np.tanh, 2.0**-11), "ex2": (np.exp2, 2.0**-22), "lg2": (np.log2, 2.0**-22),
    "rcp": (np.reciprocal, 2.0**-23), "sqrt": (np.sqrt, 2.0**-22),
    "rsqrt": (lambda x: 1 / np.sqrt(x), 2.0**-22.9),
}  # fmt: skip
"""Function and the relative error that NVIDIA documents for its ``.approx`` form."""


@elementwise(*APPROXIMATE, sources=ONE, modifiers="approx rn ftz")
def _transcendental(ins: Instruction, a: Any) -> Any:
    function, bound = APPROXIMATE[ins.parts[0]]
    a = flush(a) if ins.has("ftz") else a
    value = np.asarray(function(np.asarray(a, np.float64))).astype(np.float32)
    if ins.has("approx"):
        value = perturb(value, bound)
    return np.clip(value, -1, 1) if ins.parts[0] == "tanh" else value


@elementwise("selp", sources=(BITS, BITS, "pred"), result=BITS)
def _select(ins: Instruction, a: Any, b: Any, chosen: Any) -> Any:
    return np.where(chosen, a, b)


def _unequal(a: Any, b: Any) -> Any:
    return (a < b) | (a > b)


COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": np.equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
    "ne": _unequal, "neu": np.not_equal, "equ": lambda a, b: ~_unequal(a, b),
    "ltu": lambda a, b: ~(a >= b), "leu": lambda a, b: ~(a > b),
    "gtu": lambda a, b: ~(a <= b), "geu": lambda a, b: ~(a < b),
    "num": lambda a, b: ~(np.isnan(a) | np.isnan(b)),
    "nan": lambda a, b: np.isnan(a) | np.isnan(b),
}  # fmt: skip
"""False for NaN, but those with u at the end are true for it."""
JOINS = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


@instruction("setp")
def _setp(m: Machine, ins: Instruction) -> Run:
    """``p|q`` gets the result and its opposite, or of a pair the results of both halves."""
    kind = ins.parts[-1]
    require(ins, " ".join((*COMPARISONS, *JOINS)))
    compare, join = COMPARISONS[ins.parts[1]], JOINS.get(ins.parts[2])
    a, b = (m.source(x, kind) for x in ins.operands[1:3])
    third = m.source(ins.operands[3], "pred") if join else None
    targets = [m.target(x, "pred") for x in entries(ins.operands[0])]

    def run(active: Lanes) -> None:
        found = compare(a(), b())
        results = np.moveaxis(found, -1, 0) if kind.endswith("x2") else (found, ~found)
        for target, result in zip(targets, results, strict=False):
            target(join(result, third()) if join else result, active)

    return run


@instruction("mov")
def _mov(m: Machine, ins: Instruction) -> Run:
    """A copy; a register from the registers of its parts; or the parts of a register."""
    to, of = ins.operands
    kind = ins.parts[-1]
    if isinstance(to, Vector):
        return _split(m, ins, to, m.source(of, kind))
    if isinstance(of, Vector):
        part = f"b{WIDTHS[kind] // len(of.entries)}"
        reads = [m.source(x, part) for x in of.entries]
        write = m.target(to, kind)

        def join(active: Lanes) -> None:
            values = np.stack([np.broadcast_to(read(), m.n) for read in reads], 1)
            write(values.view(DTYPES[kind])[:, 0], active)

        return join
    bits = kind if kind == "pred" else f"b{WIDTHS[kind]}"
    read, copy = m.source(of, bits), m.target(to, bits)
    return lambda active: copy(read(), active)


def _split(m: Machine, ins: Instruction, to: Vector, read: Callable[[], Any]) -> Run:
    part = f"b{WIDTHS[ins.parts[-1]] // len(to.entries)}"
    targets = [m.target(x, part) for x in to.entries]

    def run(active: Lanes) -> None:
        parts: Array = np.ascontiguousarray(np.broadcast_to(read(), m.n)).view(DTYPES[part])
        for target, values in zip(targets, parts.reshape(m.n, -1).T, strict=True):
            target(values, active)

    return run


ROUNDINGS = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


@instruction("cvt")
def _cvt(m: Machine, ins: Instruction) -> Run:
    to, of = ins.parts[-2:]
    require(ins, f"{of} {to} rn rna {' '.join(ROUNDINGS)}")
    write = m.target(ins.operands[0], to)
    if to.endswith("x2"):
        high, low = (m.source(x, of) for x in ins.operands[1:])
        return lambda active: write(np.stack(np.broadcast_arrays(low(), high()), -1), active)
    read = m.source(ins.operands[1], of)
    if to == "tf32":
        if not ins.has("rna"):
            raise unknown(ins)
        return lambda active: write(round_to_tf32(read()), active)
    if to in HALVES:
        return lambda active: write(np.asarray(read(), np.float32), active)
    if "f" in of and "f" not in to:
        return lambda active: write(_to_integer(ins, read()), active)
    return lambda active: write(np.asarray(read()).astype(DTYPES[to]), active)


def _to_integer(ins: Instruction, x: Any) -> Any:
    """Rounded as the instruction says; too large numbers become the nearest, NaN becomes 0."""
    rounding = next((f for name, f in ROUNDINGS.items() if ins.has(name)), None)
    if rounding is None or ins.parts[-2] not in ("s32", "u32"):
        raise unknown(ins)
    limits = np.iinfo(DTYPES[ins.parts[-2]])
    whole = np.clip(rounding(np.asarray(x, np.float64)), limits.min, limits.max)
    return np.where(np.isnan(whole), 0, whole).astype(limits.dtype)
