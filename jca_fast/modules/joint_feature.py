"""The joint feature J that every modality attends to: the six strategies of Table 4 and "cross"."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add, mul

import torch
from torch import Tensor, nn

from .lengths import zero_padding
from .linear import call_linear, reset_children, xavier_linear
from .plain import is_plain

JOINT_STRATEGIES = (
    "add",
    "multiply",
    "concat",
    "add_fc",
    "multiply_fc",
    "concat_fc",
    "cross",
    "cross_fc",
)
"""Addition, multiplication and concatenation of Table 4, each plain and followed by a fully
connected layer ("_fc"). "cross" is the original co-attention of Table 3: each modality attends to
the other modalities instead of a joint feature."""


class JointFeature(nn.Module):
    """The joint feature J (B, N, d) of modalities X_i (B, N, d_i); "cross" makes one for each.

    ==========  =====================================  =========================
    strategy    J                                      width d
    ==========  =====================================  =========================
    add         X_1 + X_2 + ...                        d_1, all widths equal
    multiply    X_1 ∘ X_2 ∘ ...                        d_1, all widths equal
    concat      [X_1; X_2; ...]                        sum of d_i
    cross       for modality i: [X_j for all j != i]   sum of the other d_j
    ``*_fc``    Linear(d, d) of the above              unchanged
    ==========  =====================================  =========================

    Args:
        dims: widths d_i of the modalities.
        strategy: one of :data:`JOINT_STRATEGIES`.
        device, dtype: the device and the dtype of the parameters.

    Raises:
        ValueError: the strategy is unknown, or "add" or "multiply" gets different widths.

    Source: section 4.3 and Table 4 of Duan et al., WACV 2021. The fully connected layers are
    square.
    """

    def __init__(
        self,
        dims: Sequence[int],
        strategy: str,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if strategy not in JOINT_STRATEGIES:
            raise ValueError(
                f"joint must be one of {', '.join(JOINT_STRATEGIES)}; got {strategy!r}"
            )
        self.dims, self.strategy = tuple(dims), strategy
        self.kind = strategy.removesuffix("_fc")
        if self.kind in ("add", "multiply") and len(set(dims)) > 1:
            raise ValueError(
                f"joint={strategy!r} needs modalities of one width, got widths {self.dims}"
            )
        self.fc: nn.ModuleList | None = None
        if strategy.endswith("_fc"):
            distinct = self.widths if self.kind == "cross" else self.widths[:1]
            self.fc = nn.ModuleList(
                xavier_linear(d, d, device=device, dtype=dtype) for d in distinct
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """The width d of the joint feature that each modality attends to."""
        if self.kind == "cross":
            return tuple(sum(self.dims) - own for own in self.dims)
        return (sum(self.dims) if self.kind == "concat" else self.dims[0],) * len(self.dims)

    def reset_parameters(self) -> None:
        """Initialise all parameters afresh."""
        reset_children(self)

    def forward(self, inputs: Sequence[Tensor], used: Tensor | None = None) -> list[Tensor]:
        """One J (B, N, d) for all modalities, or with "cross" one for each.

        ``used`` (B, N, 1) marks the segments in use; J is zero elsewhere if the inputs are.
        """
        joints = self._combine(inputs)
        if self.fc is None:
            return joints
        pairs = zip(self.fc, joints, strict=True)
        return [zero_padding(call_linear(fc, j), used) for fc, j in pairs]

    def _combine(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        if self.kind == "cross":
            return [
                torch.cat([x for j, x in enumerate(inputs) if j != i], dim=-1)
                for i in range(len(inputs))
            ]
        if self.kind == "concat":
            return [torch.cat(list(inputs), dim=-1)]
        return [reduce(add if self.kind == "add" else mul, inputs)]

    def extra_repr(self) -> str:
        return f"dims={self.dims}, strategy={self.strategy!r}"


def joint_of_each(
    module: nn.Module, inputs: Sequence[Tensor], used: Tensor | None = None
) -> list[Tensor]:
    """One J (B, N, d) for every modality; a J that ``module`` shares is repeated."""
    joints = list(module(inputs, used))
    return joints if len(joints) == len(inputs) else joints * len(inputs)


def is_concatenation(module: nn.Module) -> bool:
    """Whether a call of ``module`` only concatenates, which the fused op does by itself."""
    return is_plain(module, JointFeature) and module.strategy == "concat"
