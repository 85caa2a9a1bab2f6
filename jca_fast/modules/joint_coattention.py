"""Joint Co-Attention: the recursion and its two kinds of layer, the paper's and the released code's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..functional import joint_affinity, joint_coattention
from ..ops.released_attention import released_attention as attend
from .joint_feature import JointFeature
from .checks import check_positive, check_probability
from .linear import xavier_linear

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


def released_key(x: Tensor, key: nn.Module) -> Tensor:
    """K of the released form: ``key``, a Linear over the N segments, kept in the layout of x (B, N, d_x)."""
    return key.weight @ x + key.bias[:, None]  # type: ignore[operator, index]


def released_attention(
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
    return attend(query, k, value(x), scale, dropout_p=dropout_p, backend=backend)  # (B, N, d)


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

    def attend(self, *inputs: Tensor, dropout: bool = True) -> tuple[Tensor, ...]:
        """T_i (B, N, d) of every modality; ``dropout=False`` leaves the dropout of C out."""
        queries = self.joint(inputs) * (
            1 if self.joint.kind == "cross" else len(inputs)
        )  # (B, N, d) each
        p = self.dropout.p if self.training and dropout else 0.0
        parts = zip(inputs, queries, self.key, self.value, strict=True)
        return tuple(
            released_attention(x, q, key, value, p, self.backend) for x, q, key, value in parts
        )

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        attended = zip(inputs, self.output, self.attend(*inputs), strict=True)
        return tuple(x + self.dropout(torch.relu(output(t))) for x, output, t in attended)

    def maps(self, *inputs: Tensor) -> Maps:
        """C_i (B, d_i, d) and T_i (B, N, d), the counterpart of H_i, of every modality, without dropout."""
        queries = self.joint(inputs) * (1 if self.joint.kind == "cross" else len(inputs))
        keys = [released_key(x, key) for key, x in zip(self.key, inputs, strict=True)]
        c = tuple(joint_affinity(k, q) for k, q in zip(keys, queries, strict=True))
        return {"C": c, "H": self.attend(*inputs, dropout=False)}


class JointCoAttention(nn.Module):
    """Recursive fusion by Joint Co-Attention: ``num_layers`` layers, each with its own weights.

        A^l, V^l = layer_l(A^(l-1), V^(l-1))         l = 1 .. num_layers          Eqs. 7, 8

    >>> fusion = JointCoAttention(audio_dim=512, visual_dim=512, num_segments=10)
    >>> audio, visual = fusion(audio, visual)  # (B, 10, 512) each

    Args:
        audio_dim: width d_a of the audio features.
        visual_dim: width d_v of the visual features.
        num_segments: N, the segments of a clip; its weights are N x N, so every clip has exactly N segments.
        attention_dim: k, the width of the attention map H (paper form only).
        num_layers: how often the fusion is repeated (the paper's l, 1 to 5).
        form: "paper" (:class:`PaperLayer`, Eqs. 3-8) or "released" (:class:`ReleasedLayer`, the published code).
        joint: how J is made, one of :data:`jca_fast.modules.JOINT_STRATEGIES`; None takes "concat" in the paper form
            and "concat_fc" in the released form.
        dropout: on C, and in the released form also on the update; the published recipe of that form is 0.3.
        dims: the widths of two or more modalities, in place of ``audio_dim`` and ``visual_dim``.
        backend: "auto" or the name of a backend of :mod:`jca_fast.functional`.

    Shapes:
        Input: one (B, N, d_i) for each modality; any B, 0 included. Output: the same shapes.

    Raises:
        ValueError: a size, form, strategy or probability is out of its range, or a feature has the wrong shape.

    Source: section 3.3 of Duan et al., WACV 2021.
    """

    def __init__(
        self,
        audio_dim: int | None = None,
        visual_dim: int | None = None,
        num_segments: int = 10,
        attention_dim: int = 32,
        num_layers: int = 4,
        form: str = "paper",
        joint: str | None = None,
        dropout: float = 0.0,
        *,
        dims: Sequence[int] | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.dims = _modality_dims(audio_dim, visual_dim, dims)
        check_positive(
            num_segments=num_segments, attention_dim=attention_dim, num_layers=num_layers
        )
        check_probability(dropout=dropout)
        if form not in ("paper", "released"):
            raise ValueError(f"form must be 'paper' or 'released', got {form!r}")
        self.num_segments, self.form = num_segments, form
        self.joint = joint or ("concat" if form == "paper" else "concat_fc")
        if form == "paper":
            args: tuple[Any, ...] = (
                self.dims,
                num_segments,
                attention_dim,
                self.joint,
                dropout,
                backend,
            )
            self.layers = nn.ModuleList(PaperLayer(*args) for _ in range(num_layers))
        else:
            args = (self.dims, num_segments, self.joint, dropout, backend)
            self.layers = nn.ModuleList(ReleasedLayer(*args) for _ in range(num_layers))

    def forward(self, *inputs: Tensor, return_all: bool = False, return_maps: bool = False) -> Any:
        """The fused features, one (B, N, d_i) for each modality.

        Args:
            inputs: the audio and visual features, or one feature for each width of ``dims``.
            return_all: return a list with the features after every layer, the last one included.
            return_maps: also return a list with ``{"C": ..., "H": ...}`` of every layer: the affinities
                C_i (B, d_i, d) and the attention maps H_i (B, k, d_i), in the released form T_i (B, N, d).
        """
        self._check(inputs)
        iterations, maps = [], []
        for layer in self.layers:
            if return_maps:
                maps.append(layer.maps(*inputs))  # type: ignore[operator]
            inputs = layer(*inputs)
            iterations.append(inputs)
        out = iterations if return_all else inputs
        return (out, maps) if return_maps else out

    def _check(self, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs) != len(self.dims):
            raise ValueError(
                f"need one feature for each of the {len(self.dims)} modalities, got {len(inputs)}"
            )
        labels = (
            ("audio", "visual")
            if len(inputs) == 2
            else [f"feature {i + 1}" for i in range(len(inputs))]
        )
        for label, x, width in zip(labels, inputs, self.dims, strict=True):
            if x.ndim != 3 or tuple(x.shape[1:]) != (self.num_segments, width):
                raise ValueError(
                    f"{label} must have shape (B, {self.num_segments}, {width}), got {tuple(x.shape)}"
                )

    def extra_repr(self) -> str:
        return f"dims={self.dims}, num_segments={self.num_segments}, form={self.form!r}, joint={self.joint!r}"


def _modality_dims(
    audio_dim: int | None, visual_dim: int | None, dims: Sequence[int] | None
) -> tuple[int, ...]:
    """The widths of the modalities, given in one of the two ways."""
    if dims is None:
        if audio_dim is None or visual_dim is None:
            raise ValueError(
                "give audio_dim and visual_dim, or dims with the width of each modality"
            )
        dims = (audio_dim, visual_dim)
    elif audio_dim is not None or visual_dim is not None:
        raise ValueError("give either audio_dim and visual_dim, or dims; not both")
    if len(dims) < 2:
        raise ValueError(f"dims must hold the widths of two or more modalities, got {tuple(dims)}")
    check_positive(**{f"dims[{i}]": width for i, width in enumerate(dims)})
    return tuple(dims)
