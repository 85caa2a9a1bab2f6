"""Instructions that compute in each lane independently."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .formats import DTYPES, HALVES, WIDTHS, flush, perturb, round_to_tf32
from .instructions import Run, instruction, unknown
from .machine import Lanes, Machine
from .parser import Instruction, Vector, entries

KINDS = "|".join(DTYPES)
OWN = "own"
BITS = "bits"
PRODUCT = "product"
TO = "to"
"""Kinds of operands: the instruction's own type, its bits, what ``mul`` or ``cvt`` yields."""


def _kind(which: str, ins: Instruction) -> str:
    own = ins.parts[-1]
    product = f"{own[0]}{2 * WIDTHS[own]}" if ins.has("wide") else own
    kinds = {OWN: own, BITS: f"b{WIDTHS[own]}", PRODUCT: product, TO: ins.parts[-2]}
    return kinds.get(which, which)


def elementwise(
    names: str, *sources: str, result: str = OWN, modifiers: str = ""
) -> Callable[..., Any]:
    """Register ``function(ins, *operands)``, or a numpy ufunc, as instructions of every lane.

    ``sources`` and ``result`` are kinds; names and modifiers have bars between them.
    """

    def register(function: Any) -> Any:
        def build(m: Machine, ins: Instruction) -> Run:
            kind = _kind(result, ins)
            reads = [
                m.source(operand, _kind(source, ins))
                for operand, source in zip(ins.operands[1:], sources, strict=True)
            ]
            plain = isinstance(function, np.ufunc)
            if plain and kind not in HALVES and not ins.has("ftz"):
                out = m.register(ins.operands[0], kind)
                return lambda active: function(
                    *[read() for read in reads], out=out, where=active.where
                )
            write = m.target(ins.operands[0], kind)
            call = function if plain else partial(function, ins)
            after = flush if ins.has("ftz") else lambda x: x
            return lambda active: write(after(call(*[read() for read in reads])), active)

        instruction(f"(?:{names})(?: (?:{modifiers}))* (?:{KINDS})")(build)
        return function

    return register


UFUNCS = {
    "add": np.add, "sub": np.subtract, "neg": np.negative, "abs": np.abs,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert,
}  # fmt: skip
for _name, _ufunc in UFUNCS.items():
    elementwise(_name, *[OWN] * _ufunc.nin, modifiers="rn|ftz")(_ufunc)


elementwise("mul", OWN, OWN, modifiers="rn|ftz|lo")(np.multiply)


@elementwise("mul (?:hi|wide)(?= .(?:16|32))", OWN, OWN, result=PRODUCT)
def _multiply_wide(ins: Instruction, a: Any, b: Any) -> Any:
    kind = ins.parts[-1]
    wide = DTYPES[f"{kind[0]}{2 * WIDTHS[kind]}"]
    product = np.multiply(a, b, dtype=wide)
    return product if ins.has("wide") else product >> wide(WIDTHS[kind])


elementwise("mad lo", OWN, OWN, OWN)(lambda ins, a, b, c: a * b + c)
elementwise("mad wide(?= .(?:16|32))", OWN, OWN, PRODUCT, result=PRODUCT)(
    lambda ins, a, b, c: _multiply_wide(ins, a, b) + c
)
elementwise("fma(?!.* f64)", OWN, OWN, OWN, modifiers="rn|ftz")(
    lambda ins, a, b, c: (np.multiply(a, b, dtype=np.float64) + c).astype(np.float32)
)
"""The product is exact."""


@elementwise("div", OWN, OWN, modifiers="rn|full|approx|ftz")
def _divide(ins: Instruction, a: Any, b: Any) -> Any:
    """Integers are divided toward zero; where b is 0 all bits are set."""
    if ins.parts[-1][0] == "f":
        quotient = np.divide(a, b)
        return quotient if ins.has("rn") else perturb(quotient, 2.0**-22)
    safe = np.where(b == 0, np.ones_like(b), b)
    down = a // safe
    quotient = down + ((down < 0) & (down * safe != a)).astype(safe.dtype)
    return np.where(b == 0, ~np.zeros_like(b), quotient)


elementwise("rem", OWN, OWN)(lambda ins, a, b: a - _divide(ins, a, b) * b)
EXTREMES = {"min": (np.minimum, np.fmin), "max": (np.maximum, np.fmax)}


@elementwise("min|max", OWN, OWN, modifiers="NaN|xorsign|abs|ftz")
def _extreme(ins: Instruction, a: Any, b: Any) -> Any:
    """Without .NaN a number wins over NaN; with .xorsign.abs magnitudes are compared."""
    with_nan, without_nan = EXTREMES[ins.parts[0]]
    pick = with_nan if ins.has("NaN") or ins.parts[-1][0] in "us" else without_nan
    if not ins.has("xorsign"):
        return pick(a, b)
    size = pick(np.abs(a), np.abs(b))
    return np.where(np.signbit(a) ^ np.signbit(b), -size, size)


@elementwise("shl|shr", OWN, "u32")
def _shift(ins: Instruction, a: Any, amount: Any) -> Any:
    kind = ins.parts[-1]
    amount = np.minimum(amount, np.uint32(WIDTHS[kind])).astype(DTYPES[kind])
    return np.left_shift(a, amount) if ins.parts[0] == "shl" else np.right_shift(a, amount)


