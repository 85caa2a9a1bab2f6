"""Makes and calls the ``nn.Linear`` of the modules: weights as published, and the faster product.

PyTorch computes float32 products with MKL. On AMD processors with AVX-512 MKL runs at less than
half of the speed of oneDNN, which is also part of PyTorch (180 against 400 GFLOP/s on two Zen 5
cores). On these :func:`linear` calls oneDNN, forward and backward. Without AVX-512 (two Zen 3
cores, AVX2) both are equally fast at products of rows, 80 to 115 GFLOP/s, and MKL is faster at the
gradient of a weight: 84 to 123 against 62 to 86. So MKL computes that gradient. On other machines,
and for operands that the operator of oneDNN does not support, :func:`linear` is ``F.linear``.
``torch.backends.mkldnn.flags(enabled=False)`` switches oneDNN off.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from ..ops.autograd import needs_grad, record
from .plain import is_plain_linear

_PRODUCTS, _ROWS = 2**23, 32  # below these sizes oneDNN saves less time than the extra Python takes


@functools.cache
def prefers_onednn() -> bool:
    """Whether MKL is slow on this machine and PyTorch's oneDNN operator can replace it."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x weightᵀ + bias``, the same function as ``F.linear``.

    x (..., in), weight (out, in), bias (out,) -> (..., out).
    """
    if not _onednn_serves(x, weight):
        return F.linear(x, weight, bias)
    if needs_grad(x, weight) or (bias is not None and needs_grad(bias)):
        rows = record(_Linear, x.reshape(-1, x.shape[-1]), weight, bias)  # (R, out)
        # PyTorch forbids in-place changes of a view that is made inside the Function.
        return rows.view(*x.shape[:-1], -1)
    return _product(x, weight, bias)


def _onednn_serves(x: Tensor, weight: Tensor) -> bool:
    if torch.compiler.is_compiling():
        return False  # Inductor chooses the product itself
    return (
        x.dtype == weight.dtype == torch.float32
        and x.numel() * weight.shape[0] >= _PRODUCTS
        and x.numel() >= _ROWS * weight.shape[1]
        and prefers_onednn()
        and type(x) is Tensor
        and type(weight) in (Tensor, nn.Parameter)
        and x.device.type == weight.device.type == "cpu"
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
        and torch._C._functorch.peek_interpreter_stack() is None
        and forward_ad._current_level < 0  # oneDNN's operator has no forward derivative
        and not torch._C._len_torch_dispatch_stack()  # such as FlopCounterMode
        and not torch.jit.is_tracing()
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if not (weight.is_contiguous() or weight.t().is_contiguous()):
        # oneDNN is a thousand times slower on a slice of a wider tensor.
        weight = weight.contiguous()
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _onednn_for_weights() -> bool:
    """Whether oneDNN is also faster at the gradient of a weight, which is a product over rows."""
    return prefers_onednn() and torch.backends.cpu.get_cpu_capability() == "AVX512"


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """``gradᵀ x``: grad (R, out), x (R, in) -> (out, in)."""
    return linear(grad.t(), x.t()) if _onednn_for_weights() else grad.mT @ x


def product_into(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Write ``x weightᵀ + bias`` into ``out`` without a gradient; returns ``out``.

    out (R, n), x (R, in), weight (n, in), bias (n,).
    """
    if _onednn_for_weights() and _onednn_serves(x, weight):
        return out.copy_(_product(x, weight, bias))
    if bias is None:
        return torch.mm(x, weight.t(), out=out)
    return torch.addmm(bias, x, weight.t(), out=out)


class _Linear(torch.autograd.Function):
    """x (R, in), weight (out, in), bias (out,) or None -> x weightᵀ + bias (R, out)."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad_x = linear(grad, weight.t()) if ctx.needs_input_grad[0] else None
        grad_weight = weight_gradient(grad, x) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, grad.sum(0) if ctx.has_bias else None


def call_linear(module: nn.Module, x: Tensor) -> Tensor:
    """``module(x)``; a plain ``nn.Linear`` is computed by :func:`linear`."""
    if torch.compiler.is_compiling() or not prefers_onednn() or not is_plain_linear(module):
        return module(x)
    return linear(x, module.weight, module.bias)


class Sequential(nn.Sequential):
    """``nn.Sequential`` that calls its modules by :func:`call_linear`."""

    def forward(self, input: Tensor) -> Tensor:
        for module in self:
            input = call_linear(module, input)
        return input


def over_segments(module: nn.Module, x: Tensor, num_segments: int) -> Tensor:
    """``module(xᵀ)ᵀ`` for a Linear over N segments, in the layout of x (B, n, d_x).

    For n < N its weight is cut to n x n and its bias to n.
    """
    n = x.shape[1]
    if not is_plain_linear(module):
        whole = F.pad(x.mT, (0, num_segments - n)) if n < num_segments else x.mT  # (B, d_x, N)
        return module(whole).mT[:, :n]
    weight, bias = module.weight, module.bias
    if n == num_segments:
        y = weight @ x  # (B, N, d_x)
        return y if bias is None else y + bias[:, None]
    y = weight[:n, :n] @ x  # (B, n, d_x)
    return y if bias is None else y + bias[:n, None]


def xavier_linear(
    in_features: int,
    out_features: int,
    bias: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Linear:
    """A Linear with Xavier-uniform weights (gain 1) and zero biases."""
    made = nn.Linear(in_features, out_features, bias, device, dtype)
    reset_xavier(made)
    return made


def reset_xavier(linear: nn.Linear) -> None:
    """Draw Xavier-uniform weights (gain 1) and set the biases to zero."""
    nn.init.xavier_uniform_(linear.weight)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def reset_children(module: nn.Module) -> None:
    """Initialise all submodules afresh: a Linear as published, others by their
    ``reset_parameters``.
    """
    for child in module.children():
        if isinstance(child, nn.Linear):
            reset_xavier(child)
        elif callable(reset := getattr(child, "reset_parameters", None)):
            reset()
        else:
            reset_children(child)
