"""What all kernels are made of: tiles of operands, products in each precision tier, tanh, the dropout mask.

Two families of tiers, chosen by the constexpr ``EXACT``:

* ``EXACT = False``: 16-bit operands, or float32 operands read as TF32; ``tanh.approx.f32`` (relative error 2^-11, one
  MUFU instruction). Its error is that of PyTorch at the same precision setting.
* ``EXACT = True``: float32 with full accuracy. Every operand is a sum ``high + low`` of two TF32 numbers and a product
  is ``high high + high low + low high`` (relative error 2^-21); tanh is a rational function (4.4e-7).

Names: ``b_`` a tile (block), ``p_`` a pointer, ``o_`` offsets, ``i_`` an index. A kernel gives an entry of a tuple
argument a name before it enters an ``if``: inside one, Triton 3.6 has forgotten the entry's constants.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
"""Under TRITON_INTERPRET=1 there is no inline assembly, no TF32 and no bfloat16 product: these are spelt out."""


class Operand(NamedTuple):
    """A batch of matrices in memory: pointer, the strides of batch, row and column, and the size of one matrix."""

    p: Any
    stride_b: Any
    stride_r: Any
    stride_c: Any
    rows: Any
    columns: Any


def operand(x: Tensor) -> Operand:
    """``x`` (B, rows, columns), any strides; a batch of 1 is shared by all samples."""
    (batch, rows, columns), (stride_b, stride_r, stride_c) = x.shape, x.stride()
    return Operand(x, stride_b if batch > 1 else 0, stride_r, stride_c, rows, columns)


def transposed(x: Tensor) -> Operand:
    """The matrices of ``x`` (B, columns, rows) transposed, without the view that ``x.mT`` costs a microsecond for."""
    (batch, columns, rows), (stride_b, stride_c, stride_r) = x.shape, x.stride()
    return Operand(x, stride_b if batch > 1 else 0, stride_r, stride_c, rows, columns)


def shared(x: Tensor) -> Operand:
    """One matrix ``x`` (rows, columns) for all samples."""
    return Operand(x, 0, *x.stride(), *x.shape)


@triton.jit
def at(x, i_b):
    """The matrix of sample ``i_b``."""
    return Operand(
        x.p + tl.cast(i_b, tl.int64) * x.stride_b, 0, x.stride_r, x.stride_c, x.rows, x.columns
    )


@triton.jit
def packed(p, i_matrix, rows, columns):
    """Matrix ``i_matrix`` of a contiguous (matrices, rows, columns)."""
    return Operand(p + tl.cast(i_matrix, tl.int64) * (rows * columns), 0, columns, 1, rows, columns)


@triton.jit
def packed_t(p, i_matrix, rows, columns, lead):
    """Matrix ``i_matrix`` (rows, columns) of a contiguous (matrices, columns, lead) whose first ``rows`` are wanted."""
    return Operand(p + tl.cast(i_matrix, tl.int64) * (columns * lead), 0, 1, lead, rows, columns)


@triton.jit
def chosen(entries, i_entry):
    """Entry ``i_entry`` of a tuple of structures that are compiled alike: one piece of code serves them all."""
    entry = entries[0]
    for i in tl.static_range(1, len(entries)):
        if i_entry == i:
            entry = entries[i]
    return entry


@triton.jit
def below(x, first):
    """The matrix from row ``first`` on."""
    return Operand(x.p + first * x.stride_r, 0, x.stride_r, x.stride_c, x.rows - first, x.columns)


@triton.jit
def load_tile(x, o_r, o_c, EDGE: tl.constexpr = True):
    """Rows ``o_r`` and columns ``o_c`` of a matrix, zero outside it; EDGE = False: no row is outside."""
    mask = (o_c < x.columns)[None, :]
    if EDGE:
        mask = mask & (o_r < x.rows)[:, None]
    return tl.load(
        x.p + o_r[:, None] * x.stride_r + o_c[None, :] * x.stride_c, mask=mask, other=0.0
    )


@triton.jit
def load_tile_t(x, o_r, o_c, EDGE: tl.constexpr = True):
    """The transpose of :func:`load_tile`: (columns, rows)."""
    mask = (o_c < x.columns)[:, None]
    if EDGE:
        mask = mask & (o_r < x.rows)[None, :]
    return tl.load(
        x.p + o_c[:, None] * x.stride_c + o_r[None, :] * x.stride_r, mask=mask, other=0.0
    )


@triton.jit
def store_tile(x, o_r, o_c, b_x, EDGE: tl.constexpr = True):
    """Write the part of a tile that lies inside the matrix; EDGE = False: no row is outside."""
    mask = (o_c < x.columns)[None, :]
    if EDGE:
        mask = mask & (o_r < x.rows)[:, None]
    tl.store(
        x.p + o_r[:, None] * x.stride_r + o_c[None, :] * x.stride_c,
        b_x.to(x.p.dtype.element_ty),
        mask=mask,
    )


@triton.jit
def cut(b_x):
    """float32 without the bits that a TF32 unit does not read."""
    return (b_x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)


@triton.jit
def high(b_x):
    """float32 rounded to the 10 mantissa bits of TF32: what is left over then has either sign and no bias."""
    return ((b_x.to(tl.int32, bitcast=True) + 4096) & -8192).to(tl.float32, bitcast=True)


@triton.jit
def finite(b_x, b_y):
    """``b_y``, or 0 where ``b_x`` is infinite: a correction term must not turn an Inf of the main term into NaN."""
    return tl.where(tl.abs(b_x) == float("inf"), 0.0, b_y)


@triton.jit
def dot(b_a, b_b, b_c):
    """``b_a b_b + b_c`` with float32 sums; float32 operands are read as TF32."""
    if INTERPRETED:
        if b_a.dtype == tl.float32:
            b_a, b_b = cut(b_a), cut(b_b)
        else:
            b_a, b_b = b_a.to(tl.float32), b_b.to(tl.float32)
    return tl.dot(b_a, b_b, b_c, input_precision="tf32")


@triton.jit
def dot_full(b_a, b_b, b_c, EXACT: tl.constexpr, GUARD: tl.constexpr = True):
    """``b_a b_b + b_c`` in the accuracy of the tier.

    GUARD keeps an Inf as the main product has it. Without it an Inf becomes NaN in the exact tier: enough for
    gradients, where the registers of the guarded operands would spill.
    """
    if EXACT:
        b_ah, b_bh = high(b_a), high(b_b)
        if GUARD:
            b_c = dot(finite(b_a, b_a - b_ah), finite(b_b, b_bh), b_c)
            b_c = dot(finite(b_a, b_ah), finite(b_b, b_b - b_bh), b_c)
        else:
            b_c = dot(b_a - b_ah, b_bh, b_c)
            b_c = dot(b_ah, b_b - b_bh, b_c)
        return dot(b_ah, b_bh, b_c)
    else:
        return dot(b_a, b_b, b_c)


@triton.jit
def contraction(start, size, K: tl.constexpr, EXACT: tl.constexpr):
    """For K slots of a contraction over ``size`` indices: the index of each slot and which product it is for.

    In the exact tier ``high high + high low + low high`` is one contraction of three times the size: with 10 segments
    30 of 32 slots are used, where three products of 16 slots would take 48. Slots for product 3 are empty.
    """
    o_k = start + tl.arange(0, K)
    if EXACT:
        return o_k % size, tl.where(o_k < 3 * size, o_k // size, 3)
    else:
        return o_k, tl.where(o_k < size, 0, 3)


@triton.jit
def load_part(x, o_r, o_n, i_part, scale, EXACT: tl.constexpr):
    """Rows ``o_r`` of ``scale * x`` as the left operand (rows, K) of a contraction."""
    mask = (o_r < x.rows)[:, None] & (i_part < 3)[None, :]
    b_x = tl.load(x.p + o_r[:, None] * x.stride_r + o_n[None, :] * x.stride_c, mask=mask, other=0.0)
    return part((b_x.to(tl.float32) * scale).to(b_x.dtype), i_part[None, :], 2, EXACT)


@triton.jit
def load_part_t(x, o_r, o_n, i_part, EDGE: tl.constexpr, EXACT: tl.constexpr):
    """Rows ``o_r`` of ``x`` as the right operand (K, rows) of a contraction; EDGE = False: no row is outside."""
    mask = (i_part < 3)[:, None]
    if EDGE:
        mask = mask & (o_r < x.rows)[None, :]
    b_x = tl.load(x.p + o_n[:, None] * x.stride_c + o_r[None, :] * x.stride_r, mask=mask, other=0.0)
    return part(b_x, i_part[:, None], 1, EXACT)


@triton.jit
def part(b_x, i_part, LOW: tl.constexpr, EXACT: tl.constexpr):
    """The half of ``b_x`` that product ``i_part`` reads: product LOW the low one; an Inf only in product 0."""
    if EXACT:
        b_h = high(b_x)
        b_h = tl.where(i_part == LOW, b_x - b_h, b_h)
        return tl.where((i_part != 0) & (tl.abs(b_x) == float("inf")), 0.0, b_h)
    else:
        return b_x


@triton.jit
def order(start, SIZE: tl.constexpr, dtype: tl.constexpr):
    """The SIZE indices from ``start``, in the order in which the columns of a product are best computed.

    A thread holds columns 2t and 2t + 1 of each 8 of an accumulator, but t and t + 4 of the left operand of a TF32
    product. With column 4h + t computed at place 2t + h the one is the other (:func:`natural` moves no data); in plain
    order each element would cost a shuffle and two selects. 16-bit products need no such care.
    """
    o_y = tl.arange(0, SIZE)
    if dtype == tl.float32:
        o_y = (o_y // 8) * 8 + (o_y % 2) * 4 + (o_y % 8) // 2
    return start + o_y


@triton.jit
def paired(start, SIZE: tl.constexpr):
    """SIZE indices from ``start`` in an order for rows of a product that are columns of the dropout mask.

    A thread holds rows r and r + 8 of each 16 of an accumulator. In this order they are columns 16 apart, which share
    one hash.
    """
    o_y = tl.arange(0, SIZE)
    return start + (o_y // 32) * 32 + (o_y // 16) % 2 * 8 + (o_y // 8) % 2 * 16 + o_y % 8


@triton.jit
def natural(b_x, dtype: tl.constexpr):
    """A tile whose columns are in :func:`order`, with its columns in plain order."""
    if dtype == tl.float32:
        b_x = tl.reshape(b_x, (b_x.shape[0], b_x.shape[1] // 8, 4, 2))
        b_x = tl.permute(b_x, (0, 1, 3, 2))
        b_x = tl.reshape(b_x, (b_x.shape[0], b_x.shape[1] * 8))
    return b_x


@triton.jit
def gram(
    b_x, o_n, i_part, x, y, o_x, o_y, scale,
    EDGE: tl.constexpr, EXACT: tl.constexpr, CHUNKS: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """``scale * x yᵀ`` for the rows ``o_x`` and ``o_y``: (rows of x, rows of y) in float32.

    ``b_x`` is the left operand where one chunk of BK slots, ``o_n`` and ``i_part``, holds the whole contraction; else
    they are not read.
    """
    b_s = tl.zeros((o_x.shape[0], o_y.shape[0]), tl.float32)
    if CHUNKS == 1:
        return dot(b_x, load_part_t(y, o_y, o_n, i_part, EDGE, EXACT), b_s)
    else:
        for i_chunk in range(CHUNKS):
            o_c, i_slot = contraction(i_chunk * BK, x.columns, BK, EXACT)
            b_chunk = load_part(x, o_x, o_c, i_slot, scale, EXACT)  # (rows of x, BK)
            b_s = dot(b_chunk, load_part_t(y, o_y, o_c, i_slot, EDGE, EXACT), b_s)
        return b_s


@triton.jit
def tanh(b_x, EXACT: tl.constexpr):
    """tanh of a float32 tile; NaN stays NaN.

    Exact tier: x P(x²) / Q(x²), both of degree 4, fitted on |x| < 9.01 where float32 tanh is 1; error 4.4e-7.
    """
    if EXACT or INTERPRETED:
        b_x = tl.clamp(b_x, -9.01, 9.01, propagate_nan=tl.PropagateNan.ALL)
        u = b_x * b_x
        p = tl.fma(u, 1.3336875603897624e-08, 2.0596295144059695e-05)
        p = tl.fma(u, p, 0.003494812408462167)
        p = tl.fma(u, p, 0.13380372524261475)
        p = tl.fma(u, p, 1.0)
        q = tl.fma(u, 7.769294825266115e-07, 0.00032843652297742665)
        q = tl.fma(u, q, 0.025874031707644463)
        q = tl.fma(u, q, 0.4671368896961212)
        q = tl.fma(u, q, 1.0)
        return b_x * p * reciprocal(q)
    else:
        return tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=f,f", [b_x], dtype=tl.float32, is_pure=True, pack=1
        )


@triton.jit
def reciprocal(b_x):
    """1 / x of a float32 tile to 1 ulp, one MUFU instruction."""
    if INTERPRETED:
        return 1.0 / b_x
    else:
        return tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [b_x], dtype=tl.float32, is_pure=True, pack=1
        )


@triton.jit
def mix(h):
    """The 32-bit mixer of :mod:`jca_fast.ops.dropout`."""
    h = (h ^ (h >> 16)) * 0x7FEB352D
    h = (h ^ (h >> 15)) * 0x846CA68B
    return h ^ (h >> 16)


@triton.jit
def sample_key(p_seed, i_modality, i_b):
    """The key of one sample's dropout mask; modality ``i_modality`` uses the seed folded by its index."""
    seed = (
        tl.load(p_seed).to(tl.uint64, bitcast=True)
        + tl.cast(i_modality, tl.uint64) * 0x9E3779B97F4A7C15
    )
    key = mix(mix(seed.to(tl.uint32)) + (seed >> 32).to(tl.uint32))
    return mix(key + tl.cast(i_b, tl.uint32) * 0x9E3779B9)


@triton.jit
def row_keys(key, o_m):
    """The keys of the rows ``o_m`` of the affinity matrix."""
    return mix(key + o_m.to(tl.uint32) * 0x9E3779B1)


@triton.jit
def keep(b_row, b_column, threshold):
    """Which elements are kept, for row keys and column indices that broadcast against each other.

    Where the compiler sees that a thread holds two columns 16 apart, it computes their common hash once: so a first
    column that is known to be a multiple of 32 is written as one.
    """
    o_l = b_column.to(tl.uint32)
    word = (o_l // 32) * 16 + o_l % 16
    h = (b_row ^ (word * 0x85EBCA77)) * 0x7FEB352D
    h = (h ^ (h >> 15)) * 0x846CA68B
    h = h ^ (h >> 16)
    return ((h >> (o_l & 16)) & 0xFFFF) >= threshold