@elementwise("prmt", "b32", "b32", "b32")
def _permute_bytes(ins: Instruction, a: Any, b: Any, selector: Any) -> Any:
    a, b, selector = np.broadcast_arrays(a, b, selector)
    both = np.stack([a, b], -1).view(np.uint8)
    choices = (selector[..., None] >> np.arange(0, 16, 4, dtype=np.uint32)).astype(np.int64)
    picked = np.take_along_axis(both, choices & 7, -1)
    signs = (picked.view(np.int8) >> 7).view(np.uint8)
    return np.where(choices & 8, signs, picked).view(np.uint32)[..., 0]


def _field(ins: Instruction, start: Any, length: Any) -> tuple[Any, Any]:
    """The start of a field of bits, and its bits moved to bit 0, as 64-bit numbers."""
    width = WIDTHS[ins.parts[-1]]
    start, length = ((x & np.uint32(255)).clip(0, width).astype(np.int64) for x in (start, length))
    return start, (np.int64(1) << length) - 1


@elementwise("bfe(?= [su]32)", OWN, "u32", "u32")
def _extract_bits(ins: Instruction, a: Any, start: Any, length: Any) -> Any:
    """Bits ``start`` .. ``start + length`` of a; a signed field keeps its sign."""
    start, ones = _field(ins, start, length)
    bits = np.asarray(a).astype(np.int64) >> start & ones
    sign = ones + 1 >> 1
    return (bits ^ sign) - sign if ins.has("s32") else bits


@elementwise("bfi", OWN, OWN, "u32", "u32")
def _insert_bits(ins: Instruction, a: Any, b: Any, start: Any, length: Any) -> Any:
    start, ones = _field(ins, start, length)
    a, b = np.asarray(a).astype(np.int64), np.asarray(b).astype(np.int64)
    return b & ~(ones << start) | (a & ones) << start


APPROXIMATE: dict[str, tuple[Callable[[Any], Any], float]] = {
    "tanh": (np.tanh, 2.0**-11), "ex2": (np.exp2, 2.0**-22), "lg2": (np.log2, 2.0**-22),
    "rcp": (np.reciprocal, 2.0**-23), "sqrt": (np.sqrt, 2.0**-22),
    "rsqrt": (lambda x: 1 / np.sqrt(x), 2.0**-22.9),
}  # fmt: skip
"""Function and the relative error that NVIDIA documents for its ``.approx`` form."""


@elementwise("|".join(APPROXIMATE), OWN, modifiers="approx|rn|ftz")
def _transcendental(ins: Instruction, a: Any) -> Any:
    function, bound = APPROXIMATE[ins.parts[0]]
    a = flush(a) if ins.has("ftz") else a
    value = np.asarray(function(np.asarray(a, np.float64))).astype(np.float32)
    if ins.has("approx"):
        value = np.where(np.isinf(a), value, perturb(value, bound))
    return np.clip(value, -1, 1) if ins.parts[0] == "tanh" else value


elementwise("selp", BITS, BITS, "pred", result=BITS)(
    lambda ins, a, b, chosen: np.where(chosen, a, b)
)


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


@instruction(rf"setp ({'|'.join(COMPARISONS)})(?: ({'|'.join(JOINS)}))? ({KINDS})")
def _setp(m: Machine, ins: Instruction, compare: str, join: str | None, kind: str) -> Run:
    """``p|q`` gets the result and its opposite, or of a pair the results of both halves."""
    a, b = (m.source(x, kind) for x in ins.operands[1:3])
    third = m.source(ins.operands[3], "pred") if join else None
    targets = [m.target(x, "pred") for x in entries(ins.operands[0])]

    def run(active: Lanes) -> None:
        found = COMPARISONS[compare](a(), b())
        results = np.moveaxis(found, -1, 0) if kind.endswith("x2") else (found, ~found)
        for write, result in zip(targets, results, strict=False):
            write(JOINS[join](result, third()) if join else result, active)

    return run


@instruction(rf"mov ({KINDS})")
def _mov(m: Machine, ins: Instruction, kind: str) -> Run:
    """A copy; a register from the registers of its parts; or the parts of a register."""
    to, of = ins.operands
    if isinstance(to, Vector) or isinstance(of, Vector):
        part, whole = (f"b{WIDTHS[kind] // len(entries(x))}" for x in (to, of))
        put, get = m.scatter(to, part), m.gather(of, whole)
        return lambda active: put(get(active.index).view(DTYPES[part]), active.index)
    bits = kind if kind == "pred" else f"b{WIDTHS[kind]}"
    read, write = m.source(of, bits), m.target(to, bits)
    return lambda active: write(read(), active)


ROUNDINGS = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


@elementwise(f"cvt (?:{'|'.join(ROUNDINGS)}) (?:s32|u32)", OWN, result=TO)
def _to_integer(ins: Instruction, x: Any) -> Any:
    """Rounded as the instruction says; too large numbers become the nearest, NaN becomes 0."""
    rounding, limits = ROUNDINGS[ins.parts[1]], np.iinfo(DTYPES[ins.parts[2]])
    whole = np.clip(rounding(np.asarray(x, np.float64)), limits.min, limits.max)
    return np.where(np.isnan(whole), 0, whole).astype(limits.dtype)


elementwise("cvt rna tf32", OWN, result=TO)(lambda ins, x: round_to_tf32(x))
elementwise("cvt rn (?:f16x2|bf16x2)", OWN, OWN, result=TO)(
    lambda ins, high, low: np.stack(np.broadcast_arrays(low, high), -1)
)


@elementwise(f"cvt(?: rn)? (?:{KINDS})", OWN, result=TO)
def _convert(ins: Instruction, x: Any) -> Any:
    to, of = ins.parts[-2:]
    if to == "tf32" or ("f" in of and "f" not in to):
        raise unknown(ins)
    return np.asarray(x, np.float32 if to in HALVES else DTYPES[to])
