"""The scores of the additive attention for regions that need no gradient, block by block.

    S = relu(X Wᵀ + b) Vᵀ        X (R, in), W (hidden, in), b (hidden,), V (out, hidden) -> (R, out)

Regions are the features of a fixed network and need no gradient. So dW is the only large product of
the backward:

    dH = (dS V) ∘ (H > 0)        dW = dHᵀ X        db = sum over rows of dH        dV = dSᵀ H

Plain PyTorch writes four matrices (R, hidden) in a training step and keeps one of them: the
product, its ReLU H, dS V and dH. This module writes H once, and reuses one block, which stays in
the cache, for dH. Without gradients H is one block too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from ..ops.autograd import needs_grad, record
from .linear import call_linear, product_into, weight_gradient
from .plain import is_plain_linear

ROWS = 2048
"""Rows of a block: 4 MiB of a hidden code of 512 channels."""
_SMALLEST = 2**22
"""Numbers in the hidden code below which the operations of PyTorch are as fast."""


def region_scores(hidden: nn.Module, score: nn.Module, regions: Tensor) -> Tensor:
    """``score(relu(hidden(regions)))``: regions (..., in) -> (..., out).

    ``hidden`` and ``score`` are Linears. They are called one after the other where the regions
    need a gradient, and in all other cases that :func:`_covers` excludes.
    """
    if not (is_plain_linear(hidden) and is_plain_linear(score) and _covers(hidden, score, regions)):
        return call_linear(score, torch.relu(call_linear(hidden, regions)))
    rows = regions.reshape(-1, regions.shape[-1])
    weights = hidden.weight, hidden.bias, score.weight
    if needs_grad(*weights):
        scores = record(_RegionScores, rows, *weights)
    else:
        scores = _forward(rows, *weights)[0]
    return scores.view(*regions.shape[:-1], -1)


def _covers(hidden: nn.Linear, score: nn.Linear, regions: Tensor) -> bool:
    """Whether the blocks give the result of calling both Linears, and faster."""
    if torch.compiler.is_compiling() or hidden.bias is None or score.bias is not None:
        return False
    tensors = regions, hidden.weight, hidden.bias, score.weight
    return (
        all(type(t) in (Tensor, nn.Parameter) for t in tensors)
        and all(t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)
        and not needs_grad(regions)
        and regions.shape[:-1].numel() * hidden.out_features >= _SMALLEST
        and not torch.is_autocast_enabled("cpu")
        and torch._C._functorch.peek_interpreter_stack() is None
        and forward_ad._current_level < 0
        and not torch._C._len_torch_dispatch_stack()  # such as FlopCounterMode
        and not torch.jit.is_tracing()
    )


class _RegionScores(torch.autograd.Function):
    """x (R, in), weight (hidden, in), bias (hidden,), score (out, hidden) -> (R, out)."""

    @staticmethod
    def forward(ctx, x, weight, bias, score):
        scores, hidden = _forward(x, weight, bias, score, keep=True)
        ctx.save_for_backward(x, weight, bias, score, hidden)
        return scores

    @staticmethod
    def backward(ctx, grad):
        x, weight, bias, score, hidden = ctx.saved_tensors
        functorch = torch._C._functorch
        batched = functorch.is_batchedtensor(grad) or functorch.is_legacy_batchedtensor(grad)
        if torch.is_grad_enabled() or batched:
            return None, *_gradients(grad, x, weight, bias, score)
        return None, *_gradients_by_blocks(grad, x, score, hidden)


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor, score: Tensor, keep: bool = False
) -> tuple[Tensor, Tensor]:
    """The scores (R, out) and the hidden code (R, hidden); one block of it without ``keep``."""
    count = x.shape[0]
    scores = x.new_empty(count, score.shape[0])
    hidden = x.new_empty(count if keep else min(ROWS, count), weight.shape[0])
    for start in range(0, count, ROWS):
        rows = slice(start, start + ROWS)
        block = hidden[rows] if keep else hidden[: count - start]
        product_into(block, x[rows], weight, bias).relu_()
        product_into(scores[rows], block, score)
    return scores, hidden


def _gradients_by_blocks(
    grad: Tensor, x: Tensor, score: Tensor, hidden: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """dW, db and dV; only one block of dH exists at a time."""
    d_weight = x.new_zeros(score.shape[1], x.shape[1])
    d_bias, d_score = x.new_zeros(score.shape[1]), torch.zeros_like(score)
    space = x.new_empty(min(ROWS, x.shape[0]), score.shape[1])
    for start in range(0, x.shape[0], ROWS):
        rows = slice(start, start + ROWS)
        block = space[: x.shape[0] - start]
        torch.mm(grad[rows], score, out=block)
        torch.ops.aten.threshold_backward.grad_input(block, hidden[rows], 0, grad_input=block)
        d_weight += weight_gradient(block, x[rows])
        d_bias += block.sum(0)
        d_score.addmm_(grad[rows].t(), hidden[rows])
    return d_weight, d_bias, d_score


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, score: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """dW, db and dV by a formula that can be differentiated again."""
    hidden = torch.relu(F.linear(x, weight, bias))
    d_hidden = (grad @ score) * (hidden > 0)
    return d_hidden.mT @ x, d_hidden.sum(-2), grad.mT @ hidden
