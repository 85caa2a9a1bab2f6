"""The ``CAM`` of the emotion-recognition repositories: the paper's form, computed in batches.

In place of their ``models.cam`` and ``models.Jcam_512``::

    from jca_fast.compat.cam import CAM          # audio, visual (B, N, 512)
    from jca_fast.compat.cam import Jcam_512     # without encoders

Audio comes first: J = [audio; visual]. The layer is
:func:`jca_fast.functional.joint_coattention` (Eqs. 3-6).
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor, nn

from ..functional import joint_affinity, joint_coattention
from ..modules.checks import check_positive, check_probability, check_together
from ..modules.lengths import Lengths, without_padding, zero_padding
from ..modules.linear import Sequential, call_linear, over_segments
from ..modules.paper_layer import Maps
from ..modules.plain import is_plain_linear

Widths = int | tuple[int, int]
SYMBOLS = ("affine_", "W_", "W_c", "W_h")


class CAM(nn.Module):
    """Encoders, one layer of co-attention in the paper's form, and regressors for every segment.

        A = encoder1(audio)      V = encoder2(visual)      J = [A; V]
        C_a = tanh(Aᵀ (affine_a J) / sqrt(d))
        A' = A + (W_ha relu(W_a Aᵀ + W_ca C_aᵀ))ᵀ          and the same for V

    Args:
        num_segments: N.
        in_dim: width of the inputs, or (audio, visual).
        dim: width of the encoded features, or (audio, visual); None has no encoders.
        attention_dim: k.
        heads: names of the regressors; None takes the published names: ("vregressor",
            "aregressor") at N = 16, else ("regressor",). With ``()`` a call returns the result of
            :meth:`attend`.
        head_input: "attended" is [A'; V'], "visual" is [visual input; V'], which never uses A'.
            None takes the published input: "visual" for two heads, else "attended".
        hidden_dim: hidden width of a regressor: Linear, Dropout, Linear, without non-linearity.
        dropout: in the regressors.

    Shapes:
        audio (B, N, in_dim), visual (B, N, in_dim) -> (B, N, 1), or a tuple of one for each head.
        A call takes them by position, as ``audio`` and ``visual``, or by their published names
        ``f1_norm`` and ``f2_norm``.
        New in every call: ``lengths`` (B,) or ``key_padding_mask`` (B, N), as in
        :class:`jca_fast.modules.JointCoAttention`, for clips that end before N.

    Raises:
        ValueError: an argument is out of its range, or an input has the wrong shape.

    Source: Eqs. 3-6 of Duan et al., WACV 2021.
    """

    W_a: nn.Linear

    def __init__(
        self,
        num_segments: int = 8,
        in_dim: Widths = 512,
        dim: Widths | None = 128,
        attention_dim: int = 32,
        *,
        heads: Sequence[str] | None = None,
        head_input: str | None = None,
        hidden_dim: int = 128,
        dropout: float = 0.6,
    ) -> None:
        super().__init__()
        in_dims = _pair(in_dim)
        dims = in_dims if dim is None else _pair(dim)
        if heads is None:
            heads = ("vregressor", "aregressor") if num_segments == 16 else ("regressor",)
        head_input = head_input or ("visual" if len(heads) > 1 else "attended")
        if head_input not in ("attended", "visual"):
            raise ValueError(f"head_input must be 'attended' or 'visual', got {head_input!r}")
        check_probability(dropout=dropout)
        n = num_segments
        k = attention_dim
        d = sum(dims)
        check_positive(
            num_segments=n,
            attention_dim=k,
            hidden_dim=hidden_dim,
            in_dim=min(in_dims),
            dim=min(dims),
        )
        self.num_segments = n
        self.in_dims = in_dims
        self.dims = dims
        self.heads, self.head_input = tuple(heads), head_input
        encoders = (
            nn.Identity() if dim is None else nn.Linear(i, o)
            for i, o in zip(in_dims, dims, strict=True)
        )
        self.encoder1, self.encoder2 = encoders
        for symbol, i, o in (("affine_", n, n), ("W_", n, k), ("W_c", d, k), ("W_h", k, n)):
            for name in "av":
                self.add_module(symbol + name, nn.Linear(i, o, bias=False))
        width = d if head_input == "attended" else in_dims[1] + dims[1]
        for name in self.heads:
            head = Sequential(
                nn.Linear(width, hidden_dim), nn.Dropout(dropout), nn.Linear(hidden_dim, 1)
            )
            self.add_module(name, head)

    def forward(
        self,
        f1_norm: Tensor | None = None,
        f2_norm: Tensor | None = None,
        lengths: Lengths | None = None,
        key_padding_mask: Tensor | None = None,
        *,
        audio: Tensor | None = None,
        visual: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        audio = _either(f1_norm=f1_norm, audio=audio)
        visual = _either(f2_norm=f2_norm, visual=visual)
        # The weights of audio get no gradient where the published code gives them none.
        trained = "v" if self.heads and self.head_input == "visual" else "av"
        used, (audio, visual) = self._prepared(audio, visual, lengths, key_padding_mask)
        attended = self._attended(audio, visual, used, trained)
        features = torch.cat(
            attended if self.head_input == "attended" else (visual, attended[1]), dim=-1
        )
        out = tuple(zero_padding(getattr(self, name)(features), used) for name in self.heads)
        return attended if not out else out[0] if len(out) == 1 else out

    def attend(
        self,
        audio: Tensor,
        visual: Tensor,
        *,
        lengths: Lengths | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The attended features A' (B, N, d_a) and V' (B, N, d_v)."""
        used, (audio, visual) = self._prepared(audio, visual, lengths, key_padding_mask)
        return self._attended(audio, visual, used, "av")

    def _attended(
        self, audio: Tensor, visual: Tensor, used: Tensor | None, trained: str
    ) -> tuple[Tensor, Tensor]:
        """A' and V', zero in the padding; only the co-attention weights of the modalities in
        ``trained`` get gradients.
        """
        a, v = self._fused(self._encode(audio, visual, used), trained)
        return zero_padding(a, used), zero_padding(v, used)

    def _fused(self, inputs: tuple[Tensor, Tensor], trained: str) -> tuple[Tensor, Tensor]:
        """A' and V' in one fused call, if every Linear may be read instead of called."""
        linears = [linear for symbol in SYMBOLS for linear in self._linears(symbol)]
        if not all(is_plain_linear(linear) and linear.bias is None for linear in linears):
            return self._called(inputs)
        groups = [
            [
                linear.weight if name in trained else linear.weight.detach()
                for name, linear in zip("av", self._linears(symbol), strict=True)
            ]
            for symbol in SYMBOLS
        ]
        groups[3] = [w.mT for w in groups[3]]  # (k, N)
        a, v = joint_coattention(inputs, *groups)
        return a, v

    def _called(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """A' and V' with every Linear called and C_i stored."""
        h = self._attention(inputs, self._affinities(inputs))
        updates = [w_h(h_x).mT for w_h, h_x in zip(self._linears("W_h"), h, strict=True)]
        return inputs[0] + updates[0], inputs[1] + updates[1]

    def maps(
        self,
        audio: Tensor,
        visual: Tensor,
        *,
        lengths: Lengths | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Maps:
        """C_i (B, d_i, d) and H_i (B, d_i, k) of audio and visual, in the published layout."""
        used, (audio, visual) = self._prepared(audio, visual, lengths, key_padding_mask)
        inputs = self._encode(audio, visual, used)
        c = self._affinities(inputs)
        return {"C": c, "H": self._attention(inputs, c)}

    def _affinities(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """C_i (B, d_i, d)."""
        joint, n = torch.cat(inputs, dim=-1), self.num_segments  # (B, N, d)
        keys = [over_segments(affine, joint, n) for affine in self._linears("affine_")]
        return tuple(joint_affinity(x, key) for x, key in zip(inputs, keys, strict=True))

    def _attention(
        self, inputs: tuple[Tensor, Tensor], c: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """H_i (B, d_i, k)."""
        parts = zip(inputs, c, self._linears("W_"), self._linears("W_c"), strict=True)
        return tuple(torch.relu(w_c(c_x) + w_x(x.mT)) for x, c_x, w_x, w_c in parts)

    def _linears(self, symbol: str) -> list[nn.Linear]:
        return [getattr(self, symbol + name) for name in "av"]

    def _prepared(
        self,
        audio: Tensor,
        visual: Tensor,
        lengths: Lengths | None,
        key_padding_mask: Tensor | None,
    ) -> tuple[Tensor | None, list[Tensor]]:
        """The mask of the segments in use, and both inputs with zeros elsewhere."""
        check_together(audio=audio, visual=visual)
        for name, x, width in zip(("audio", "visual"), (audio, visual), self.in_dims, strict=True):
            if x.ndim != 3 or tuple(x.shape[1:]) != (self.num_segments, width):
                raise ValueError(
                    f"{name} must have shape (B, {self.num_segments}, {width}), "
                    f"got {tuple(x.shape)}"
                )
        return without_padding(lengths, key_padding_mask, audio=audio, visual=visual)

    def _encode(self, audio: Tensor, visual: Tensor, used: Tensor | None) -> tuple[Tensor, Tensor]:
        a, v = call_linear(self.encoder1, audio), call_linear(self.encoder2, visual)
        return zero_padding(a, used), zero_padding(v, used)


class Jcam_512(CAM):  # noqa: N801 (the published file's name)
    """The variant without encoders: (B, N, 512) each -> (B, N, 1).

    The regressor reads [visual; attended visual].
    """

    def __init__(
        self, num_segments: int = 16, in_dim: Widths = 512, attention_dim: int = 32
    ) -> None:
        super().__init__(
            num_segments, in_dim, None, attention_dim, heads=("regressor",), head_input="visual"
        )


def _either(**names: Tensor | None) -> Tensor:
    """The one of two names for an input that is given."""
    given = [x for x in names.values() if x is not None]
    if len(given) != 1:
        raise TypeError(f"give either {' or '.join(names)}, got {'both' if given else 'neither'}")
    return given[0]


def _pair(width: Widths) -> tuple[int, int]:
    """(audio, visual) widths from one for both or a pair."""
    if isinstance(width, (int, Integral)):
        return int(width), int(width)
    audio, visual = width
    return audio, visual
