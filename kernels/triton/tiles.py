"""The arithmetic of tiles: products in each precision tier, and tanh.

Two families of tiers, chosen by the constant ``EXACT``:

* ``EXACT = False``: operands of 16 bits, or float32 operands read as TF32; ``tanh.approx.f32``, one
  MUFU instruction with relative error 2^-11. The error is PyTorch's at the same precision setting.
* ``EXACT = True``: float32 with full accuracy. Every operand is a sum ``high + low`` of two TF32
  numbers, and a product is ``high high + high low + low high`` (relative error 2^-21); tanh is a
  rational function (4.4e-7).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
"""The interpreter has no inline assembly, no TF32 and no product of bfloat16: kernels spell them
out."""


@triton.jit
def truncate_to_tf32(b_x):
    """float32 without the bits that a TF32 unit does not read."""
    return (b_x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)


@triton.jit
def round_to_tf32(b_x):
    """float32 rounded to the 10 mantissa bits of TF32, so that the remainder is unbiased."""
    return ((b_x.to(tl.int32, bitcast=True) + 4096) & -8192).to(tl.float32, bitcast=True)


@triton.jit
def zero_where_infinite(b_x, b_y):
    """``b_y``, or 0 where ``b_x`` is infinite: a correction must not turn an Inf into a NaN."""
    return tl.where(tl.abs(b_x) == float("inf"), 0.0, b_y)


@triton.jit
def dot(b_a, b_b, b_c):
    """``b_a b_b + b_c`` with float32 sums; float32 operands are read as TF32."""
    if INTERPRETED:
        if b_a.dtype == tl.float32:
            b_a = truncate_to_tf32(b_a)
            b_b = truncate_to_tf32(b_b)
        else:
            b_a = b_a.to(tl.float32)
            b_b = b_b.to(tl.float32)
    return tl.dot(b_a, b_b, b_c, input_precision="tf32")


@triton.jit
def add_outside(b_sum, b_product):
    """``b_sum + b_product``, rounded by a float32 adder.

    Tensor cores align the sum so far with the products and cut it toward zero: over hundreds of
    tiles that bias exceeds float32's own error. The addition is assembly because Triton would fold
    ``sum + dot(a, b, 0)`` back into ``dot(a, b, sum)``.
    """
    if INTERPRETED:
        return b_sum + b_product
    else:
        return tl.inline_asm_elementwise(
            "add.rn.f32 $0, $1, $2;",
            "=f,f,f",
            [b_sum, b_product],
            dtype=tl.float32,
            is_pure=True,
            pack=1,
        )


@triton.jit
def product(b_a, b_b, EXACT: tl.constexpr, GUARD: tl.constexpr = True):
    """``b_a b_b`` in the accuracy of the tier.

    In the exact tier the small products come first: each sum of a tensor core is cut, and theirs
    are cut at smaller numbers. With GUARD the result has an Inf wherever the main product has one.
    Without it an Inf becomes NaN in the exact tier. The backward omits the guard, because guarded
    operands spill.
    """
    b_c = tl.zeros((b_a.shape[0], b_b.shape[1]), tl.float32)
    if EXACT:
        b_ah = round_to_tf32(b_a)
        b_bh = round_to_tf32(b_b)
        if GUARD:
            b_c = dot(zero_where_infinite(b_a, b_a - b_ah), zero_where_infinite(b_b, b_bh), b_c)
            b_c = dot(zero_where_infinite(b_a, b_ah), zero_where_infinite(b_b, b_b - b_bh), b_c)
        else:
            b_c = dot(b_a - b_ah, b_bh, b_c)
            b_c = dot(b_ah, b_b - b_bh, b_c)
        return dot(b_ah, b_bh, b_c)
    else:
        return dot(b_a, b_b, b_c)


@triton.jit
def add_product(b_c, b_a, b_b, EXACT: tl.constexpr, GUARD: tl.constexpr = True):
    """``b_c + b_a b_b`` in the accuracy of the tier; exact: every product starts from zero."""
    if EXACT:
        return add_outside(b_c, product(b_a, b_b, EXACT, GUARD))
    else:
        return dot(b_a, b_b, b_c)


@triton.jit
def contraction_slots(start, size, K: tl.constexpr, EXACT: tl.constexpr):
    """For K slots of a contraction over ``size`` indices: each slot's index and its product.

    In the exact tier the three products are one contraction of three times the size. With 10
    segments that fills 30 of 32 slots, where three products of 16 slots would take 48. The small
    products come first, see :func:`product`::

        slot       0 ........ 9 10 ....... 19 20 ....... 29 30 31
        index      0 ........ 9  0 ........ 9  0 ........ 9  -  -
        product    0  0  0  0 0  1  1  1  1 1  2  2  2  2 2  3  3
        left     [     low     |    high     |    high     |  0  ]   (rows, K)
        right    [    high     |     low     |    high     |  0  ]   (K, columns), drawn on its side

        left right = low high + high low + high high

    In other tiers a slot has product 2, or product 3 if it is empty.
    """
    o_k = start + tl.arange(0, K)
    if EXACT:
        return o_k % size, tl.where(o_k < 3 * size, o_k // size, 3)
    else:
        return o_k, tl.where(o_k < size, 2, 3)


@triton.jit
def split_half(b_x, i_product, LOW: tl.constexpr, EXACT: tl.constexpr):
    """The half of ``b_x`` that a product reads: the low one in product LOW; an Inf only in 2."""
    if EXACT:
        b_h = round_to_tf32(b_x)
        b_h = tl.where(i_product == LOW, b_x - b_h, b_h)
        return tl.where((i_product != 2) & (tl.abs(b_x) == float("inf")), 0.0, b_h)
    else:
        return b_x


@triton.jit
def load_left(x, o_r, o_n, i_product, scale, EXACT: tl.constexpr):
    """Rows ``o_r`` of ``scale * x`` as the left operand (rows, K) of a contraction."""
    mask = (o_r < x.rows)[:, None] & (i_product < 3)[None, :]
    b_x = tl.load(x.p + o_r[:, None] * x.stride_r + o_n[None, :] * x.stride_c, mask=mask, other=0.0)
    return split_half((b_x.to(tl.float32) * scale).to(b_x.dtype), i_product[None, :], 0, EXACT)


@triton.jit
def load_right(x, o_r, o_n, i_product, EDGE: tl.constexpr, EXACT: tl.constexpr):
    """Rows ``o_r`` of ``x`` as the right operand (K, rows); EDGE = False: all rows exist."""
    mask = (i_product < 3)[:, None]
    if EDGE:
        mask = mask & (o_r < x.rows)[None, :]
    b_x = tl.load(x.p + o_n[:, None] * x.stride_c + o_r[None, :] * x.stride_r, mask=mask, other=0.0)
    return split_half(b_x, i_product[:, None], 1, EXACT)


class Left(NamedTuple):
    """The left operand of :func:`scores`: ``scale`` times the rows ``o_r`` of the matrix ``x``.

    ``b_x`` (rows, BK) holds the slots ``o_n`` of the products ``i_product``. It is unused if the
    contraction takes several blocks.
    """

    x: Any
    o_r: Any
    scale: Any
    b_x: Any
    o_n: Any
    i_product: Any


@triton.jit
def left_operand(x, o_r, scale, TILE: tl.constexpr):
    """The first block of ``scale`` times the rows ``o_r`` of ``x``."""
    o_n, i_product = contraction_slots(0, x.columns, TILE.BK, TILE.EXACT)
    b_x = load_left(x, o_r, o_n, i_product, scale, TILE.EXACT)  # (rows, BK)
    return Left(x, o_r, scale, b_x, o_n, i_product)


@triton.jit
def scores(left, y, o_y, EDGE: tl.constexpr, TILE: tl.constexpr):
    """``scale * x yᵀ`` for the rows of ``left`` and the rows ``o_y`` of y, in float32."""
    b_zero = tl.zeros((left.o_r.shape[0], o_y.shape[0]), tl.float32)
    if TILE.CHUNKS == 1:
        b_y = load_right(y, o_y, left.o_n, left.i_product, EDGE, TILE.EXACT)  # (BK, rows of y)
        return dot(left.b_x, b_y, b_zero)
    else:
        b_s = b_zero
        for i_chunk in range(TILE.CHUNKS):
            o_n, i_product = contraction_slots(
                i_chunk * TILE.BK, left.x.columns, TILE.BK, TILE.EXACT
            )
            b_x = load_left(left.x, left.o_r, o_n, i_product, left.scale, TILE.EXACT)
            b_y = load_right(y, o_y, o_n, i_product, EDGE, TILE.EXACT)
            if TILE.EXACT:
                b_s = add_outside(b_s, dot(b_x, b_y, b_zero))
            else:
                b_s = dot(b_x, b_y, b_s)
        return b_s


@triton.jit
def mma_column_order(start, SIZE: tl.constexpr, dtype: tl.constexpr):
    """SIZE indices from ``start``, in the order in which a product computes its columns.

    A thread holds columns 2t and 2t + 1 of each 8 of an accumulator, but t and t + 4 of the left
    operand of a TF32 product. If column 4h + t is computed at place 2t + h, both layouts agree, and
    :func:`undo_column_order` moves no data. In plain order each element would cost a shuffle and
    two selects. Products of 16 bits do not need it.
    """
    o_y = tl.arange(0, SIZE)
    if dtype == tl.float32:
        o_y = (o_y // 8) * 8 + (o_y % 2) * 4 + (o_y % 8) // 2
    return start + o_y


@triton.jit
def undo_column_order(b_x, dtype: tl.constexpr):
    """A tile whose columns are in :func:`mma_column_order`, with its columns in plain order."""
    if dtype == tl.float32:
        b_x = tl.reshape(b_x, (b_x.shape[0], b_x.shape[1] // 8, 4, 2))
        b_x = tl.permute(b_x, (0, 1, 3, 2))
        b_x = tl.reshape(b_x, (b_x.shape[0], b_x.shape[1] * 8))
    return b_x


@triton.jit
def tanh(b_x, EXACT: tl.constexpr):
    """tanh of a float32 tile; NaN stays NaN.

    Exact tier: x P(x²) / Q(x²), both of degree 4, fitted on |x| < 9.01, where float32 tanh reaches
    1; error 4.4e-7.
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
