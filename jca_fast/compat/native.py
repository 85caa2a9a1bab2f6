"""Converts between the published modules and the modules of this library by renaming weights.

==============================  ====================================================================
published                       this library
==============================  ====================================================================
``released.DCNWithRCNN``        ``AVELocalizer(form="released")``
``released.DCNLayer``           ``JointCoAttention(form="released")``, video first
``rjcma.DCNLayer``              ``JointCoAttention(dims=..., form="released", joint="concat")``
the attention of ``cam.CAM``    ``JointCoAttention(form="paper", num_layers=1)``, without its heads
==============================  ====================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from ..models import AVELocalizer
from ..modules import JointCoAttention
from . import cam, released, rjcma
from .layers import PublishedStack

_MODEL = {
    "audio_extract.": "audio_network.",
    "video_attn.attn.affine_audio.": "reduction.audio.",
    "video_attn.attn.affine_video.": "reduction.regions.",
    "video_attn.attn.affine_v.": "reduction.score_regions.",
    "video_attn.attn.affine_g.": "reduction.score_audio.",
    "video_attn.attn.affine_h.": "reduction.score.",
    "video_attn.attn.affine_feat.": "reduction.output.",
    "video_extract.": "visual_network.",
    "predict.Joint.": "joint_network.",
    "predict.predict.": "head.",
}
_CAM = {"affine_": "W_j", "W_": "W_", "W_c": "W_c", "W_h": "W_h"}


def to_native(model: nn.Module) -> AVELocalizer | JointCoAttention:
    """The module of this library with copied weights, dropout rates and mode of a published one.

    The table above lists the pairs. The released forms take the video first. The unused
    ``query_linear`` of an RJCMA layer and the encoders and heads of a CAM are dropped. Raises
    ValueError for any other module, and for LSTM blocks without exactly 2 layers.
    """
    if isinstance(model, released.DCNWithRCNN):
        return _fill(
            AVELocalizer,
            _localizer_config(model),
            model,
            _model_names(len(model.coattn.dcn_layers)),
        )
    if isinstance(model, PublishedStack):
        layer: Any = model.dcn_layers[0]
        dense = layer.dense_coattn
        config = {
            "dims": dense.dims,
            "num_segments": dense.num_segments,
            "num_layers": len(model.dcn_layers),
            "form": "released",
            "joint": "concat_fc" if dense.use_query else "concat",
            "dropout": dense.dropouts[0].p,
        }
        return _fill(
            JointCoAttention, config, model, _stack_names(len(model.dcn_layers), len(dense.dims))
        )
    if isinstance(model, cam.CAM):
        config = {
            "dims": model.dims,
            "num_segments": model.num_segments,
            "attention_dim": model.W_a.out_features,
            "num_layers": 1,
            "form": "paper",
        }
        weights = {
            f"{symbol}{i}.weight": f"layers.0.{own}{i}"
            for symbol, own in _CAM.items()
            for i in "av"
        }
        return _fill(JointCoAttention, config, model, weights, transposed="W_h")
    raise ValueError(
        f"{type(model).__module__}.{type(model).__name__} has no counterpart in this library"
    )


def to_published(model: nn.Module) -> nn.Module:
    """The published module with copied weights, dropout rates and mode of one of this library.

    The table above lists the pairs. The unused ``query_linear`` of RJCMA starts with new weights.
    The CAM has no encoders, no heads, one layer and no dropout. Raises ValueError if no published
    module computes the same.
    """
    if isinstance(model, AVELocalizer):
        options = _released_options(model)
        names = _model_names(options.num_seq)
        return _fill(released.DCNWithRCNN, {"opt": options}, model, _reversed(names))
    if not isinstance(model, JointCoAttention):
        raise ValueError(
            f"{type(model).__module__}.{type(model).__name__} has no published counterpart"
        )
    count, n = len(model.layers), model.num_segments
    layer: Any = model.layers[0]
    config: dict[str, Any]
    kind = model.form, model.joint, len(model.dims)
    if kind in (("released", "concat_fc", 2), ("released", "concat", 3)):
        stack = released.DCNLayer if kind[2] == 2 else rjcma.DCNLayer
        config = {f"dim{i}": width for i, width in enumerate(model.dims, 1)}
        config |= {"num_seq": count, "dropout": layer.dropout.p, "num_segments": n}
        return _fill(stack, config, model, _reversed(_stack_names(count, kind[2])))
    if kind == ("paper", "concat", 2) and count == 1 and not layer.dropout.p:
        k = layer.W_a.shape[0]
        config = {
            "num_segments": n,
            "in_dim": model.dims,
            "dim": None,
            "attention_dim": k,
            "heads": (),
        }
        weights = {
            f"layers.0.{own}{i}": f"{symbol}{i}.weight"
            for symbol, own in _CAM.items()
            for i in "av"
        }
        return _fill(cam.CAM, config, model, weights, transposed="W_h")
    raise ValueError(
        f"no published module has form {kind[0]!r}, joint {kind[1]!r}, "
        f"{kind[2]} modalities, {count} layers"
    )


def _fill(
    target: type[nn.Module],
    config: Mapping[str, Any],
    source: nn.Module,
    names: Mapping[str, str],
    transposed: str = "-",
) -> Any:
    """``target(**config)`` with the tensors of ``source`` whose prefix has a new name."""
    model = target(**config)
    renamed: dict[str, Tensor] = {}
    for key, value in source.state_dict().items():
        prefix = next((old for old in names if key.startswith(old)), None)
        if prefix is not None:
            new = names[prefix] + key.removeprefix(prefix)
            renamed[new] = value.mT.contiguous() if transposed in key else value.clone()
    missing = [
        key for key in model.load_state_dict(renamed, strict=False, assign=True).missing_keys
    ]
    if any(".query_linear." not in key for key in missing):
        raise ValueError(f"{type(source).__name__} has no weights for {', '.join(missing[:3])}")
    first = next(source.parameters())
    return model.to(device=first.device, dtype=first.dtype).train(source.training)


def _reversed(names: Mapping[str, str]) -> dict[str, str]:
    return {new: old for old, new in names.items()}


def _stack_names(num_layers: int, modalities: int) -> dict[str, str]:
    """Published prefix and native prefix of every Linear of a stack of layers."""
    names = {}
    for i in range(num_layers):
        old, new = f"dcn_layers.{i}.", f"layers.{i}."
        names[f"{old}dense_coattn.query_linear."] = f"{new}joint.fc.0."
        for j in range(modalities):
            names[f"{old}dense_coattn.key{j + 1}_linear."] = f"{new}key.{j}."
            names[f"{old}dense_coattn.value{j + 1}_linear."] = f"{new}value.{j}."
            names[f"{old}linears.{j}.0."] = f"{new}output.{j}."
    return names


def _model_names(num_layers: int) -> dict[str, str]:
    return _MODEL | {
        f"coattn.{old}": f"fusion.{new}" for old, new in _stack_names(num_layers, 2).items()
    }


def _localizer_config(model: released.DCNWithRCNN) -> dict[str, Any]:
    first: Any = model.coattn.dcn_layers[0]
    dense = first.dense_coattn
    if model.audio_extract.rnn.num_layers != 2:
        raise ValueError(
            f"AVELocalizer has LSTM blocks of 2 layers, got {model.audio_extract.rnn.num_layers}"
        )
    last: Any = model.predict.predict[3]
    return {
        "audio_dim": dense.dims[1],
        "visual_dim": dense.dims[0],
        "num_layers": len(model.coattn.dcn_layers),
        "num_segments": dense.num_segments,
        "num_classes": last.out_features,
        "form": "released",
        "cell": "gru" if isinstance(model.audio_extract, released.GRU) else "lstm",
        "dropout": dense.dropouts[0].p,
        "rnn_dropout": model.audio_extract.dropout.p,
    }


def _released_options(model: AVELocalizer) -> SimpleNamespace:
    """The command line that makes this model in the published code; ValueError if there is none."""
    config = model.config
    fixed = {
        "form": "released",
        "audio_features": 128,
        "region_features": 512,
        "num_regions": 49,
        "pooling": "attention",
        "joint_cell": "lstm",
        "unimodal_rnn": True,
        "joint_rnn": True,
        "residual": True,
        "normalize": True,
        "modalities": "both",
    }
    for name, needed in fixed.items():
        if config[name] != needed:
            raise ValueError(
                f"the published model has {name}={needed!r}, this one has {config[name]!r}"
            )
    if config["joint"] not in (None, "concat_fc"):
        raise ValueError(
            f"the published model has joint='concat_fc', this one has {config['joint']!r}"
        )
    dropout, rnn_dropout = config["dropout"], config["rnn_dropout"]
    return SimpleNamespace(
        audio_size=config["audio_dim"],
        video_size=config["visual_dim"],
        num_seq=config["num_layers"],
        num_layers=2,
        num_classes=config["num_classes"],
        num_segments=config["num_segments"],
        rnn=config["cell"].upper(),
        dropout=0.3 if dropout is None else dropout,
        droprnn=0.1 if rnn_dropout is None else rnn_dropout,
    )
