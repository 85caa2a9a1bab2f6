"""The Linear of the system: the numbers of ``F.linear`` for operands of any layout."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from jca_fast.modules import linear as page


@pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this PyTorch has no oneDNN product"
)
def test_onednn_gets_dense_weights(monkeypatch):
    """A slice of something wider, such as one half of ``features.split(...)``, has sent oneDNN down a path that takes
    a thousand times longer; the gradient of a weight has the features as its second operand."""
    monkeypatch.setattr(page, "prefers_onednn", lambda: True)
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
    assert len(layouts) == 3  # forward, both gradients
    assert all(layouts)


@pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this PyTorch has no oneDNN product"
)
def test_the_result_may_be_changed_in_place(monkeypatch):
    """As that of ``F.linear``: the published layers put ``ReLU(inplace=True)`` behind their Linears."""
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
