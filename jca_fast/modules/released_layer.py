"""One layer of Joint Co-Attention in the form of the released code."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..functional import joint_affinity
from ..ops.released_attention import released_attention
from .joint_feature import JointFeature
from .linear import xavier_linear
from .paper_layer import Maps


def released_key(x: Tensor, key: nn.Module) -> Tensor:
    """K of the released form: ``key``, a Linear over the N segments, kept in the layout of x (B, N, d_x)."""
    return key.weight @ x + key.bias[:, None]  # type: ignore[operator, index]


def attend_to_joint(
    x: Tensor,
    query: Tensor,
    key: nn.Module,
    value: nn.Module,
    dropout_p: float = 0.0,
    backend: str = "auto",
) -> Tensor:
    """T (B, N, d) of the released form: ``relu(tanh(value(x) C))`` with ``C = dropout(tanh(K query / sqrt(d)))``.

    x (B, N, d_x), query (B, N, d), C (B, d_x, d); ``key`` is a Linear over the segments,
    ``value`` one over the channels of x.
    """
    k = released_key(x, key)  # (B, N, d_x)
    scale = query.shape[-1] ** -0.5
    return released_attention(query, k, value(x), scale, dropout_p=dropout_p, backend=backend)


class ReleasedLayer(nn.Module):
    """One layer as in the authors' released code; modalities X_i (B, N, d_i), joint feature J (B, N, d).

        Q = Linear(J)      K_i = Linear_N(X_iᵀ)      U_i = Linear(X_i)                 every Linear with bias
        C_i = dropout(tanh(K_i Q / sqrt(d)))         (B, d_i, d)
        T_i = relu(tanh(U_i C_i))                    (B, N, d)
        X_i' = X_i + dropout(relu(Linear(T_i)))

    Q is the joint feature after its fully connected layer (``joint="concat_fc"``, the released choice); the
    strategies without one use J itself. The extra tanh keeps T_i in [0, 1), and the update is never negative.

    Source: released code of Duan et al., WACV 2021; its sizes are the ones Table 5 counts.
    """

    def __init__(
        self, dims: Sequence[int], num_segments: int, joint: str, dropout: float, backend: str
    ) -> None:
        super().__init__()
        self.joint = JointFeature(dims, joint)
        self.backend = backend
        self.key = nn.ModuleList(xavier_linear(num_segments, num_segments) for _ in dims)
        self.value = nn.ModuleList(xavier_linear(d_x, d_x) for d_x in dims)
        self.output = nn.ModuleList(
            xavier_linear(d, d_x) for d, d_x in zip(self.joint.widths, dims, strict=True)
        )
        self.dropout = nn.Dropout(dropout)

    def attended(self, *inputs: Tensor, dropout: bool = True) -> tuple[Tensor, ...]:
        """T_i (B, N, d) of every modality; ``dropout=False`` leaves the dropout of C out."""
        queries = self.joint(inputs) * (
            1 if self.joint.kind == "cross" else len(inputs)
        )  # (B, N, d) each
        p = self.dropout.p if self.training and dropout else 0.0
        parts = zip(inputs, queries, self.key, self.value, strict=True)
        return tuple(
            attend_to_joint(x, q, key, value, p, self.backend) for x, q, key, value in parts
        )

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        attended = zip(inputs, self.output, self.attended(*inputs), strict=True)
        return tuple(x + self.dropout(torch.relu(output(t))) for x, output, t in attended)

    def maps(self, *inputs: Tensor) -> Maps:
        """C_i (B, d_i, d) and T_i (B, N, d), the counterpart of H_i, of every modality, without dropout."""
        queries = self.joint(inputs) * (1 if self.joint.kind == "cross" else len(inputs))
        keys = [released_key(x, key) for key, x in zip(self.key, inputs, strict=True)]
        c = tuple(joint_affinity(k, q) for k, q in zip(keys, queries, strict=True))
        return {"C": c, "H": self.attended(*inputs, dropout=False)}
