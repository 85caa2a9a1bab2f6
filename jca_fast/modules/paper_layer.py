"""One layer of Joint Co-Attention in the paper's form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..functional import joint_affinity, joint_coattention
from .joint_feature import JointFeature

Maps = dict[str, tuple[Tensor, ...]]


def modality_names(count: int) -> tuple[str, ...]:
    """The paper's indices of two modalities, "a" and "v"; "1", "2", ... where there are more."""
    return ("a", "v") if count == 2 else tuple(str(i + 1) for i in range(count))


class PaperLayer(nn.Module):
    """One layer in the paper's form, without biases; modalities X_i (B, N, d_i), joint feature J (B, N, d).

        C_i = tanh(X_iᵀ W_ji J / sqrt(d))        H_i = relu(W_i X_i + W_ci C_iᵀ)        X_i' = X_i + W_hiᵀ H_i

    Parameters, under the paper's names for i in (a, v): ``W_ja`` (N, N), ``W_a`` (k, N), ``W_ca`` (k, d),
    ``W_ha`` (k, N), and the same for v.

    Source: Eqs. 3-6 of Duan et al., WACV 2021.
    """

    def __init__(
        self,
        dims: Sequence[int],
        num_segments: int,
        attention_dim: int,
        joint: str,
        dropout: float,
        backend: str,
    ) -> None:
        super().__init__()
        self.joint = JointFeature(dims, joint)
        self.names, self.dropout, self.backend = modality_names(len(dims)), dropout, backend
        n, k = num_segments, attention_dim
        for name, d in zip(self.names, self.joint.widths, strict=True):
            for symbol, shape in (
                ("W_j", (n, n)),
                ("W_", (k, n)),
                ("W_c", (k, d)),
                ("W_h", (k, n)),
            ):
                weight = nn.Parameter(torch.empty(shape))
                nn.init.xavier_uniform_(weight)
                self.register_parameter(symbol + name, weight)

    def weights(self, symbol: str) -> list[Tensor]:
        """The weight ``symbol`` ("W_j", "W_", "W_c" or "W_h") of every modality."""
        return [getattr(self, symbol + name) for name in self.names]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        joints = [] if self.joint.strategy == "concat" else self.joint(inputs)
        return joint_coattention(
            inputs,
            self.weights("W_j"),
            self.weights("W_"),
            self.weights("W_c"),
            self.weights("W_h"),
            joints=joints,
            dropout_p=self.dropout if self.training else 0.0,
            backend=self.backend,
        )

    def maps(self, *inputs: Tensor) -> Maps:
        """C_i (B, d_i, d) and H_i (B, k, d_i) of every modality, without dropout."""
        joints = self.joint(inputs) * (1 if self.joint.kind == "cross" else len(inputs))
        weights = (self.weights("W_j"), self.weights("W_"), self.weights("W_c"))
        c = tuple(
            joint_affinity(x, j, w) for x, j, w in zip(inputs, joints, weights[0], strict=True)
        )
        pairs = zip(weights[1], inputs, weights[2], c, strict=True)
        return {
            "C": c,
            "H": tuple(torch.relu(w_x @ x + w_c @ c_x.mT) for w_x, x, w_c, c_x in pairs),
        }
