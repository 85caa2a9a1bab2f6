"""The network of Fig. 2: early fusion, re-representation, Joint Co-Attention, prediction."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..modules.hub import Pretrained
from ..modules.lengths import Lengths, padding_mask, used_segments, zero_padding
from ..modules.linear import reset_children
from ..modules.recurrent import call_recurrent
from . import parts
from .arguments import as_plain_value, check_config, check_inputs

Maps = dict[str, Any]

_NO_CONFIG = ("self", "__class__", "device", "dtype")


class AVELocalizer(Pretrained):
    """Audio-visual event localization: scores of every event class and background, per segment.

    ========================  ===========================  =======================================
    part                      ``form="paper"`` (Eqs. 1-9)  ``form="released"`` (published code)
    ========================  ===========================  =======================================
    visual regions to vector  dot-product attention        additive attention guided by the
                              guided by the audio input    output of the audio network
    audio, visual network     Bi-LSTM, concatenation       the same, L2-normalised
                              residual
    fusion                    :class:`PaperLayer`          :class:`ReleasedLayer` x ``num_layers``,
                              x ``num_layers``,            J = Linear([visual; audio])
                              J = [audio; visual]
    prediction                Bi-LSTM, 1,024 / 256 MLP,    Bi-LSTM, d_v / 4 MLP, softmax
                              sigmoid
    dropout                   none                         0.3 on C, update and MLP,
                                                           0.1 in Bi-LSTMs
    ========================  ===========================  =======================================

    >>> model = AVELocalizer()
    >>> scores = model(audio, visual)  # (B, 10, 128), (B, 10, 7, 7, 512) -> (B, 10, 29)

    Args:
        audio_dim: d_a, width of the audio representation (Table 5); even.
        visual_dim: d_v, width of the visual representation (Table 5); even.
        num_layers: l, the number of fusion layers (Table 5).
        num_segments: N, the largest number of segments of a clip.
        num_classes: number of classes, background included, which is the last.
        form: "paper" or "released".
        audio_features: channels of the audio input (VGGish: 128).
        region_features: channels of a visual region (VGG19 pool5: 512).
        num_regions: R, regions of a segment; only the additive attention of the released form
            depends on it.
        attention_dim: k of the paper form.
        joint: the construction of J (Table 4), one of :data:`jca_fast.modules.JOINT_STRATEGIES`;
            "cross" is the original co-attention of Table 3. None takes "concat" (paper) or
            "concat_fc" (released).
        pooling: "attention", or "average" or "max" over the regions (Table 3).
        cell: "lstm" or "gru" in the audio and visual networks, as in the released code (Table 3).
        joint_cell: "lstm" or "gru" in the network of the prediction.
        unimodal_rnn: False omits the audio and visual networks (Table 3); a Linear adapts the
            widths.
        joint_rnn: False omits the Bi-LSTM of the prediction (Table 3).
        residual: False omits the concatenation residual of all recurrent networks (Table 3).
        dropout: on C, the update and the MLP; None takes the rate of the form.
        rnn_dropout: in the audio and visual networks; None takes the rate of the form.
        normalize: L2-normalise both inputs over their channels. The released code does this; the
            paper does not mention it.
        modalities: "both", or "audio" or "visual" for the single-modality baselines of Table 2,
            which never read the other input; "visual" pools its regions by average unless
            ``pooling="max"``.
        backend: "auto" or the name of a backend of :mod:`jca_fast.functional`.
        device: the device of the parameters.
        dtype: the dtype of the parameters.

    Shapes:
        audio (B, n, audio_features), visual (B, n, H, W, region_features) or
        (B, n, R, region_features) -> scores (B, n, num_classes); any B, 0 included, n from 1 to N.

    Attributes:
        config: the arguments without device and dtype, as plain Python values;
            ``AVELocalizer(**config)`` has the same shapes. ``save_pretrained`` and
            ``from_pretrained`` keep it beside the weights.

    Raises:
        TypeError, ValueError: an argument is out of its range, or an input has the wrong type,
            shape, dtype or device.

    Source: Duan et al., WACV 2021; the released code where the paper gives no detail.
    """

    def __init__(
        self,
        audio_dim: int = 512,
        visual_dim: int = 512,
        num_layers: int = 4,
        num_segments: int = 10,
        num_classes: int = 29,
        form: str = "paper",
        *,
        audio_features: int = 128,
        region_features: int = 512,
        num_regions: int = 49,
        attention_dim: int = 32,
        joint: str | None = None,
        pooling: str = "attention",
        cell: str = "lstm",
        joint_cell: str = "lstm",
        unimodal_rnn: bool = True,
        joint_rnn: bool = True,
        residual: bool = True,
        dropout: float | None = None,
        rnn_dropout: float | None = None,
        normalize: bool = True,
        modalities: str = "both",
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        config = {name: as_plain_value(v) for name, v in locals().items() if name not in _NO_CONFIG}
        super().__init__()
        check_config(config)
        self.config: dict[str, Any] = config
        self.form = form
        self.normalize = config["normalize"]
        self.modalities = modalities
        factory = {"device": device, "dtype": dtype}
        audio_dim, visual_dim = config["audio_dim"], config["visual_dim"]
        if modalities != "visual":
            features = config["audio_features"]
            self.audio_network = parts.network(config, features, audio_dim, factory)
        if modalities != "audio":
            self.reduction, reduced = parts.reduction(config, factory)
            self.visual_network = parts.network(config, reduced, visual_dim, factory)
        if modalities == "both":
            self.fusion = parts.fusion(config, factory)
        self.joint_network, width = parts.joint_network(config, factory)
        self.head = parts.head(config, width, factory)

    def reset_parameters(self) -> None:
        """Initialise all parameters afresh: Xavier-uniform weights, zero biases."""
        reset_children(self)

    def forward(
        self,
        audio: Tensor,
        visual: Tensor,
        return_maps: bool = False,
        lengths: Lengths | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Maps]:
        """Scores (B, n, num_classes): probabilities by a sigmoid, in the released form a softmax.

        Args:
            audio: see the class.
            visual: see the class.
            return_maps: also return a dict: "visual_attention" (B, n, R), or None without attention
                over regions, and "coattention", a list with ``{"C": ..., "H": ...}`` of every
                fusion layer, audio before visual.
            lengths: (B,) integers from 0 to n, the segments of each clip that are in use. The
                result is that of the shorter clips without padding, and zero in the padding.
            key_padding_mask: (B, n) bool in place of ``lengths``, True in the padding.
        """
        used = self._used(audio, visual, lengths, key_padding_mask)
        logits, maps = self._run(audio, visual, used, return_maps)
        scores = torch.softmax(logits, dim=-1) if self.form == "released" else torch.sigmoid(logits)
        scores = zero_padding(scores, used)
        return (scores, maps) if return_maps else scores

    def logits(
        self,
        audio: Tensor,
        visual: Tensor,
        *,
        lengths: Lengths | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """The scores before their sigmoid or softmax (B, n, num_classes), for losses on logits."""
        used = self._used(audio, visual, lengths, key_padding_mask)
        return zero_padding(self._run(audio, visual, used, False)[0], used)

    def _used(
        self,
        audio: Tensor,
        visual: Tensor,
        lengths: Lengths | None,
        key_padding_mask: Tensor | None,
    ) -> Tensor | None:
        """Check the inputs and return the mask of the segments in use (B, n, 1), None for all."""
        check_inputs(self.config, audio, visual)
        return used_segments(lengths, key_padding_mask, audio)

    def _run(
        self, audio: Tensor, visual: Tensor, used: Tensor | None, return_maps: bool
    ) -> tuple[Tensor, Maps]:
        """The logits (B, n, num_classes) and the maps."""
        maps: Maps = {"visual_attention": None, "coattention": []}
        features = []
        if self.modalities != "visual":
            audio = self._prepared(audio, used)
            features.append(call_recurrent(self.audio_network, audio, used))  # (B, n, d_a)
        if self.modalities != "audio":
            regions = self._prepared(visual.flatten(2, -2), used)  # (B, n, R, D)
            guide = features[0] if features and self.form == "released" else audio
            reduced, maps["visual_attention"] = self.reduction(guide, regions)
            features.append(call_recurrent(self.visual_network, reduced, used))  # (B, n, d_v)
        if self.modalities == "both":
            features, maps["coattention"] = self._fuse(features, used, return_maps)
        joint = call_recurrent(self.joint_network, torch.cat(features, dim=-1), used)
        return self.head(joint), maps

    def _prepared(self, x: Tensor, used: Tensor | None) -> Tensor:
        """An input with zeros in the padding, normalised over its channels with ``normalize``."""
        x = zero_padding(x, used)
        return F.normalize(x, dim=-1) if self.normalize else x

    def _fuse(
        self, features: list[Tensor], used: Tensor | None, return_maps: bool
    ) -> tuple[list[Tensor], list[Maps]]:
        """The fused features in the order in which the form concatenates them, and the maps."""
        if self.form == "released":
            features = features[::-1]
        if not return_maps:
            return list(self.fusion(*features, **padding_mask(used))), []
        fused, maps = self.fusion(*features, **padding_mask(used), return_maps=True)
        if self.form == "released":
            maps = [{symbol: values[::-1] for symbol, values in layer.items()} for layer in maps]
        return list(fused), maps

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.config.items())
