"""The one kind of Linear of the system: Xavier weights and zero biases, as published, on the fastest product."""

from __future__ import annotations

from torch import Tensor, nn

from ..ops.linear import linear as product


class Linear(nn.Linear):
    """``nn.Linear`` whose product runs where this machine is fastest (:mod:`jca_fast.ops.linear`)."""

    def forward(self, input: Tensor) -> Tensor:
        return product(input, self.weight, self.bias)


def xavier_linear(in_features: int, out_features: int, bias: bool = True) -> nn.Linear:
    """A Linear with Xavier-uniform weights (gain 1) and zero biases."""
    linear = Linear(in_features, out_features, bias)
    nn.init.xavier_uniform_(linear.weight)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear


def check_positive(**sizes: int) -> None:
    """Each named size must be an int of at least 1."""
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{name} must be an int of at least 1, got {size!r}")


def check_probability(**probabilities: float) -> None:
    """Each named probability must lie in [0, 1]."""
    for name, p in probabilities.items():
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"{name} must be a probability between 0 and 1, got {p!r}")
