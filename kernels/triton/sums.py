"""Sums of partial results, in a fixed order and without atomics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from .launch import cdiv, launch
from .operands import select_entry

GROUPS = 16
"""Groups of samples over which a gradient shared by the batch is summed first. The number is fixed,
so that the bits do not depend on the chip."""
SUM = {"ROWS": 32, "BLOCK": 64, "maxnreg": 64}
"""Partial results, and elements of each, that a program reads at a time: 16 numbers a thread, and
registers to wait for all of them at once."""


class Sum(NamedTuple):
    """``out`` (size,) = ``factor`` times the sum of the rows of ``partials`` (count, size) float32.

    Count and size are doubled: Triton makes an integer 1 a constant, and such sums would be
    compiled separately.
    """

    partials: Any
    out: Any
    count2: Any
    size2: Any
    factor: Any


def group_sizes(batch: int) -> tuple[int, int]:
    """Samples in a group, and the number of groups."""
    per_group = cdiv(batch, GROUPS)
    return per_group, cdiv(batch, per_group)


def partial_sum(partials: Tensor, out: Tensor, factor: float = 1.0) -> Sum:
    """``out`` as ``factor`` times the sum of ``partials`` (count, *out.shape)."""
    return Sum(partials, out, 2 * (partials.numel() // out.numel()), 2 * out.numel(), factor)


def launch_sums(sums: Sequence[Sum]) -> None:
    """Add up partial results, all in one launch."""
    if sums:
        blocks = max(cdiv(s.out.numel(), SUM["BLOCK"]) for s in sums)
        launch(sum_kernel, (blocks, len(sums)), tuple(sums), **SUM)


@triton.jit
def sum_kernel(sums, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Axis 0: blocks of the result; axis 1: the sums.

    A program reads ROWS partials at a time and adds each into its own sum. Small weights leave
    hundreds of partials of a few hundred elements: one after the other, each would wait for memory.
    """
    x = select_entry(sums, tl.program_id(1))
    count, size = x.count2 // 2, x.size2 // 2
    o_x = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    if tl.program_id(0) * BLOCK < size:
        b_sum = tl.zeros((ROWS, BLOCK), tl.float32)
        for first in range(0, count, ROWS):
            o_r = first + tl.arange(0, ROWS)
            inside = (o_r < count)[:, None] & (o_x < size)[None, :]
            b_sum += tl.load(
                x.partials + o_r[:, None].to(tl.int64) * size + o_x[None, :], mask=inside, other=0.0
            )
        b_out = tl.sum(b_sum, 0) * tl.cast(x.factor, tl.float32)
        tl.store(x.out + o_x, b_out.to(x.out.dtype.element_ty), mask=o_x < size)
