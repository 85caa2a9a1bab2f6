"""One layer of Joint Co-Attention in the paper's form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..functional import joint_affinity, joint_coattention
from .checks import check_like, labels
from .joint_feature import JointFeature, is_concatenation, joint_of_each
from .lengths import zero_padding
from .plain import dropout_rate

Maps = dict[str, tuple[Tensor, ...]]
LayerOutput = tuple[Tensor, ...] | tuple[tuple[Tensor, ...], Maps]

SYMBOLS = ("W_j", "W_", "W_c", "W_h")
"""The paper's symbols of the four weights of a modality, without the modality's index."""


def modality_names(count: int) -> tuple[str, ...]:
    """The paper's indices of two modalities, "a" and "v"; "1", "2", ... for more than two."""
    return ("a", "v") if count == 2 else tuple(str(i + 1) for i in range(count))


class PaperLayer(nn.Module):
    """One layer in the paper's form, without biases.

        C_i = tanh(X_iᵀ W_ji J / sqrt(d))            (B, d_i, d)
        H_i = relu(W_i X_i + W_ci dropout(C_i)ᵀ)     (B, k, d_i)
        X_i' = X_i + W_hiᵀ H_i                       (B, n, d_i)

    X_i (B, n, d_i) are the modalities, J (B, n, d) their joint feature, n at most N. Parameters,
    under the paper's names for i in (a, v): ``W_ja`` (N, N), ``W_a`` (k, N), ``W_ca`` (k, d),
    ``W_ha`` (k, N), and the same for v. For n < N the weights are cut to n segments.

    ``joint`` may be replaced by a module whose call on the list of modalities and ``used`` returns
    one J for all, or one for each, in a list. ``dropout`` is an ``nn.Dropout``; its ``p`` and
    ``training`` apply. C_i is stored only if
    ``dropout`` has been replaced by a module that has to be called.

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
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.joint = JointFeature(dims, joint, device=device, dtype=dtype)
        self.num_segments, self.attention_dim = num_segments, attention_dim
        self.names, self.backend = modality_names(len(dims)), backend
        self.dropout = nn.Dropout(dropout)
        n, k = num_segments, attention_dim
        for name, d in zip(self.names, self.joint.widths, strict=True):
            shapes = ((n, n), (k, n), (k, d), (k, n))
            for symbol, shape in zip(SYMBOLS, shapes, strict=True):
                weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
                self.register_parameter(symbol + name, weight)
        self._reset_weights()

    def reset_parameters(self) -> None:
        """Initialise all parameters afresh: Xavier-uniform weights, zero biases."""
        self.joint.reset_parameters()
        self._reset_weights()

    def _reset_weights(self) -> None:
        for name in self.names:
            for symbol in SYMBOLS:
                nn.init.xavier_uniform_(getattr(self, symbol + name))

    def weights(self, symbol: str, segments: int | None = None) -> list[Tensor]:
        """The weight ``symbol`` of every modality: "W_j", "W_", "W_c" or "W_h".

        Its segment axes are cut to length ``segments``; None leaves them whole.
        """
        whole = [getattr(self, symbol + name) for name in self.names]
        if segments is None or segments == self.num_segments or symbol == "W_c":
            return whole
        rows = segments if symbol == "W_j" else self.attention_dim
        return [w[:rows, :segments] for w in whole]

    def forward(
        self, *inputs: Tensor, used: Tensor | None = None, return_maps: bool = False
    ) -> LayerOutput:
        """X_i' (B, n, d_i) of every modality, and the maps C and H if ``return_maps``.

        ``used`` (B, n, 1) marks the segments in use. The inputs must be zero elsewhere, and so is
        the result.
        """
        names = labels(len(inputs))
        for name, x in zip(names, inputs, strict=True):
            check_like(name, x, getattr(self, "W_j" + self.names[0]), "the weights")
        out = tuple(zero_padding(x, used) for x in self._fused(inputs, used))
        return (out, self.maps(*inputs, used=used)) if return_maps else out

    def _fused(self, inputs: tuple[Tensor, ...], used: Tensor | None) -> tuple[Tensor, ...]:
        rate = dropout_rate(self.dropout)
        if rate is None:
            return self._stored(inputs, used)
        joints = [] if is_concatenation(self.joint) else self.joint(inputs, used)
        weights = (self.weights(symbol, inputs[0].shape[1]) for symbol in SYMBOLS)
        return joint_coattention(
            inputs, *weights, joints=joints, dropout_p=rate, backend=self.backend
        )

    def _stored(self, inputs: tuple[Tensor, ...], used: Tensor | None) -> tuple[Tensor, ...]:
        """The same with C_i in memory, for a dropout module that has to be called."""
        h = self._attention(inputs, [self.dropout(c) for c in self._affinities(inputs, used)])
        w_h = self.weights("W_h", inputs[0].shape[1])
        return tuple(x + w.mT @ h_x for x, w, h_x in zip(inputs, w_h, h, strict=True))

    def maps(self, *inputs: Tensor, used: Tensor | None = None) -> Maps:
        """C_i (B, d_i, d) and H_i (B, k, d_i) of every modality, without dropout."""
        c = self._affinities(inputs, used)
        return {"C": tuple(c), "H": tuple(self._attention(inputs, c))}

    def _affinities(self, inputs: Sequence[Tensor], used: Tensor | None) -> list[Tensor]:
        joints, w_j = (
            joint_of_each(self.joint, inputs, used),
            self.weights("W_j", inputs[0].shape[1]),
        )
        parts = zip(inputs, joints, w_j, strict=True)
        return [joint_affinity(x, j, w, backend=self.backend) for x, j, w in parts]

    def _attention(self, inputs: Sequence[Tensor], c: Sequence[Tensor]) -> list[Tensor]:
        w_x, w_c = self.weights("W_", inputs[0].shape[1]), self.weights("W_c")
        parts = zip(inputs, c, w_x, w_c, strict=True)
        return [torch.relu(w @ x + w_joint @ c_x.mT) for x, c_x, w, w_joint in parts]

    def extra_repr(self) -> str:
        return (
            f"num_segments={self.num_segments}, attention_dim={self.attention_dim}, "
            f"backend={self.backend!r}"
        )
