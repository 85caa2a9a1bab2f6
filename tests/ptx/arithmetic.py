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
PRODUCT = "product"
TO = "to"
"""Kinds of operands: the instruction's own type, what ``mul`` or ``cvt`` yields."""


def _kind(which: str, ins: Instruction) -> str:
    own = ins.parts[-1]
    product = f"{own[0]}{2 * WIDTHS[own]}" if "wide" in ins.parts else own
    return {OWN: own, PRODUCT: product, TO: ins.parts[-2]}.get(which, which)


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
            if plain and kind not in HALVES:
                out = m.register(ins.operands[0], kind)
                return lambda active: function(
                    *[read() for read in reads], out=out, where=active.where
                )
            write = m.target(ins.operands[0], kind)
            call = function if plain else partial(function, ins)
            return lambda active: write(call(*[read() for read in reads]), active)

        instruction(f"(?:{names})(?: (?:{modifiers}))* (?:{KINDS})")(build)
        return function

    return register


UFUNCS = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "neg": np.negative, "abs": np.abs,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert,
}  # fmt: skip
for _name, _ufunc in UFUNCS.items():
    elementwise(_name, *[OWN] * _ufunc.nin, modifiers="rn|lo")(_ufunc)


@elementwise("mul (?:hi|wide)(?= .(?:16|32))", OWN, OWN, result=PRODUCT)
def _multiply_wide(ins: Instruction, a: Any, b: Any) -> Any:
    kind = ins.parts[-1]
    wide = DTYPES[f"{kind[0]}{2 * WIDTHS[kind]}"]
    product = np.multiply(a, b, dtype=wide)
    return product if "wide" in ins.parts else product >> wide(WIDTHS[kind])


elementwise("mad lo", OWN, OWN, OWN)(lambda ins, a, b, c: a * b + c)
elementwise("mad wide(?= .(?:16|32))", OWN, OWN, PRODUCT, result=PRODUCT)(
    lambda ins, a, b, c: _multiply_wide(ins, a, b) + c
)
elementwise("fma rn(?!.* f64)", OWN, OWN, OWN)(
    lambda ins, a, b, c: (np.multiply(a, b, dtype=np.float64) + c).astype(np.float32)
)
"""The product is exact."""


@elementwise("div(?= [su]32)", OWN, OWN)
def _divide(ins: Instruction, a: Any, b: Any) -> Any:
    """Toward zero. float64 is exact enough for 32 bits."""
    return np.trunc(np.divide(a, b, dtype=np.float64)).astype(DTYPES[ins.parts[-1]])


elementwise("rem(?= [su]32)", OWN, OWN)(lambda ins, a, b: a - _divide(ins, a, b) * b)
elementwise("div rn", OWN, OWN)(np.divide)
elementwise("div full", OWN, OWN)(lambda ins, a, b: perturb(np.divide(a, b), 2.0**-22))
EXTREMES = {"min": (np.minimum, np.fmin), "max": (np.maximum, np.fmax)}


@elementwise("min|max", OWN, OWN, modifiers="NaN|xorsign|abs")
def _extreme(ins: Instruction, a: Any, b: Any) -> Any:
    """Without .NaN a number wins over NaN; with .xorsign.abs magnitudes are compared."""
    with_nan, without_nan = EXTREMES[ins.parts[0]]
    pick = with_nan if "NaN" in ins.parts else without_nan
    if "xorsign" not in ins.parts:
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
    return (bits ^ sign) - sign if "s32" in ins.parts else bits


@elementwise("bfi", OWN, OWN, "u32", "u32")
def _insert_bits(ins: Instruction, a: Any, b: Any, start: Any, length: Any) -> Any:
    start, ones = _field(ins, start, length)
    a, b = np.asarray(a).astype(np.int64), np.asarray(b).astype(np.int64)
    return b & ~(ones << start) | (a & ones) << start


APPROXIMATE: dict[str, tuple[Callable[[Any], Any], float]] = {
    "tanh": (np.tanh, 2.0**-11),
    "ex2": (np.exp2, 2.0**-22),
    "rcp": (np.reciprocal, 2.0**-23),
}
"""Function and the relative error that NVIDIA documents for its ``.approx`` form."""


@elementwise("|".join(APPROXIMATE), OWN, modifiers="approx|rn|ftz")
def _transcendental(ins: Instruction, a: Any) -> Any:
    function, bound = APPROXIMATE[ins.parts[0]]
    a = flush(a) if "ftz" in ins.parts else a
    value = np.asarray(function(np.asarray(a, np.float64))).astype(np.float32)
    if "approx" in ins.parts:
        value = np.where(np.isinf(a), value, perturb(value, bound))
    value = flush(value) if "ftz" in ins.parts else value
    return np.clip(value, -1, 1) if ins.parts[0] == "tanh" else value


elementwise("selp", OWN, OWN, "pred")(lambda ins, a, b, chosen: np.where(chosen, a, b))


COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": np.equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "ne": lambda a, b: (a < b) | (a > b), "neu": np.not_equal,
    "ltu": lambda a, b: ~(a >= b), "leu": lambda a, b: ~(a > b),
    "gtu": lambda a, b: ~(a <= b), "geu": lambda a, b: ~(a < b),
    "num": lambda a, b: ~(np.isnan(a) | np.isnan(b)),
    "nan": lambda a, b: np.isnan(a) | np.isnan(b),
}  # fmt: skip
"""False for NaN, but those with u at the end are true for it."""


@instruction(rf"setp ({'|'.join(COMPARISONS)}) ({KINDS})")
def _setp(m: Machine, ins: Instruction, compare: str, kind: str) -> Run:
    """``p|q`` gets the result and its opposite, or of a pair the results of both halves."""
    a, b = (m.source(x, kind) for x in ins.operands[1:])
    targets = [m.target(x, "pred") for x in entries(ins.operands[0])]

    def run(active: Lanes) -> None:
        found = COMPARISONS[compare](a(), b())
        results = np.moveaxis(found, -1, 0) if kind.endswith("x2") else (found, ~found)
        for write, result in zip(targets, results, strict=False):
            write(result, active)

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
