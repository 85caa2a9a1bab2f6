"""The overhead of a call: tiny tensors, against the four lines of PyTorch that it replaces."""

from __future__ import annotations

import pytest
import torch

from jca_fast.functional import tanh_attention

CALLS = 100


@pytest.mark.parametrize("mode", ["no_grad", "forward", "backward"])
def test_tiny_call(paired, mode):
    torch.set_num_threads(1)
    q, k, v = (torch.randn(1, 4, n, requires_grad=mode != "no_grad") for n in (4, 4, 8))
    grad = torch.randn(1, 4, 8)

    def four_lines():
        scores = torch.matmul(q, k.mT)
        scores = scores * 0.3
        c = torch.tanh(scores)
        return torch.matmul(c, v)

    def repeated(function):
        def run():
            for _ in range(CALLS):
                out = function()
                if mode == "backward":
                    out = torch.autograd.grad(out, (q, k, v), grad)
            return out

        return run

    ours = repeated(lambda: tanh_attention(q, k, v, 0.3))
    label = {"no_grad": "no_grad", "forward": "fwd", "backward": "fwd+bwd"}[mode]
    providers = {"eager": repeated(four_lines), "jca_fast": ours}
    paired(f"{CALLS} tiny calls, {label}", "q, k 4x4, v 4x8", providers, calls=CALLS)
