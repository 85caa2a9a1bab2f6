"""The dropout mask: its definition in plain integers, and its statistics."""

from __future__ import annotations

import pytest
import torch

from jca_fast.ops.checks import dropout_seed
from jca_fast.ops.dropout import draw_seed, fold_seed, keep_mask, keep_scale, threshold

WORD = 2**32 - 1


def mix(h: int) -> int:
    h = (h ^ h >> 16) * 0x7FEB352D & WORD
    h = (h ^ h >> 15) * 0x846CA68B & WORD
    return h ^ h >> 16


def bits(seed: int, b: int, i: int, j: int) -> int:
    """The documented 16 bits of one element, in Python integers."""
    key = mix(mix(seed & WORD) + (seed >> 32 & WORD) & WORD)
    row = mix(mix(key + b * 0x9E3779B9 & WORD) + i * 0x9E3779B1 & WORD)
    h = (row ^ (j // 32 * 16 + j % 16) * 0x85EBCA77 & WORD) * 0x7FEB352D & WORD
    h = (h ^ h >> 15) * 0x846CA68B & WORD
    return (h ^ h >> 16) >> 16 * (j // 16 % 2) & 0xFFFF


@pytest.mark.parametrize("seed", [0, 1, -1, 2**62 + 12345, -(2**63)])
def test_mask_is_the_documented_function(seed):
    mask = keep_mask(torch.tensor(seed), 0.3, 3, 5, 70)
    for b in range(3):
        for i in range(5):
            for j in range(70):
                assert mask[b, i, j].item() == (bits(seed, b, i, j) >= round(0.3 * 65536))


@pytest.mark.parametrize("seed", [7, -1, 2**62 + 12345])
def test_a_seed_may_be_an_integer_or_a_tensor(seed):
    found = [
        dropout_seed(0.5, given, None, torch.device("cpu")) for given in (seed, torch.tensor(seed))
    ]
    assert [(t.item(), t.dtype, t.shape) for t in found] == [(seed, torch.int64, ())] * 2


def test_mask_does_not_depend_on_the_size_of_the_matrix():
    big, small = (
        keep_mask(torch.tensor(5), 0.4, 4, 9, 100),
        keep_mask(torch.tensor(5), 0.4, 2, 6, 33),
    )
    assert torch.equal(big[:2, :6, :33], small)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.6])
def test_statistics(p):
    """Mean, rows, columns, samples, neighbours and the two halves of a hash, within 5 standard
    deviations.
    """
    mask = keep_mask(torch.tensor(1234), p, 8, 256, 512).double()
    centred = (mask - (1 - threshold(p) / 65536)) / (p * (1 - p)) ** 0.5
    for kept in ((), (0,), (1,), (2,), (0, 1), (0, 2)):
        dims = [d for d in range(3) if d not in kept]
        count = mask.numel() / max(1, torch.tensor([mask.shape[d] for d in kept]).prod().item())
        assert (centred.mean(dims) * count**0.5).abs().max() < 5
    shifts = {"row": (1, 1), "column": (2, 1), "half": (2, 16), "sample": (0, 1), "tile": (2, 64)}
    for dim, shift in shifts.values():
        product = centred * centred.roll(shift, dim)
        assert (product.mean() * product.numel() ** 0.5).abs() < 5


def test_seeds_give_unrelated_masks():
    base = keep_mask(torch.tensor(10), 0.5, 2, 64, 256).double() - 0.5
    for other in (11, 10 + 2**32, fold_seed(torch.tensor(10), 1).item()):
        twin = keep_mask(torch.tensor(other), 0.5, 2, 64, 256).double() - 0.5
        for shift in (0, 1):  # the sample of one seed must not be the next sample of another
            assert ((base * twin.roll(shift, 0)).mean() * 4 * base.numel() ** 0.5).abs() < 5


def test_scale_uses_the_probability_in_force():
    assert threshold(0.3) == 19661
    assert keep_scale(0.3) == pytest.approx(65536 / (65536 - 19661))
    assert keep_scale(1.0) == 0.0
    assert keep_scale(1e-9) == 1.0


def test_fold_seed_wraps_and_keeps_index_zero():
    seed = torch.tensor(2**63 - 1)
    assert fold_seed(seed, 0) == seed
    expected = (2**63 - 1 + 3 * 0x9E3779B97F4A7C15) % 2**64
    assert fold_seed(seed, 3).item() % 2**64 == expected


def test_drawn_seeds_follow_the_generator():
    first, second = (
        draw_seed(torch.device("cpu"), torch.Generator().manual_seed(1)) for _ in range(2)
    )
    assert first == second
    assert first.dtype == torch.int64
    assert draw_seed(torch.device("cpu")) != draw_seed(torch.device("cpu"))
