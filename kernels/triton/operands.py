"""Matrices in memory: kernel arguments, parts of matrices, loads and stores of tiles.

Names in all kernels: ``b_`` a tile (block), ``p_`` a pointer, ``o_`` offsets, ``i_`` an index.

A kernel names an entry of a tuple argument before it enters an ``if``: inside one, Triton 3.6
loses track of the entries that are constants. It cannot pass the entries of ``TILE`` to its own
``tl.zeros`` either, so a tile of zeros with such a shape is a ``tl.full``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor


class Operand(NamedTuple):
    """A batch of matrices: pointer, strides of batch, row and column, and the size of a matrix."""

    p: Any
    stride_b: Any
    stride_r: Any
    stride_c: Any
    rows: Any
    columns: Any


def operand(x: Tensor) -> Operand:
    """``x`` (B, rows, columns) with any strides; all samples share a batch of 1."""
    batch, rows, columns = x.shape
    stride_b, stride_r, stride_c = x.stride()
    return Operand(x, stride_b if batch > 1 else 0, stride_r, stride_c, rows, columns)


def transposed(x: Tensor) -> Operand:
    """The transposes of ``x`` (B, columns, rows), without a view: ``x.mT`` takes a microsecond."""
    batch, columns, rows = x.shape
    stride_b, stride_c, stride_r = x.stride()
    return Operand(x, stride_b if batch > 1 else 0, stride_r, stride_c, rows, columns)


def shared(x: Tensor) -> Operand:
    """One matrix ``x`` (rows, columns) for all samples."""
    return Operand(x, 0, *x.stride(), *x.shape)


@triton.jit
def sample_matrix(x, i_b):
    """The matrix of sample ``i_b``."""
    p = x.p + tl.cast(i_b, tl.int64) * x.stride_b
    return Operand(p, 0, x.stride_r, x.stride_c, x.rows, x.columns)


@triton.jit
def rows_from(x, first):
    """The matrix without its rows before ``first``."""
    return Operand(x.p + first * x.stride_r, 0, x.stride_r, x.stride_c, x.rows - first, x.columns)


@triton.jit
def corner_from(x, first_r, first_c):
    """The matrix from row ``first_r`` and column ``first_c`` on.

    The offset has 64 bits, because the affinity matrix of one sample may have 2^31 elements.
    """
    p = x.p + tl.cast(first_r, tl.int64) * x.stride_r + tl.cast(first_c, tl.int64) * x.stride_c
    return Operand(p, 0, x.stride_r, x.stride_c, x.rows - first_r, x.columns - first_c)


@triton.jit
def packed_matrix(p, i_matrix, rows, columns):
    """Matrix ``i_matrix`` of a contiguous (matrices, rows, columns)."""
    return Operand(p + tl.cast(i_matrix, tl.int64) * (rows * columns), 0, columns, 1, rows, columns)


@triton.jit
def packed_transpose(p, i_matrix, rows, columns, lead):
    """Matrix ``i_matrix`` (rows, columns) of a contiguous (.., columns, lead), lead >= rows."""
    return Operand(p + tl.cast(i_matrix, tl.int64) * (columns * lead), 0, 1, lead, rows, columns)


@triton.jit
def select_entry(entries, i_entry):
    """Entry ``i_entry`` of structures that compile alike; one copy of the code handles all."""
    entry = entries[0]
    for i in tl.static_range(1, len(entries)):
        if i_entry == i:
            entry = entries[i]
    return entry


@triton.jit
def load_tile(x, o_r, o_c, EDGE: tl.constexpr = True):
    """Rows ``o_r`` and columns ``o_c``, zero outside the matrix; EDGE = False: all rows exist."""
    mask = (o_c < x.columns)[None, :]
    if EDGE:
        mask = mask & (o_r < x.rows)[:, None]
    return tl.load(
        x.p + o_r[:, None] * x.stride_r + o_c[None, :] * x.stride_c, mask=mask, other=0.0
    )


@triton.jit
def load_transposed(x, o_r, o_c, EDGE: tl.constexpr = True):
    """The transpose of :func:`load_tile`: (columns, rows)."""
    mask = (o_c < x.columns)[:, None]
    if EDGE:
        mask = mask & (o_r < x.rows)[None, :]
    return tl.load(
        x.p + o_c[:, None] * x.stride_c + o_r[None, :] * x.stride_r, mask=mask, other=0.0
    )


@triton.jit
def load_row(x, o_c):
    """The first row of a matrix in float32, zero outside."""
    return tl.load(x.p + o_c * x.stride_c, mask=o_c < x.columns, other=0.0).to(tl.float32)


@triton.jit
def store_tile(x, o_r, o_c, b_x, EDGE: tl.constexpr = True):
    """Write the part of a tile that lies inside the matrix; EDGE = False: all rows exist."""
    mask = (o_c < x.columns)[None, :]
    if EDGE:
        mask = mask & (o_r < x.rows)[:, None]
    tl.store(
        x.p + o_r[:, None] * x.stride_r + o_c[None, :] * x.stride_c,
        b_x.to(x.p.dtype.element_ty),
        mask=mask,
    )
