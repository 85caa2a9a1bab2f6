"""Adapter of jca_fast.compat for the reference folder's ``verify.py``, which calls ``build``."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from jca_fast.compat import cam, released


def module(kind: str, meta: dict) -> torch.nn.Module:
    """The compat module of one case, from the sizes in its metadata."""
    m = SimpleNamespace(**meta)
    if kind in ("dense", "sublayer"):
        return {"dense": released.DenseCoAttn, "sublayer": released.NormalSubLayer}[kind](
            m.dim1, m.dim2, 0.3, m.N
        )
    if kind in ("dcn", "fork"):
        return released.DCNLayer(m.dim1, m.dim2, m.layers, 0.3, m.N)
    if kind == "position":
        return released.PositionAttn(m.embed_dim, m.dim)
    if kind == "lstm":
        return released.LSTM(m.embed, m.dim, m.layers, 0.1)
    if kind == "predict":
        return released.PredictLayer(m.dim1, m.dim2, m.classes, 0.3, squeeze=True)
    if kind == "full":
        options = SimpleNamespace(audio_size=m.da, video_size=m.dv, num_seq=m.layers)
        return released.DCNWithRCNN(options, squeeze=True)
    raise ValueError(f"unknown kind {kind!r}")


def camtiny(meta: dict, weights: dict) -> torch.nn.Module:
    in_dims = tuple(weights[f"encoder{i}.weight"].shape[1] for i in (1, 2))
    hidden = weights["regressor.0.weight"].shape[0]
    return cam.CAM(
        meta["N"],
        in_dims,
        (meta["da"], meta["dv"]),
        meta["k"],
        hidden_dim=hidden,
        heads=("regressor",),
    )


def call(kind: str, model: torch.nn.Module, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """The outputs of one case under the names of the reference files, inner maps included."""
    if kind == "camtiny":
        attended = dict(zip(("att_audio", "att_visual"), model.attend(**inputs), strict=True))
        maps = {
            f"map/{s}_{n}": x
            for s, pair in model.maps(**inputs).items()
            for n, x in zip("av", pair, strict=True)
        }
        return {**attended, "reg": model(**inputs), **maps}
    if kind == "position":
        y, alpha = model.attend(**inputs)
        return {"y": y, "map/alpha": alpha.flatten(0, 1)}
    if kind == "full":
        return {"score": model(**inputs)}
    out = model(*inputs.values())
    if kind == "dense":
        c1, c2 = model.maps(*inputs.values())["C"]
        return {"weighted1": out[0], "weighted2": out[1], "map/C1": c1, "map/C2": c2}
    return (
        {"y1": out[0], "y2": out[1]}
        if isinstance(out, tuple)
        else {"score" if kind == "predict" else "y": out}
    )


def build(kind, meta, weights, dtype):
    """A callable from the inputs of a case to its outputs, and the parameters under their published
    names.
    """
    model = camtiny(meta, weights) if kind == "camtiny" else module(kind, meta)
    model.to(dtype).eval()
    model.load_state_dict(
        {key: torch.from_numpy(value).to(dtype) for key, value in weights.items()}, strict=True
    )
    return lambda **inputs: call(kind, model, **inputs), dict(model.named_parameters())
