"""The tanh kernels alone on one thread, as a share of the peak of the FMA units.

A vector of 16 elements costs, in vector multiply-adds, N + D + 10 forward and 3 N + 2 D + 12
backward: the scores, ten for the tanh (two more for its slope), and the products. The bound is that
number over the rate of the yardstick, a loop of independent multiply-adds in registers, measured
beside the kernel in the same process.
"""

from __future__ import annotations

import pytest
import torch

from benchmarks.shapes import PAPER, RELEASED, THIRD_PARTY, Shape
from benchmarks.table import Row
from jca_fast.bench.pairs import multiply_add_rate, summarise
from jca_fast.ops.library import overload

SHAPES = {
    "paper": PAPER,
    "released": RELEASED,
    "n8": THIRD_PARTY["emotion_n8"],
    "paper_k128": PAPER._replace(D=128),
}


def inputs(shape: Shape, batch: int):
    b = shape._replace(B=batch)
    sizes = ((b.B, b.M, b.N), (b.B, b.L, b.N), (1 if b.shared else b.B, b.L, b.D), (b.B, b.M, b.D))
    return [torch.randn(s[0], s[2], s[1]).mT for s in sizes]


def case(shape: Shape, batch: int, mode: str, dropout: float):
    """Multiply-adds of one element of C, and the call."""
    q, k, v, grad = inputs(shape, batch)
    seed = torch.tensor(1) if dropout else None
    options = (0.1, dropout, seed)
    if mode == "forward":
        op = overload("tanh_attention", "cpu")
        return shape.N + shape.D + 10, lambda: op(q, k, v, *options)
    op = overload("tanh_attention_backward", "cpu")
    return 3 * shape.N + 2 * shape.D + 12, lambda: op(grad, q, k, v, *options)


@pytest.mark.parametrize("dropout", [0.0, pytest.param(0.3, marks=pytest.mark.full)])
@pytest.mark.parametrize("mode", ["forward", "backward"])
@pytest.mark.parametrize("name", SHAPES)
def test_primitive(benchmark, report, quick, name, mode, dropout):
    torch.set_num_threads(1)
    shape = SHAPES[name]
    batch = 2 if quick else 8
    work, run = case(shape, batch, mode, dropout)
    benchmark.pedantic(run, rounds=3 if quick else 40, warmup_rounds=1)
    rate = multiply_add_rate()
    times = list(benchmark.stats.stats.data)
    share = batch * shape.M * shape.L * work / rate / min(times)
    label = f"tanh op, {'fwd' if mode == 'forward' else 'bwd'}" + (", p 0.3" if dropout else "")
    sizes = f"{shape.M}x{shape.L} N{shape.N} D{shape.D}"
    row = Row(label, sizes, summarise({"jca_fast": times}), limit=share)
    report(row, multiply_adds_per_second=rate)
