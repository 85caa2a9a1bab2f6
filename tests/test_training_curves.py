"""200 steps of training with the native kernels follow those of plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("jca_fast.kernels.cpu.native")
from jca_fast.kernels import cpu

if cpu.problem():
    pytest.skip(cpu.problem(), allow_module_level=True)

from jca_fast import JointCoAttention

STEPS = 200
BOUNDS = {torch.float32: 5e-6, torch.float64: 1e-13}
"""Bounds of docs/numerics.md on the relative difference of two losses."""


def train(form: str, backend: str, dtype: torch.dtype) -> Tensor:
    """The loss of a small module before every step, and the norms of its weights at the end."""
    torch.manual_seed(0)
    module = JointCoAttention(6, 8, 5, 4, 1, form, backend=backend, dtype=dtype)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, fused=True)
    audio, visual = torch.randn(8, 5, 6, dtype=dtype), torch.randn(8, 5, 8, dtype=dtype)
    target = torch.rand(8, 5, 14, dtype=dtype)
    curve = []
    for _ in range(STEPS):
        loss = (torch.cat(module(audio, visual), dim=-1) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.detach())
    return torch.stack([*curve, *(p.detach().norm() for p in module.parameters())])


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("form", ["paper", "released"])
def test_200_steps_follow_plain_pytorch(form, dtype):
    ours, plain = train(form, "cpu", dtype), train(form, "reference", dtype)
    assert plain[STEPS - 1] < 0.7 * plain[0]  # the training has learned
    torch.testing.assert_close(ours, plain, rtol=BOUNDS[dtype], atol=0)
