"""The product of the Linears: the numbers of ``F.linear`` for operands of any layout."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from jca_fast.modules import linear as page


@pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this PyTorch has no oneDNN product"
)
@pytest.mark.parametrize("for_weights", [True, False])
def test_onednn_gets_dense_weights(monkeypatch, for_weights):
    """A slice of something wider, such as one half of ``features.split(...)``, once sent oneDNN
    down a path that takes a thousand times longer. The gradient of a weight has the features as its
    second operand."""
    monkeypatch.setattr(page, "prefers_onednn", lambda: True)
    monkeypatch.setattr(page, "_onednn_for_weights", lambda: for_weights)
    layouts = []
    onednn = torch.ops.mkldnn._linear_pointwise

    def watched(x, weight, *rest):
        layouts.append(weight.is_contiguous() or weight.t().is_contiguous())
        return onednn(x, weight, *rest)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", watched, raising=False)
    wide = torch.randn(8, 64, 256, requires_grad=True)
    weight = torch.randn(512, 128, requires_grad=True)
    results = []
    for function in (page.linear, F.linear):
        out = function(wide.split(128, dim=-1)[1], weight)
        results.append((out, *torch.autograd.grad(out.sum() + (out * out).sum(), (wide, weight))))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-3)
    assert len(layouts) == 2 + for_weights  # forward, gradient of x, perhaps that of the weight
    assert all(layouts)


@pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this PyTorch has no oneDNN product"
)
def test_the_result_may_be_changed_in_place(monkeypatch):
    """As with ``F.linear``: published layers apply ``ReLU(inplace=True)`` after their Linears."""
    monkeypatch.setattr(page, "prefers_onednn", lambda: True)
    leaves = [
        torch.randn(*shape, requires_grad=True) for shape in ((64, 10, 128), (256, 128), (256,))
    ]
    results = []
    for function in (page.linear, F.linear):
        out = torch.relu_(function(*leaves))
        results.append((out, *torch.autograd.grad((out * out).sum(), leaves)))
    assert results[0][0].grad_fn is not None
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-3)


LEAVES = ((64, 10, 128), (256, 128), (256,))


@pytest.fixture
def onednn(monkeypatch):
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this PyTorch has no oneDNN product")
    monkeypatch.setattr(page, "prefers_onednn", lambda: True)
    x, weight, _ = (torch.randn(*shape) for shape in LEAVES)
    assert page._onednn_serves(x, weight)


@pytest.mark.parametrize("recorded", [False, True], ids=["no grad", "grad"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_forward_mode(onednn, recorded, place):
    """Directional derivatives: both interfaces of forward mode, and forward over reverse."""
    leaves = [torch.randn(*shape, requires_grad=recorded) for shape in LEAVES]
    tangent = torch.randn(LEAVES[place])

    def along(function):
        return lambda x: function(*leaves[:place], x, *leaves[place + 1 :])

    expected = torch.func.jvp(along(F.linear), (leaves[place],), (tangent,))[1]
    got = torch.func.jvp(along(page.linear), (leaves[place],), (tangent,))[1]
    torch.testing.assert_close(got, expected)
    with forward_ad.dual_level():
        out = along(page.linear)(forward_ad.make_dual(leaves[place], tangent))
        torch.testing.assert_close(forward_ad.unpack_dual(out).tangent, expected)
        if recorded:
            grad = torch.autograd.grad((out * out).sum(), leaves[1 - min(place, 1)])[0]
            assert forward_ad.unpack_dual(grad).tangent is not None


def test_flops_are_counted(onednn):
    leaves = [torch.randn(*shape, requires_grad=True) for shape in LEAVES]
    with FlopCounterMode(display=False) as counter:
        page.linear(*leaves).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 640 * 128 * 256


def test_a_batch_of_gradients(onednn):
    leaves = [torch.randn(*shape, requires_grad=True) for shape in LEAVES]
    grads = torch.randn(3, 64, 10, 256)
    results = [
        torch.autograd.grad(function(*leaves), leaves, grads, is_grads_batched=True)
        for function in (page.linear, F.linear)
    ]
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-3)
