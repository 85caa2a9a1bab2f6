"""The network of Fig. 2: early fusion, re-representation, Joint Co-Attention, category prediction."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..modules import (
    AdditiveReduction,
    AudioGuidedReduction,
    JointCoAttention,
    PooledReduction,
    ResidualRNN,
)
from ..modules.checks import check_positive, check_probability
from ..modules.linear import xavier_linear


class AVELocalizer(nn.Module):
    """Audio-visual event localization: for every one-second segment, the score of each event class and background.

    ========================  ============================================  =========================================
    part                      ``form="paper"`` (Eqs. 1-9)                   ``form="released"`` (the published code)
    ========================  ============================================  =========================================
    visual regions to vector  dot-product attention guided by the audio     additive attention guided by the output
                              input                                         of the audio network
    audio, visual network     Bi-LSTM, concatenation residual               the same, L2-normalised
    fusion                    :class:`PaperLayer` x ``num_layers``,         :class:`ReleasedLayer` x ``num_layers``,
                              J = [audio; visual]                           J = Linear([visual; audio])
    prediction                Bi-LSTM, 1,024 / 256 MLP, sigmoid             Bi-LSTM, d_v / 4 MLP, softmax
    dropout                   none                                          0.3 on C, update and MLP, 0.1 in Bi-LSTMs
    ========================  ============================================  =========================================

    >>> model = AVELocalizer()
    >>> scores = model(audio, visual)  # (B, 10, 128), (B, 10, 7, 7, 512) -> (B, 10, 29)

    Args:
        audio_dim: d_a, width of the audio representation (Table 5); even.
        visual_dim: d_v, width of the visual representation (Table 5); even.
        num_layers: l, how often the fusion is repeated (Table 5).
        num_segments: N, segments of a clip.
        num_classes: classes with background, which is the last.
        form: "paper" or "released".
        audio_features: channels of the audio input (VGGish: 128).
        region_features: channels of a visual region (VGG19 pool5: 512).
        num_regions: R, regions of a segment; only the additive attention of the released form depends on it.
        attention_dim: k of the paper form.
        joint: how J is made (Table 4), one of :data:`jca_fast.modules.JOINT_STRATEGIES`; "cross" is the original
            co-attention of Table 3. None takes "concat" (paper) or "concat_fc" (released).
        pooling: "attention", or "average" or "max" over the regions (Table 3).
        cell: "lstm" or "gru" in the audio and visual networks (Table 3, where the released code has its switch).
        joint_cell: the same for the network of the prediction.
        unimodal_rnn: False leaves the audio and visual networks out (Table 3); a Linear adapts the widths.
        joint_rnn: False leaves the Bi-LSTM of the prediction out (Table 3).
        residual: False leaves the concatenation residual of all recurrent networks out (Table 3).
        dropout: on C, the update and the MLP; None takes the form's own.
        rnn_dropout: in the audio and visual networks; None takes the form's own.
        normalize: L2-normalise both inputs over their channels. The released code does; the paper is silent.
        modalities: "both", or "audio" or "visual" for the single-modality baselines of Table 2, which never read the
            other input; "visual" pools its regions by average unless ``pooling="max"``.
        backend: "auto" or the name of a backend of :mod:`jca_fast.functional`.

    Shapes:
        audio (B, N, audio_features), visual (B, N, H, W, region_features) or (B, N, R, region_features)
        -> scores (B, N, num_classes); any B, 0 included.

    Raises:
        ValueError: an argument is out of its range, or an input has the wrong shape.

    Source: Duan et al., WACV 2021; its released code for what the paper leaves open.
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
    ) -> None:
        config = {
            name: value for name, value in locals().items() if name not in ("self", "__class__")
        }
        super().__init__()
        _check_choice("form", form, ("paper", "released"))
        _check_choice("pooling", pooling, ("attention", "average", "max"))
        _check_choice("modalities", modalities, ("both", "audio", "visual"))
        check_positive(
            num_classes=num_classes, audio_features=audio_features, region_features=region_features
        )
        released = form == "released"
        dropout = (0.3 if released else 0.0) if dropout is None else dropout
        rnn_dropout = (0.1 if released else 0.0) if rnn_dropout is None else rnn_dropout
        check_probability(dropout=dropout, rnn_dropout=rnn_dropout)
        self.config: dict[str, Any] = config
        self.form, self.normalize, self.modalities = form, normalize, modalities

        def network(input_dim: int, dim: int) -> nn.Module:
            if unimodal_rnn:
                return ResidualRNN(
                    input_dim,
                    dim,
                    cell=cell,
                    dropout=rnn_dropout,
                    residual=residual,
                    normalize=released,
                )
            return nn.Identity() if input_dim == dim else xavier_linear(input_dim, dim)

        if modalities != "visual":
            self.audio_network = network(audio_features, audio_dim)
        if modalities != "audio":
            self.reduction, reduced = self._reduction(config)
            self.visual_network = network(reduced, visual_dim)
        widths = {"audio": audio_dim, "visual": visual_dim, "both": audio_dim + visual_dim}
        width = widths[modalities]
        if modalities == "both":
            dims = (visual_dim, audio_dim) if released else (audio_dim, visual_dim)
            self.fusion = JointCoAttention(
                None,
                None,
                num_segments,
                attention_dim,
                num_layers,
                form,
                joint,
                dropout,
                dims=dims,
                backend=backend,
            )
        self.joint_network: nn.Module = nn.Identity()
        if joint_rnn:
            hidden = audio_dim if modalities == "audio" else visual_dim
            self.joint_network = ResidualRNN(
                width, hidden, cell=joint_cell, residual=residual, normalize=released
            )
            width = hidden
        self.head = self._head(form, width, num_classes, dropout)

    @staticmethod
    def _reduction(config: dict[str, Any]) -> tuple[nn.Module, int]:
        """The module that reduces the regions, and the width it returns."""
        pooling, width = config["pooling"], config["region_features"]
        if config["modalities"] == "visual" and pooling == "attention":
            pooling = "average"
        if pooling != "attention":
            return PooledReduction(pooling), width
        if config["form"] == "released":
            sizes = (config["audio_dim"], width, config["visual_dim"], config["num_regions"])
            return AdditiveReduction(*sizes), config["visual_dim"]
        return AudioGuidedReduction(config["audio_features"], width, config["backend"]), width

    @staticmethod
    def _head(form: str, width: int, num_classes: int, dropout: float) -> nn.Sequential:
        sizes = (
            (width, width // 4, num_classes)
            if form == "released"
            else (width, 1024, 256, num_classes)
        )
        layers: list[nn.Module] = []
        for i, o in pairwise(sizes[:-1]):
            layers += [xavier_linear(i, o), nn.ReLU(), nn.Dropout(dropout)]
        return nn.Sequential(*layers, xavier_linear(sizes[-2], sizes[-1]))

    def forward(self, audio: Tensor, visual: Tensor, return_maps: bool = False) -> Any:
        """Scores (B, N, num_classes): sigmoid probabilities in the paper form, a softmax in the released form.

        With ``return_maps`` also a dict: "visual_attention" (B, N, R) or None without attention over regions, and
        "coattention", a list with ``{"C": ..., "H": ...}`` of every fusion layer, audio before visual.
        """
        logits, maps = self._run(audio, visual, return_maps)
        scores = torch.softmax(logits, dim=-1) if self.form == "released" else torch.sigmoid(logits)
        return (scores, maps) if return_maps else scores

    def logits(self, audio: Tensor, visual: Tensor) -> Tensor:
        """The scores before their sigmoid or softmax (B, N, num_classes), as losses on logits want them."""
        return self._run(audio, visual, False)[0]

    def _run(
        self, audio: Tensor, visual: Tensor, return_maps: bool
    ) -> tuple[Tensor, dict[str, Any]]:
        audio, regions = self._inputs(audio, visual)
        maps: dict[str, Any] = {"visual_attention": None, "coattention": []}
        features = []
        if self.modalities != "visual":
            features.append(self.audio_network(audio))  # (B, N, d_a)
        if self.modalities != "audio":
            guide = features[0] if features and self.form == "released" else audio
            reduced, maps["visual_attention"] = self.reduction(guide, regions)
            features.append(self.visual_network(reduced))  # (B, N, d_v)
        if self.modalities == "both":
            features, maps["coattention"] = self._fuse(features, return_maps)
        joint = self.joint_network(torch.cat(features, dim=-1))
        return self.head(joint), maps

    def _fuse(
        self, features: list[Tensor], return_maps: bool
    ) -> tuple[list[Tensor], list[dict[str, Any]]]:
        """The fused features in the order in which the form concatenates them, and the maps, audio first."""
        if self.form == "released":
            features = features[::-1]  # the released code puts the visual feature first
        if not return_maps:
            return list(self.fusion(*features)), []
        fused, maps = self.fusion(*features, return_maps=True)
        if self.form == "released":
            maps = [{symbol: values[::-1] for symbol, values in layer.items()} for layer in maps]
        return list(fused), maps

    def _inputs(self, audio: Tensor, visual: Tensor) -> tuple[Tensor, Tensor]:
        """Both inputs checked, the regions as (B, N, R, D), normalised if the model does so."""
        segments, channels = self.config["num_segments"], self.config["audio_features"]
        if audio.ndim != 3 or tuple(audio.shape[1:]) != (segments, channels):
            raise ValueError(
                f"audio must have shape (B, {segments}, {channels}), got {tuple(audio.shape)}"
            )
        width = self.config["region_features"]
        shape = tuple(visual.shape)
        if visual.ndim not in (4, 5) or shape[:2] != tuple(audio.shape[:2]) or shape[-1] != width:
            needed = f"({audio.shape[0]}, {segments}, H, W, {width}) or ({audio.shape[0]}, {segments}, R, {width})"
            raise ValueError(f"visual must have shape {needed}, got {shape}")
        regions = visual.flatten(2, -2)  # (B, N, R, D)
        if self.normalize:
            return F.normalize(audio, dim=-1), F.normalize(regions, dim=-1)
        return audio, regions


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")
