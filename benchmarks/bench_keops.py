"""The op tanh_attention against KeOps, which does not store the matrix either.

Needs pykeops (`pip install pykeops`) and a C++ compiler; skipped without it. KeOps has no tanh, so
the formula is 1 - 2 / (exp(2 s) + 1).
"""

from __future__ import annotations

import pytest
import torch

from benchmarks.shapes import PAPER, THIRD_PARTY
from jca_fast.functional import tanh_attention

SHAPES = {"paper": PAPER, "n8": THIRD_PARTY["emotion_n8"]}


@pytest.mark.full
@pytest.mark.parametrize("mode", ["forward", "backward"])
@pytest.mark.parametrize("name", SHAPES)
def test_against_keops(paired, quick, name, mode):
    keops = pytest.importorskip("pykeops.torch")
    shape = SHAPES[name]._replace(B=2 if quick else 8)
    q, k, v, grad = (
        torch.randn(shape.B, length, width)
        for length, width in (
            (shape.M, shape.N),
            (shape.L, shape.N),
            (shape.L, shape.D),
            (shape.M, shape.D),
        )
    )
    leaves = [t.requires_grad_(mode == "backward") for t in (q, k, v)]
    scale = 0.1

    def with_keops():
        rows, columns = keops.LazyTensor(q[:, :, None]), keops.LazyTensor(k[:, None])
        doubled = (rows | columns) * (2 * scale)  # (B, M, L)
        c = 1 - 2 / (doubled.exp() + 1)
        return (c * keops.LazyTensor(v[:, None])).sum(dim=2)  # (B, M, D)

    def eager():
        return torch.tanh(scale * (q @ k.mT)) @ v

    def timed(function):
        if mode == "forward":
            return function
        return lambda: torch.autograd.grad(function(), leaves, grad)

    providers = {
        "eager": timed(eager),
        "keops": timed(with_keops),
        "jca_fast": timed(lambda: tanh_attention(q, k, v, scale)),
    }
    label = "fwd" if mode == "forward" else "fwd+bwd"
    sizes = f"{shape.M}x{shape.L} N{shape.N} D{shape.D}"
    paired(f"tanh op, {label}, KeOps", sizes, providers)
