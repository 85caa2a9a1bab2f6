"""The arguments of :class:`AVELocalizer`: their ranges, and the shapes of its inputs."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..modules.checks import (
    check_backend,
    check_choice,
    check_feature,
    check_like,
    check_positive,
    check_probability,
)
from . import parts

_SIZES = (
    "audio_dim",
    "visual_dim",
    "num_layers",
    "num_segments",
    "num_classes",
    "audio_features",
    "region_features",
    "num_regions",
    "attention_dim",
)


def as_plain_value(value: Any) -> Any:
    """A NumPy scalar as a Python value; other values unchanged."""
    return value.item() if hasattr(value, "item") else value


def check_config(config: dict[str, Any]) -> None:
    """Every argument must be in its range, except those that the parts check themselves."""
    check_positive(**{name: config[name] for name in _SIZES})
    for name, choices in (
        ("form", ("paper", "released")),
        ("pooling", ("attention", "average", "max")),
        ("modalities", ("both", "audio", "visual")),
        ("cell", ("lstm", "gru")),
        ("joint_cell", ("lstm", "gru")),
    ):
        check_choice(name, config[name], choices)
    check_backend(config["backend"])
    dropout, rnn_dropout = parts.rates(config)
    check_probability(dropout=dropout, rnn_dropout=rnn_dropout)
    joint = "audio_dim" if config["modalities"] == "audio" else "visual_dim"
    for name in ("audio_dim", "visual_dim"):
        halved = config["unimodal_rnn"] or (config["joint_rnn"] and name == joint)
        if halved and config[name] % 2:
            raise ValueError(f"{name} must be even, half for each direction; got {config[name]}")


def check_inputs(config: dict[str, Any], audio: Tensor, visual: Tensor) -> None:
    """Both inputs must have the right types, shapes, dtypes and devices."""
    width = config["region_features"]
    check_feature("audio", audio, config["audio_features"], config["num_segments"])
    if not isinstance(visual, Tensor):
        raise TypeError(f"visual must be a tensor, got {type(visual).__name__}")
    shape = tuple(visual.shape)
    if visual.ndim not in (4, 5) or shape[:2] != tuple(audio.shape[:2]) or shape[-1] != width:
        lead = f"{audio.shape[0]}, {audio.shape[1]}"
        needed = f"({lead}, H, W, {width}) or ({lead}, R, {width})"
        raise ValueError(f"visual must have shape {needed}, got {shape}")
    check_like("visual", visual, audio, "audio")
