"""Joint Co-Attention: the recursion over layers of either form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from .checks import check_positive, check_probability
from .paper_layer import PaperLayer
from .released_layer import ReleasedLayer


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
