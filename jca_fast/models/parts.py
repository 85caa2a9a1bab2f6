"""The parts of :class:`jca_fast.models.AVELocalizer`, each built from its config."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import nn

from ..modules import (
    AdditiveReduction,
    AudioGuidedReduction,
    JointCoAttention,
    PooledReduction,
    ResidualRNN,
)
from ..modules.linear import Sequential, xavier_linear

Config = dict[str, Any]


def rates(config: Config) -> tuple[float, float]:
    """The dropout of fusion and MLP, and of the recurrent networks; None is the form's rate."""
    released = config["form"] == "released"
    dropout, rnn_dropout = config["dropout"], config["rnn_dropout"]
    return (
        (0.3 if released else 0.0) if dropout is None else dropout,
        (0.1 if released else 0.0) if rnn_dropout is None else rnn_dropout,
    )


def network(config: Config, input_dim: int, dim: int, factory: Config) -> nn.Module:
    """The audio or the visual network: recurrent, or a Linear that adapts the width."""
    if not config["unimodal_rnn"]:
        return nn.Identity() if input_dim == dim else xavier_linear(input_dim, dim, **factory)
    return ResidualRNN(
        input_dim,
        dim,
        cell=config["cell"],
        dropout=rates(config)[1],
        residual=config["residual"],
        normalize=config["form"] == "released",
        **factory,
    )


def reduction(config: Config, factory: Config) -> tuple[nn.Module, int]:
    """The module that reduces the regions, and the width of its result."""
    pooling, width = config["pooling"], config["region_features"]
    if config["modalities"] == "visual" and pooling == "attention":
        pooling = "average"
    if pooling != "attention":
        return PooledReduction(pooling), width
    if config["form"] == "released":
        sizes = (config["audio_dim"], width, config["visual_dim"], config["num_regions"])
        return AdditiveReduction(*sizes, **factory), config["visual_dim"]
    module = AudioGuidedReduction(config["audio_features"], width, config["backend"], **factory)
    return module, width


def fusion(config: Config, factory: Config) -> JointCoAttention:
    """Joint Co-Attention; the released code puts the visual feature first."""
    dims = (config["audio_dim"], config["visual_dim"])
    return JointCoAttention(
        num_segments=config["num_segments"],
        attention_dim=config["attention_dim"],
        num_layers=config["num_layers"],
        form=config["form"],
        joint=config["joint"],
        dropout=rates(config)[0],
        dims=dims[::-1] if config["form"] == "released" else dims,
        backend=config["backend"],
        **factory,
    )


def joint_network(config: Config, factory: Config) -> tuple[nn.Module, int]:
    """The network of the prediction, and the width of its result."""
    audio, visual = config["audio_dim"], config["visual_dim"]
    width = {"audio": audio, "visual": visual, "both": audio + visual}[config["modalities"]]
    if not config["joint_rnn"]:
        return nn.Identity(), width
    hidden = audio if config["modalities"] == "audio" else visual
    module = ResidualRNN(
        width,
        hidden,
        cell=config["joint_cell"],
        residual=config["residual"],
        normalize=config["form"] == "released",
        **factory,
    )
    return module, hidden


def head(config: Config, width: int, factory: Config) -> nn.Sequential:
    """The MLP that predicts the classes of a segment."""
    hidden = (width // 4,) if config["form"] == "released" else (1024, 256)
    sizes = (width, *hidden)
    layers: list[nn.Module] = []
    for i, o in pairwise(sizes):
        layers += [xavier_linear(i, o, **factory), nn.ReLU(), nn.Dropout(rates(config)[0])]
    return Sequential(*layers, xavier_linear(sizes[-1], config["num_classes"], **factory))
