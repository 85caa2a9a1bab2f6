"""The Bi-LSTM blocks of the published model, forward and backward, against the same lines of
PyTorch with the same weights.

The limit is the multiply-adds of the LSTM and of its Linear, once forward and twice backward, over
the measured rate of the cores.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from jca_fast.bench.pairs import multiply_add_rate
from jca_fast.modules import ResidualRNN

SEGMENTS = 10
BLOCKS = {"audio": (128, 512), "visual": (512, 512), "joint": (1024, 512)}
"""Width of the input and of the output."""


def work(input_dim: int, dim: int) -> int:
    """Multiply-adds per segment, forward and backward: two bidirectional layers and the Linear."""
    hidden = dim // 2
    recurrent = sum(2 * 4 * hidden * (width + hidden) for width in (input_dim, dim))
    return 3 * (recurrent + dim * (dim + input_dim))


@pytest.mark.parametrize("name", BLOCKS)
def test_recurrent_block(paired, quick, name):
    input_dim, dim = (8, 8) if quick else BLOCKS[name]
    batch = 2 if quick else 64
    block = ResidualRNN(input_dim, dim)
    x = torch.randn(batch, SEGMENTS, input_dim, requires_grad=True)
    grad = torch.randn(batch, SEGMENTS, dim)
    leaves = [x, *block.parameters()]

    def plain():
        state = block.init_hidden[:, None].expand(-1, batch, -1).contiguous().chunk(2)
        y = torch.cat((x, block.rnn(x, state)[0]), dim=-1)
        return F.linear(y, block.linear.weight, block.linear.bias)

    def timed(function):
        return lambda: torch.autograd.grad(function(), leaves, grad)

    def share(result) -> float:
        rate = multiply_add_rate() * torch.get_num_threads()
        return batch * SEGMENTS * work(input_dim, dim) / rate / (result["jca_fast"]["ms"] / 1e3)

    providers = {"eager": timed(plain), "jca_fast": timed(lambda: block(x))}
    paired(f"{name} Bi-LSTM, fwd+bwd", f"{batch}x{SEGMENTS} {input_dim}", providers, limit=share)
