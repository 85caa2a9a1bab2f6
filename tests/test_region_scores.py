"""The additive attention's scores by blocks: numbers, gradients, and when they are used."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from jca_fast.compat.released import PositionAttn
from jca_fast.modules import region_scores as blocks


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of 7 rows at any size, so that the last one is short."""
    monkeypatch.setattr(blocks, "ROWS", 7)
    monkeypatch.setattr(blocks, "_SMALLEST", 1)


@pytest.fixture
def by_blocks(monkeypatch):
    """How often the blocks ran."""
    calls = []
    forward = blocks._forward
    monkeypatch.setattr(blocks, "_forward", lambda *a, **o: calls.append(1) or forward(*a, **o))
    return calls


def parts(dtype=torch.float32):
    torch.manual_seed(3)
    hidden, score = nn.Linear(6, 8), nn.Linear(8, 5, bias=False)
    return hidden.to(dtype), score.to(dtype), torch.randn(3, 5, 6, dtype=dtype)


def plain(hidden, score, regions):
    return F.linear(torch.relu(F.linear(regions, hidden.weight, hidden.bias)), score.weight)


@pytest.mark.parametrize("count", [1, 6, 7, 8, 21])
def test_blocks_give_the_numbers_and_gradients_of_the_formula(by_blocks, count):
    hidden, score, _ = parts()
    regions = torch.randn(count, 6)
    weights = hidden.weight, hidden.bias, score.weight
    found, expected = (f(hidden, score, regions) for f in (blocks.region_scores, plain))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    cotangent = torch.randn_like(found)
    grads = [torch.autograd.grad(y, weights, cotangent) for y in (found, expected)]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(blocks.region_scores(hidden, score, regions), found)
    assert len(by_blocks) == 2


def test_the_gradient_is_zero_where_the_hidden_code_is():
    hidden, score, regions = parts()
    with torch.no_grad():
        hidden.bias.fill_(-100.0)
    blocks.region_scores(hidden, score, regions).sum().backward()
    assert not hidden.weight.grad.any()
    assert not score.weight.grad.any()


def test_no_regions_at_all_and_views_of_something_wider(by_blocks):
    hidden, score, _ = parts()
    assert blocks.region_scores(hidden, score, torch.zeros(0, 5, 6)).shape == (0, 5, 5)
    blocks.region_scores(hidden, score, torch.zeros(0, 5, 6)).sum().backward()
    assert not hidden.weight.grad.any()
    wide = torch.randn(4, 9, 5).mT[..., 1:7]
    found = blocks.region_scores(hidden, score, wide)
    torch.testing.assert_close(found, plain(hidden, score, wide), rtol=1e-6, atol=1e-6)
    assert by_blocks


def test_second_derivatives_and_batched_gradients(by_blocks):
    hidden, score, regions = parts()
    weights = hidden.weight, hidden.bias, score.weight
    second, many = [], []
    for formula in (blocks.region_scores, plain):
        y = formula(hidden, score, regions)
        first = torch.autograd.grad(y.square().sum(), weights, create_graph=True)
        penalty = sum(g.square().sum() for g in first)
        second.append(torch.autograd.grad(penalty, weights, allow_unused=True))
        y = formula(hidden, score, regions)
        cotangents = torch.arange(2.0 * y.numel()).reshape(2, *y.shape) / 100
        many.append(torch.autograd.grad(y, weights, cotangents, is_grads_batched=True))
    torch.testing.assert_close(*second, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(*many, rtol=1e-4, atol=1e-4)
    assert by_blocks


def test_regions_that_need_a_gradient_get_it(by_blocks):
    hidden, score, regions = parts()
    regions.requires_grad_()
    grads = []
    for formula in (blocks.region_scores, plain):
        grads.append(torch.autograd.grad(formula(hidden, score, regions).sum(), regions))
    torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-6)
    assert not by_blocks


def test_hooks_float64_autocast_and_transforms_go_past_the_blocks(by_blocks):
    hidden, score, regions = parts(torch.float64)
    blocks.region_scores(hidden, score, regions)
    hidden, score, regions = parts()
    with torch.autocast("cpu", torch.bfloat16):
        assert blocks.region_scores(hidden, score, regions).dtype == torch.bfloat16
    torch.func.vmap(lambda x: blocks.region_scores(hidden, score, x))(regions)
    seen = []
    hidden.register_forward_hook(lambda *_: seen.append(1))
    blocks.region_scores(hidden, score, regions)
    assert seen
    assert not by_blocks


def test_published_attention_uses_the_blocks_for_frozen_regions(by_blocks):
    attention = PositionAttn(6, 8)
    attention(torch.rand(2, 3, 25088), torch.rand(2, 3, 6)).sum().backward()
    assert by_blocks
    assert all(p.grad is not None and p.grad.any() for p in attention.parameters())
