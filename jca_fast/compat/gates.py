"""The gate of the published iterated models: a learned mix of a feature and its iterations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

TEMPERATURE = 0.1


def gated(gate: nn.Module, guide: Tensor, features: Sequence[Tensor]) -> Tensor:
    """``relu(sum_i w_i features_i)`` with ``w = softmax(gate(guide) / 0.1)``.

    guide (B, N, d), features (B, N, d) each, w (B, N, number of features) -> (B, N, d).
    """
    weights = torch.softmax(gate(guide) / TEMPERATURE, dim=-1)
    mixed = weights[..., :1] * features[0]
    for i, feature in enumerate(features[1:], 1):
        mixed = mixed + weights[..., i : i + 1] * feature
    return torch.relu(mixed)
