"""The tanh kernels alone, one thread: cycles for 16 elements of C, and their share of what the FMA units could do.

A vector of 16 elements costs, in vector multiply-adds, N + D + 10 forward and 3 N + 2 D + 12 backward: the scores, ten
for the tanh (two more for its slope), and the products. The bound is that number over the rate of the yardstick, a loop
of independent multiply-adds in registers, measured beside the kernel in the same process.
"""

from __future__ import annotations

import pytest
import torch
from jca_fast.kernels import cpu
from jca_fast.kernels.cpu import native

from benchmarks.pairs import best_seconds
from benchmarks.shapes import PAPER, RELEASED, THIRD_PARTY, Shape

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


def multiply_add_rate() -> float:
    """Multiply-adds of single float32 numbers in a second, one thread."""
    library, steps = native.library(), 20_000
    return library.jca_fma_yardstick(steps) / best_seconds(
        lambda: library.jca_fma_yardstick(steps), 30
    )


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("mode", ["forward", "backward"])
@pytest.mark.parametrize("name", SHAPES)
def test_primitive(benchmark, report, quick, name, mode, dropout):
    torch.set_num_threads(1)
    shape = SHAPES[name]
    batch = 2 if quick else 8
    q, k, v, grad = inputs(shape, batch)
    seed = torch.tensor(1) if dropout else None
    if mode == "forward":
        work, run = shape.N + shape.D + 10, lambda: cpu.tanh_attention(q, k, v, 0.1, dropout, seed)
    else:
        work, run = (
            3 * shape.N + 2 * shape.D + 12,
            lambda: cpu.tanh_attention_backward(grad, q, k, v, 0.1, dropout, seed),
        )
    benchmark.pedantic(run, rounds=3 if quick else 40, warmup_rounds=1)
    rate = multiply_add_rate()
    best = benchmark.stats.stats.min
    share = batch * shape.M * shape.L * work / rate / best
    report(
        f"{1e3 * best:.3g} ms, {100 * share:.0f} % of the FMA bound",
        share_of_bound=share,
        multiply_adds_per_second=rate,
    )
