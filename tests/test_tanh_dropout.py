"""tanh_dropout, and the released attention of long clips, which stores C between two of PyTorch's
products.
"""

from __future__ import annotations

import pytest
import torch
from numerics import assert_as_good_as_torch, assert_bitwise, value_and_grads
from torch.autograd import gradcheck, gradgradcheck

from jca_fast.ops import reference, released_attention
from jca_fast.ops.dropout import keep_mask
from jca_fast.ops.released_attention import LONG
from jca_fast.ops.released_attention import released_attention as attend
from jca_fast.ops.tanh_dropout import tanh_dropout

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = {
    "contiguous": lambda t: t,
    "transposed": lambda t: t.mT.contiguous().mT,
    "sliced": lambda t: t.repeat_interleave(2, dim=2)[..., ::2],
    "expanded": lambda t: t[:1].expand(t.shape),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_value_and_gradient(backend, dtype, dropout, layout):
    scores = LAYOUTS[layout](torch.randn(3, 37, 133).to(dtype))
    seed = torch.tensor(2**40 + 5) if dropout else None

    def plain(s):
        return reference.tanh_dropout(s, -1.5, dropout, seed)

    def ours(s):
        return tanh_dropout(s, -1.5, dropout_p=dropout, seed=seed, backend=backend)

    grad = torch.randn(scores.shape, dtype=torch.float64)
    got, theirs = (value_and_grads(f, [scores], grad) for f in (ours, plain))
    oracle = value_and_grads(plain, [scores.double()], grad)
    assert_as_good_as_torch(["C"], got[:1], theirs[:1], oracle[:1], factor=2)
    assert_as_good_as_torch(["dscores"], got[1:], theirs[1:], oracle[1:], factor=3)


def test_the_mask_is_that_of_the_other_ops(backend):
    seed = torch.tensor(99)
    out = tanh_dropout(torch.ones(3, 37, 133), 1.0, dropout_p=0.4, seed=seed, backend=backend)
    assert torch.equal(out != 0, keep_mask(seed, 0.4, 3, 37, 133))


def test_special_values(backend):
    scores = torch.tensor([[[float("inf"), -float("inf"), float("nan"), 0.0, -0.0, 3e38]]])
    got, plain = (
        value_and_grads(f, [scores], torch.ones_like(scores))
        for f in (lambda s: tanh_dropout(s, 4.0, backend=backend), lambda s: torch.tanh(s * 4))
    )
    torch.testing.assert_close(got, plain, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(got[0].signbit(), plain[0].signbit())


def inputs(segments=LONG, dtype=torch.float32, requires_grad=False):
    shapes = ((2, segments, 12), (2, segments, 7), (2, segments, 7))
    return [torch.randn(s, dtype=dtype, requires_grad=requires_grad) for s in shapes]


@pytest.fixture
def stored(monkeypatch):
    """The number of calls that stored C."""
    calls = []
    function = released_attention._with_stored_affinity

    def counted(*args):
        calls.append(args[0])
        return function(*args)

    monkeypatch.setattr(released_attention, "_with_stored_affinity", counted)
    return calls


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_long_clips_store_the_affinity(backend, stored, dtype):
    attend(*inputs(LONG - 1, dtype, requires_grad=True), 0.1, backend=backend)
    attend(*inputs(LONG, dtype), 0.1, backend=backend)
    assert not stored
    attend(*inputs(LONG, dtype, requires_grad=True), 0.1, backend=backend)
    assert len(stored) == (backend == "cpu" and dtype in (torch.float32, torch.float64))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_long_clips_are_computed_as_short_ones(dtype, dropout, monkeypatch):
    tensors, seed = inputs(dtype=dtype), torch.tensor(3) if dropout else None
    grad = torch.randn(2, LONG, 12, dtype=torch.float64)

    def ours(*t):
        return attend(*t, 0.1, dropout_p=dropout, seed=seed)

    def plain(*t):
        return reference.released_attention(*t, 0.1, dropout, seed)

    got, theirs = (value_and_grads(f, tensors, grad) for f in (ours, plain))
    oracle = value_and_grads(plain, [t.double() for t in tensors], grad)
    names = ("T", "dquery", "dkey", "dvalue")
    assert_as_good_as_torch(names[:1], got[:1], theirs[:1], oracle[:1], factor=2)
    assert_as_good_as_torch(names[1:], got[1:], theirs[1:], oracle[1:], factor=3)
    assert_bitwise(got, value_and_grads(ours, tensors, grad))
    monkeypatch.setattr(released_attention, "LONG", LONG + 1)
    fused = value_and_grads(ours, tensors, grad)
    torch.testing.assert_close(got, fused, rtol=1e-4, atol=1e-4)


def test_derivatives_of_long_clips(stored, monkeypatch):
    monkeypatch.setattr(released_attention, "LONG", 2)
    tensors = inputs(3, torch.float64, requires_grad=True)

    def function(*t):
        return attend(*t, 0.1, dropout_p=0.3, seed=1)

    assert gradcheck(function, tensors, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, tensors)
    assert stored


def test_a_compiled_long_clip(monkeypatch):
    monkeypatch.setattr(released_attention, "LONG", 2)
    tensors = inputs(3, torch.float64, requires_grad=True)
    compiled = torch.compile(lambda *t: attend(*t, 0.1), backend="aot_eager", fullgraph=True)
    grad = torch.randn(2, 3, 12, dtype=torch.float64)
    got, eager = (value_and_grads(f, tensors, grad) for f in (compiled, lambda *t: attend(*t, 0.1)))
    torch.testing.assert_close(got, eager)
