"""The joint feature J that every modality attends to: the six strategies of Table 4, and two that leave J out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add, mul

import torch
from torch import Tensor, nn

from .linear import xavier_linear

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
"""Table 4's addition, multiplication and concatenation, each plain and followed by a fully connected layer ("_fc").
"cross" is the original co-attention of Table 3: each modality attends to the others, not to a joint feature."""


class JointFeature(nn.Module):
    """From the modalities X_i (B, N, d_i) the joint feature J (B, N, d), or with "cross" one for each modality.

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

    Raises:
        ValueError: the strategy is unknown, or "add" and "multiply" meet modalities of different widths.

    Source: section 4.3 and Table 4 of Duan et al., WACV 2021; the fully connected layers are square.
    """

    def __init__(self, dims: Sequence[int], strategy: str) -> None:
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
        distinct = self.widths if self.kind == "cross" else self.widths[:1]
        self.fc = (
            nn.ModuleList(xavier_linear(d, d) for d in distinct)
            if strategy.endswith("_fc")
            else None
        )

    @property
    def widths(self) -> tuple[int, ...]:
        """The width d of the joint feature that each modality attends to."""
        if self.kind == "cross":
            return tuple(sum(self.dims) - own for own in self.dims)
        return (sum(self.dims) if self.kind == "concat" else self.dims[0],) * len(self.dims)

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """One J (B, N, d) for all modalities, or with "cross" one for each."""
        joints = self._combine(inputs)
        return joints if self.fc is None else [fc(j) for fc, j in zip(self.fc, joints, strict=True)]

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
