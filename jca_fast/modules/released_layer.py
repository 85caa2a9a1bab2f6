"""One layer of Joint Co-Attention in the form of the released code."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..functional import joint_affinity
from ..ops.checks import inverse_root
from ..ops.released_attention import released_attention
from .checks import check_like, labels
from .joint_feature import JointFeature, joint_of_each
from .lengths import zero_padding
from .linear import call_linear, over_segments, reset_children, xavier_linear
from .paper_layer import LayerOutput, Maps
from .plain import dropout_rate, is_plain_linear


def attend_to_joint(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout: nn.Module | None = None,
    backend: str = "auto",
) -> Tensor:
    """T (B, N, d) of the released form, fused: ``relu(tanh(value C))``.

        C = dropout(tanh(keyᵀ query / sqrt(d)))      (B, d_x, d)

    query (B, N, d), key and value (B, N, d_x). The ``p`` and ``training`` of ``dropout`` apply;
    None means no dropout. C is stored only for a ``dropout`` that has to be called
    (:mod:`jca_fast.modules.plain`).
    """
    rate = 0.0 if dropout is None else dropout_rate(dropout)
    if dropout is not None and rate is None:
        c = dropout(joint_affinity(key, query, backend=backend))  # (B, d_x, d)
        return torch.relu(torch.tanh(value @ c))
    scale = inverse_root(query.shape[-1])
    return released_attention(query, key, value, scale, dropout_p=rate or 0.0, backend=backend)


class ReleasedLayer(nn.Module):
    """One layer as in the authors' released code; every Linear has a bias.

        Q = Linear(J)      K_i = Linear_N(X_iᵀ)ᵀ      U_i = Linear(X_i)
        C_i = dropout(tanh(K_iᵀ Q / sqrt(d)))         (B, d_i, d)
        T_i = relu(tanh(U_i C_i))                     (B, n, d)
        X_i' = X_i + dropout(relu(Linear(T_i)))       (B, n, d_i)

    X_i (B, n, d_i) are the modalities, J (B, n, d) their joint feature, n at most N. Q is the joint
    feature after its fully connected layer (``joint="concat_fc"``, as released); the strategies
    without one use J itself. The second tanh keeps T_i in [0, 1), and the update is never negative.

    Every Linear may be replaced, wrapped or hooked. ``dropout`` is an ``nn.Dropout``; its ``p`` and
    ``training`` apply to C_i and to the update.

    Source: released code of Duan et al., WACV 2021; its sizes are the ones Table 5 counts.
    """

    def __init__(
        self,
        dims: Sequence[int],
        num_segments: int,
        joint: str,
        dropout: float,
        backend: str,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()

        def linears(*sizes: tuple[int, int]) -> nn.ModuleList:
            return nn.ModuleList(xavier_linear(*io, device=device, dtype=dtype) for io in sizes)

        self.joint = JointFeature(dims, joint, device=device, dtype=dtype)
        self.num_segments, self.backend = num_segments, backend
        self.key = linears(*((num_segments, num_segments) for _ in dims))
        self.value = linears(*((d_x, d_x) for d_x in dims))
        self.output = linears(*zip(self.joint.widths, dims, strict=True))
        self.dropout = nn.Dropout(dropout)

    def reset_parameters(self) -> None:
        """Initialise all parameters afresh: Xavier-uniform weights, zero biases."""
        reset_children(self)

    def forward(
        self, *inputs: Tensor, used: Tensor | None = None, return_maps: bool = False
    ) -> LayerOutput:
        """X_i' (B, n, d_i) of every modality, and the maps C and T if ``return_maps``.

        ``used`` (B, n, 1) marks the segments in use. The inputs must be zero elsewhere, and so is
        the result.
        """
        if is_plain_linear(self.value[0]):
            for name, x in zip(labels(len(inputs)), inputs, strict=True):
                check_like(name, x, self.value[0].weight, "the weights")
        attended = zip(inputs, self.output, self._attended(inputs, used), strict=True)
        updates = ((x, torch.relu(call_linear(output, t))) for x, output, t in attended)
        out = tuple(zero_padding(x + self.dropout(update), used) for x, update in updates)
        return (out, self.maps(*inputs, used=used)) if return_maps else out

    def _attended(
        self, inputs: Sequence[Tensor], used: Tensor | None, dropout: bool = True
    ) -> tuple[Tensor, ...]:
        """T_i (B, n, d) of every modality; ``dropout=False`` omits the dropout of C."""
        queries, keys = joint_of_each(self.joint, inputs, used), self._keys(inputs)
        values = [call_linear(value, x) for value, x in zip(self.value, inputs, strict=True)]
        module = self.dropout if dropout else None
        parts = zip(queries, keys, values, strict=True)
        return tuple(attend_to_joint(q, k, v, module, self.backend) for q, k, v in parts)

    def _keys(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """K_i (B, n, d_i) of every modality."""
        n = self.num_segments
        return [over_segments(key, x, n) for key, x in zip(self.key, inputs, strict=True)]

    def maps(self, *inputs: Tensor, used: Tensor | None = None) -> Maps:
        """C_i (B, d_i, d) and T_i (B, n, d), the counterpart of H_i, without dropout."""
        pairs = zip(self._keys(inputs), joint_of_each(self.joint, inputs, used), strict=True)
        c = tuple(joint_affinity(k, q, backend=self.backend) for k, q in pairs)
        t = self._attended(inputs, used, dropout=False)
        return {"C": c, "H": tuple(zero_padding(t_x, used) for t_x in t)}

    def extra_repr(self) -> str:
        return f"num_segments={self.num_segments}, backend={self.backend!r}"
