"""Number formats of PTX as numpy has them, and how tensor cores and approximate instructions round.

bfloat16 and pairs of 16-bit floats are held as bits and computed in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

DTYPES: dict[str, Any] = {
    "pred": np.bool_, "b8": np.uint8, "u8": np.uint8, "s8": np.int8,
    "b16": np.uint16, "u16": np.uint16, "s16": np.int16, "f16": np.uint16, "bf16": np.uint16,
    "b32": np.uint32, "u32": np.uint32, "s32": np.int32, "f32": np.float32, "tf32": np.uint32,
    "f16x2": np.uint32, "bf16x2": np.uint32,
    "b64": np.uint64, "u64": np.uint64, "s64": np.int64, "f64": np.float64,
}  # fmt: skip
WIDTHS = {kind: 8 * np.dtype(dtype).itemsize for kind, dtype in DTYPES.items()} | {"pred": 1}
HALVES = ("f16", "bf16", "f16x2", "bf16x2")
"""Kinds that are decoded to float32 before an operation and rounded once after it."""


def decode(bits: Any, kind: str) -> Array:
    """16-bit floats to float32; pairs get an axis, the lower half first."""
    bits = np.ascontiguousarray(bits)
    halves = bits.view(np.uint16).reshape(*bits.shape, 2) if kind.endswith("x2") else bits
    if kind.startswith("f16"):
        return halves.view(np.float16).astype(np.float32)
    return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)


def encode(x: Array, kind: str) -> Array:
    """float32 to the bits of 16-bit floats, rounded to nearest even; pairs lose their axis."""
    if kind.startswith("f16"):
        bits = x.astype(np.float16).view(np.uint16)
    else:
        wide = np.ascontiguousarray(x, np.float32).view(np.uint32)
        odd = wide >> np.uint32(16) & np.uint32(1)
        rounded = (wide + (np.uint32(0x7FFF) + odd)) >> np.uint32(16)
        bits = np.where(np.isnan(x), np.uint32(0x7FFF), rounded).astype(np.uint16)
    if not kind.endswith("x2"):
        return bits
    return np.ascontiguousarray(bits).view(np.uint32)[..., 0]


def round_to_tf32(x: Array) -> Array:
    """float32 to bits with 10 bits of mantissa; a tie goes away from zero."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
    return np.where(np.isfinite(x), rounded, bits)


def tensor_core_input(bits: Array, kind: str) -> Array:
    """Decode an operand as a tensor core does, to float64: it ignores the low 13 bits of TF32."""
    if kind == "tf32":
        return (bits & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)
    return decode(bits, kind).astype(np.float64)


def flush(x: Array) -> Array:
    """Denormal numbers become zero (``.ftz``)."""
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), x), x)


def perturb(x: Array, bound: float) -> Array:
    """float32 results off by a pseudo-random relative error below ``bound`` that their bits decide.

    Approximate instructions promise no more, so a kernel must not rely on more.
    """
    x = np.asarray(x, np.float32)
    h = x.view(np.uint32) * np.uint32(0x9E3779B1)
    h = (h ^ h >> np.uint32(15)) * np.uint32(0x85EBCA77)
    error = (h >> np.uint32(8)).astype(np.float64) * 2.0**-23 - 1.0
    return (x * (1.0 + bound * error)).astype(np.float32)


def multiply_accumulate(a: Array, b: Array, c: Array, kind: str, guard_bits: int | None) -> Array:
    """a (..., M, K) times b (..., K, N), both float64, plus c (..., M, N) float32: one mma.

    ``guard_bits`` None rounds the exact sum once. A number models measured tensor cores (Fasi,
    Higham, Mikaitis and Pranesh 2021, "Numerical behavior of NVIDIA tensor cores"): the products
    of a block and the sum so far are cut to ``guard_bits`` below the last bit of the largest,
    added, and the sum is cut toward zero.
    """
    if guard_bits is None:
        return (a @ b + c).astype(np.float32)
    block = 4 if kind == "tf32" else 8
    for k in range(0, a.shape[-1], block):
        part = slice(k, k + block)
        products = a[..., :, None, part] * np.swapaxes(b[..., part, :], -1, -2)[..., None, :, :]
        terms = np.concatenate([products, c[..., None].astype(np.float64)], -1)
        exponent = np.frexp(np.abs(terms).max(-1))[1] - 1
        unit = np.ldexp(1.0, exponent - 23 - guard_bits)
        c = _toward_zero(np.trunc(terms / unit[..., None]).sum(-1) * unit)
    return c


def _toward_zero(x: Array) -> Array:
    near = x.astype(np.float32)
    too_large = np.abs(near.astype(np.float64)) > np.abs(x)
    return np.where(too_large, np.nextafter(near, np.float32(0)), near)
