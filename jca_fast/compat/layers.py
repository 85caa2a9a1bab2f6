"""The co-attention layers of the published code for two or more modalities, under published names.

A layer computes from modalities X_i (B, N, d_i) and J = [X_1; X_2; ...] (B, N, d), where every
Linear has a bias:

    Q = query_linear(J)      K_i = key{i}_linear(X_iᵀ)      V_i = value{i}_linear(X_i)
    C_i = dropouts[i - 1](tanh(K_i Q / sqrt(d)))                                   (B, d_i, d)
    T_i = relu(tanh(V_i C_i))                                                      (B, N, d)
    X_i <- X_i + linears[i - 1](T_i)         linears[i - 1] = Sequential(Linear, ReLU, Dropout)

The formulas are those of :class:`jca_fast.modules.ReleasedLayer`; these classes hold the weights.
New in every call: ``lengths`` (B,) or ``key_padding_mask`` (B, N), as in
:class:`jca_fast.modules.JointCoAttention`, for clips that end before N.
Parameters are created in the published order, so that a seed gives the published initial weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..functional import joint_affinity
from ..modules.checks import check_choice, check_positive, check_probability, check_together
from ..modules.lengths import Lengths, padding_mask, used_segments, zero_padding
from ..modules.linear import Sequential, call_linear, over_segments
from ..modules.paper_layer import Maps
from ..modules.released_layer import attend_to_joint

Given = tuple[Tensor | None, ...]
"""One feature for each modality; None stands for a missing one."""


def given(features: Given) -> tuple[Tensor, ...]:
    return tuple(x for x in features if x is not None)


class PublishedCoAttention(nn.Module):
    """The published ``DenseCoAttn``: modalities X_i (B, N, d_i) -> attended features T_i (B, N, d).

    Subclasses give ``forward`` one published name for each modality: ``value1``, ``value2``, ...

    Args:
        dims: widths d_i of two or more modalities.
        dropout: probability on C_i, after the tanh.
        num_segments: N.
        use_query: False uses the joint feature itself as Q. ``query_linear`` then exists, as in
            that published code, but is never used.

    Raises:
        ValueError: a size is below 1, the probability is outside [0, 1], or a feature has another
            shape than (B, N, d_i).
    """

    def __init__(
        self, dims: Sequence[int], dropout: float, num_segments: int, use_query: bool = True
    ) -> None:
        super().__init__()
        widths = {f"dim{i}": width for i, width in enumerate(dims, 1)}
        check_positive(**widths, num_segments=num_segments)
        check_probability(dropout=dropout)
        self.dims = tuple(dims)
        self.num_segments = num_segments
        self.use_query = use_query
        self.dropouts = nn.ModuleList(nn.Dropout(dropout) for _ in dims)
        self.query_linear = nn.Linear(sum(dims), sum(dims))
        for i in range(1, len(dims) + 1):
            self.add_module(f"key{i}_linear", nn.Linear(num_segments, num_segments))
        for i, width in enumerate(dims, 1):
            self.add_module(f"value{i}_linear", nn.Linear(width, width))

    def _attend(
        self, values: Given, lengths: Lengths | None, key_padding_mask: Tensor | None
    ) -> tuple[Tensor, ...]:
        used, values = self._prepared(given(values), lengths, key_padding_mask)
        return self._attended(values, used, self.dropouts)

    def _attended(
        self,
        values: Sequence[Tensor],
        used: Tensor | None,
        dropouts: Iterable[nn.Module | None],
    ) -> tuple[Tensor, ...]:
        query, keys = self._query(values, used), self._keys(values)
        linears = zip(self._linears("value"), values, strict=True)
        parts = zip(keys, [call_linear(value, x) for value, x in linears], dropouts, strict=True)
        attended = (attend_to_joint(query, k, u, dropout) for k, u, dropout in parts)
        return tuple(zero_padding(t, used) for t in attended)

    def maps(
        self,
        *values: Tensor,
        lengths: Lengths | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Maps:
        """C_i (B, d_i, d) and T_i (B, N, d) of every modality, without dropout."""
        used, values = self._prepared(values, lengths, key_padding_mask)
        query = self._query(values, used)
        c = tuple(joint_affinity(key, query) for key in self._keys(values))
        return {"C": c, "H": self._attended(values, used, [None] * len(values))}

    def _keys(self, values: Sequence[Tensor]) -> list[Tensor]:
        pairs = zip(self._linears("key"), values, strict=True)
        return [over_segments(key, x, self.num_segments) for key, x in pairs]

    def _linears(self, kind: str) -> list[nn.Module]:
        return [getattr(self, f"{kind}{i}_linear") for i in range(1, len(self.dims) + 1)]

    def _prepared(
        self,
        values: Sequence[Tensor],
        lengths: Lengths | None,
        key_padding_mask: Tensor | None,
    ) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        """The mask of the segments in use, and the modalities with zeros elsewhere."""
        if len(values) != len(self.dims):
            raise ValueError(
                f"need one feature for each of the {len(self.dims)} modalities, got {len(values)}"
            )
        check_together(**{f"modality {i}": x for i, x in enumerate(values, 1)})
        for i, (x, width) in enumerate(zip(values, self.dims, strict=True), 1):
            if x.ndim != 3 or tuple(x.shape[1:]) != (self.num_segments, width):
                needed = f"(B, {self.num_segments}, {width})"
                raise ValueError(f"modality {i} must have shape {needed}, got {tuple(x.shape)}")
        used = used_segments(lengths, key_padding_mask, values[0])
        return used, tuple(zero_padding(x, used) for x in values)

    def _query(self, values: Sequence[Tensor], used: Tensor | None) -> Tensor:
        joint = torch.cat(list(values), dim=-1)  # (B, N, d)
        if not self.use_query:
            return joint
        return zero_padding(call_linear(self.query_linear, joint), used)

    def extra_repr(self) -> str:
        sizes = f"dims={self.dims}, num_segments={self.num_segments}"
        return f"{sizes}, use_query={self.use_query}"


class PublishedLayer(nn.Module):
    """The published ``NormalSubLayer``: a :class:`PublishedCoAttention` and the residual update.

    Subclasses give ``forward`` one published name for each modality: ``data1``, ``data2``, ...
    """

    def __init__(self, dense_coattn: PublishedCoAttention, dropout: float) -> None:
        super().__init__()
        self.dense_coattn = dense_coattn
        width = sum(dense_coattn.dims)
        self.linears = nn.ModuleList(
            Sequential(nn.Linear(width, d), nn.ReLU(), nn.Dropout(dropout))
            for d in dense_coattn.dims
        )

    def _update(
        self, data: Given, lengths: Lengths | None, key_padding_mask: Tensor | None
    ) -> tuple[Tensor, ...]:
        data = given(data)
        used = used_segments(lengths, key_padding_mask, data[0])
        weighted = self.dense_coattn(*data, **padding_mask(used))
        parts = zip(data, self.linears, weighted, strict=True)
        return tuple(zero_padding(x + linear(t), used) for x, linear, t in parts)


class PublishedStack(nn.Module):
    """The published ``DCNLayer``: layers one after the other, each with its own weights.

    Subclasses give ``forward`` one published name for each modality: ``data1``, ``data2``, ...
    ``return_all``, set at construction or in a call, returns one list for each modality
    with its feature after every layer:
    ``([x1 of layer 1, x1 of layer 2], [x2 of layer 1, x2 of layer 2])``.
    """

    return_all = False

    def __init__(self, layers: Sequence[nn.Module], return_all: bool = False) -> None:
        super().__init__()
        check_positive(num_seq=len(layers))
        self.return_all = return_all
        self.dcn_layers = nn.ModuleList(layers)

    def _run(
        self,
        data: Given,
        return_all: bool | None,
        lengths: Lengths | None,
        key_padding_mask: Tensor | None,
    ) -> tuple[Any, ...]:
        data = given(data)
        iterations = []
        padding = padding_mask(used_segments(lengths, key_padding_mask, data[0]))
        for layer in self.dcn_layers:
            data = layer(*data, **padding)
            iterations.append(data)
        if self.return_all if return_all is None else return_all:
            return tuple(list(feature) for feature in zip(*iterations, strict=True))
        return data


INITIAL: dict[str, Callable[[Tensor, float], Tensor]] = {
    "normal": lambda weight, gain: nn.init.uniform_(weight, 0.0, gain),
    "xavier": nn.init.xavier_uniform_,
    "kaiming": lambda weight, gain: nn.init.kaiming_uniform_(weight, a=0, mode="fan_in"),
    "orthogonal": nn.init.orthogonal_,
}
"""The published ways to draw weights, by their names; "normal" is uniform there."""


class PublishedModel(nn.Module):
    """A whole published model, which draws the weights of its Linears twice."""

    def init_weights(self, init_type: str = "xavier", init_gain: float = 1.0) -> None:
        """Draw the weights of every Linear again, and make its biases zero.

        ``init_type`` is "xavier", "kaiming", "orthogonal" or "normal", which draws uniformly
        between 0 and ``init_gain``, as published. Other parameters keep their values.
        """
        check_choice("init_type", init_type, list(INITIAL))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                INITIAL[init_type](module.weight, init_gain)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def option(options: Any, name: str, default: Any) -> Any:
    """The attribute ``name`` of a parsed command line, or the published default if it has none."""
    return getattr(options, name, default)
