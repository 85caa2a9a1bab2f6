"""The inputs and weights of a whole paper layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from . import table
from .launch import tier

Tensors = Sequence[Tensor]


class Layer(NamedTuple):
    """The inputs and weights of a layer, or the gradients of each, one entry per modality."""

    inputs: Tensors
    joints: Tensors
    w_j: Tensors
    w_x: Tensors
    w_c: Tensors
    w_h: Tensors

    @property
    def tier(self) -> str:
        """The precision tier."""
        return tier(self.inputs[0].dtype)

    @property
    def width(self) -> int:
        """The largest attention width k, which may differ between modalities."""
        return max(w.shape[0] for w in self.w_x)

    @property
    def fits(self) -> bool:
        """Whether one program can hold all segments and all of the attention width."""
        segments, width = table.LARGEST[self.tier]
        return self.inputs[0].shape[1] <= segments and self.width <= width

    @property
    def parts(self) -> list[Tensors]:
        """The parts of each modality's joint feature: all modalities, or the given joint
        feature."""
        if not self.joints:
            return [self.inputs] * len(self.inputs)
        return [[self.joints[i % len(self.joints)]] for i in range(len(self.inputs))]
