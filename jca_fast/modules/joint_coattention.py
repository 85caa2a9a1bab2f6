"""Joint Co-Attention: the recursion over layers of either form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .checks import check_backend, check_features, check_positive, check_probability
from .hub import Pretrained
from .lengths import Lengths, used_segments, zero_padding
from .linear import reset_children
from .paper_layer import Maps, PaperLayer
from .released_layer import ReleasedLayer

Features = tuple[Tensor, ...]
Fused = Features | list[Features] | tuple[Features, list[Maps]] | tuple[list[Features], list[Maps]]
"""The features, or those after every layer; with ``return_maps`` a pair with the maps."""


class JointCoAttention(Pretrained):
    """Recursive fusion by Joint Co-Attention: ``num_layers`` layers, each with its own weights.

        A^l, V^l = layer_l(A^(l-1), V^(l-1))         l = 1 .. num_layers          Eqs. 7, 8

    >>> fusion = JointCoAttention(audio_dim=512, visual_dim=512, num_segments=10)
    >>> audio, visual = fusion(audio, visual)  # (B, 10, 512) each
    >>> audio, visual = fusion(audio=audio, visual=visual, lengths=lengths)  # padded clips

    Args:
        audio_dim: width d_a of the audio features.
        visual_dim: width d_v of the visual features.
        num_segments: N, the largest number of segments of a clip; some weights are N x N.
        attention_dim: k, the width of the attention map H (paper form only).
        num_layers: the number of layers (the paper's l, 1 to 5).
        form: "paper" (:class:`PaperLayer`, Eqs. 3-8) or "released" (:class:`ReleasedLayer`, the
            published code).
        joint: the construction of J, one of :data:`jca_fast.modules.JOINT_STRATEGIES`; None takes
            "concat" in the paper form and "concat_fc" in the released form.
        dropout: on C, and in the released form also on the update; the published recipe of that
            form is 0.3.
        dims: the widths of two or more modalities, in place of ``audio_dim`` and ``visual_dim``.
        backend: "auto" or the name of a backend of :mod:`jca_fast.functional`.
        device: the device of the parameters.
        dtype: the dtype of the parameters.

    Shapes:
        Input: one (B, n, d_i) for each modality; any B, 0 included, and n from 1 to N. Output: the
        same shapes. Longer clips are cut by :func:`jca_fast.modules.cut_windows`.

    Attributes:
        config: the arguments without device and dtype; ``JointCoAttention(**config)`` has the same
            shapes. ``save_pretrained`` and ``from_pretrained`` keep it beside the weights.

    Raises:
        TypeError, ValueError: an argument is out of its range, or a feature has the wrong type,
            shape, dtype or device.

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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.dims = _modality_dims(audio_dim, visual_dim, dims)
        sizes = {
            "num_segments": num_segments,
            "attention_dim": attention_dim,
            "num_layers": num_layers,
        }
        check_positive(**sizes)
        check_probability(dropout=dropout)
        if form not in ("paper", "released"):
            raise ValueError(f"form must be 'paper' or 'released', got {form!r}")
        check_backend(backend)
        self.num_segments, self.form = int(num_segments), form
        self.joint = joint or ("concat" if form == "paper" else "concat_fc")
        self.config: dict[str, Any] = {
            "dims": list(self.dims),
            **{name: int(size) for name, size in sizes.items()},
            "form": form,
            "joint": self.joint,
            "dropout": float(dropout),
            "backend": backend,
        }
        c = self.config
        options: Any = (self.joint, c["dropout"], backend)
        factory: Any = {"device": device, "dtype": dtype}

        def layer() -> nn.Module:
            if form == "released":
                return ReleasedLayer(self.dims, self.num_segments, *options, **factory)
            sizes = (self.num_segments, c["attention_dim"])
            return PaperLayer(self.dims, *sizes, *options, **factory)

        self.layers = nn.ModuleList(layer() for _ in range(c["num_layers"]))

    def reset_parameters(self) -> None:
        """Initialise all parameters afresh: Xavier-uniform weights, zero biases."""
        reset_children(self)

    def forward(
        self,
        *inputs: Tensor,
        audio: Tensor | None = None,
        visual: Tensor | None = None,
        lengths: Lengths | None = None,
        key_padding_mask: Tensor | None = None,
        return_all: bool = False,
        return_maps: bool = False,
    ) -> Fused:
        """The fused features, one (B, n, d_i) for each modality.

        Args:
            inputs: the audio and visual features, or one feature for each width of ``dims``.
            audio: the first of two modalities, by name.
            visual: the second of two modalities, by name.
            lengths: (B,) integers from 0 to n, the segments of each clip that are in use. The
                result is that of the shorter clips without padding, and zero in the padding. Values
                in the padding, NaN included, are ignored, and their gradient is zero.
            key_padding_mask: (B, n) bool in place of ``lengths``, True in the padding, which may be
                anywhere in a clip.
            return_all: return a list with the features after every layer, the last one included.
            return_maps: also return a list with ``{"C": ..., "H": ...}`` of every layer: the
                affinities C_i (B, d_i, d) and the attention maps H_i (B, k, d_i), in the released
                form T_i (B, n, d).
        """
        inputs = self._named(inputs, audio, visual)
        check_features(inputs, self.dims, self.num_segments)
        used = used_segments(lengths, key_padding_mask, inputs[0])
        inputs = tuple(zero_padding(x, used) for x in inputs)
        padded: dict[str, Any] = {} if used is None else {"used": used}
        iterations, maps = [], []
        for layer in self.layers:
            if return_maps:
                inputs, layer_maps = layer(*inputs, **padded, return_maps=True)
                maps.append(layer_maps)
            else:
                inputs = layer(*inputs, **padded)
            iterations.append(inputs)
        out = iterations if return_all else inputs
        return (out, maps) if return_maps else out  # type: ignore[return-value]

    def _named(
        self, inputs: tuple[Tensor, ...], audio: Tensor | None, visual: Tensor | None
    ) -> tuple[Tensor, ...]:
        """The features in order: those given by position, then those given by name."""
        if audio is None and visual is None:
            return inputs
        named = tuple(x for x in (audio, visual) if x is not None)
        if len(self.dims) != 2 or len(inputs) + len(named) != 2 or (inputs and visual is None):
            raise ValueError(
                "audio and visual name the features of two modalities, each given once; got "
                f"{len(inputs)} by position and {len(named)} by name of {len(self.dims)}"
            )
        return inputs + named

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.config.items())


def _modality_dims(
    audio_dim: int | None, visual_dim: int | None, dims: Sequence[int] | None
) -> tuple[int, ...]:
    """The widths of the modalities, from either form of the arguments."""
    if dims is None:
        if audio_dim is None or visual_dim is None:
            raise ValueError(
                "give audio_dim and visual_dim, or dims with the width of each modality"
            )
        check_positive(**{"audio_dim = dims[0]": audio_dim, "visual_dim = dims[1]": visual_dim})
        return int(audio_dim), int(visual_dim)
    if audio_dim is not None or visual_dim is not None:
        raise ValueError("give either audio_dim and visual_dim, or dims; not both")
    if not hasattr(dims, "__len__"):
        raise TypeError(f"dims must hold the widths of two or more modalities, got {dims!r}")
    if len(dims) < 2:
        raise ValueError(f"dims must hold the widths of two or more modalities, got {tuple(dims)}")
    check_positive(**{f"dims[{i}]": width for i, width in enumerate(dims)})
    return tuple(int(width) for width in dims)
