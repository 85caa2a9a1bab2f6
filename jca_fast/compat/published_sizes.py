"""Reads the sizes of the published modules from the shapes of their weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from torch import nn

from . import abaw8, cam, dynamic_crossattention, orig_cam, pkdot, released, rjcma, speaker, spiro
from .other_formulas import AVER_ATTENTION, AVER_HEADS, refuse_other_formulas

Shapes = dict[str, tuple[int, ...]]
DROPOUT = {1: 0.6, 8: 0.6, 16: 0.6, 300: 0.6}
"""The published dropout of two-modality layers by N; at N = 10 it is 0.3, as at any other."""


@dataclass(frozen=True)
class Sized:
    """A module by the sizes of its weights: a text of them, its class, and ``make(class)``.

    ``make`` also takes a subclass. ``question`` is not empty if other published code has the same
    keys and shapes and only the caller can tell; ``caution`` is a note on what was assumed.
    """

    text: str
    cls: type[nn.Module]
    make: Callable[..., nn.Module]
    question: str = ""
    caution: str = ""


def within(shapes: Shapes, prefix: str) -> Shapes:
    """The entries under ``prefix``, with keys without it."""
    return {
        key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)
    }


def _count(shapes: Shapes, pattern: str, start: int = 0) -> int:
    """The number of keys ``pattern.format(start)``, ``pattern.format(start + 1)``, ... in a row."""
    count = 0
    while pattern.format(start + count) in shapes:
        count += 1
    return count


def _dense_sizes(s: Shapes) -> tuple[list[int], int]:
    """The widths of the modalities of a co-attention layer, and N."""
    count = max(2, _count(s, "value{}_linear.weight", 1))
    return [s[f"value{i}_linear.weight"][0] for i in range(1, count + 1)], s["key1_linear.weight"][
        0
    ]


def read_layers(s: Shapes, class_name: str, prefix: str, num_seq: tuple[int, ...] = ()) -> Sized:
    """``class_name`` of the two- or three-modality code, sized by the layer under ``prefix``."""
    dims, n = _dense_sizes(within(s, prefix))
    counts = "".join(f", {count} layers" for count in num_seq)
    text = f"widths {'/'.join(map(str, dims))}, N = {n}{counts}"
    if len(dims) > 2:
        sizes = (*dims, *num_seq, 0.6)
        return Sized(text, getattr(rjcma, class_name), lambda cls: cls(*sizes, num_segments=n))

    def make(cls: Any, use_query: bool | None = None) -> nn.Module:
        rate = DROPOUT.get(n, 0.3) if cls.__module__ == released.__name__ else 0.6
        return cls(*dims, *num_seq, rate, num_segments=n, use_query=use_query)

    question, caution = _two_modalities(class_name, n)
    return Sized(text, getattr(released, class_name), make, question, caution)


def _two_modalities(class_name: str, n: int) -> tuple[str, str]:
    """The question and the caution for two-modality layers of N segments."""
    if n == spiro.DenseCoAttn.default_segments:
        return (
            f"these weights fit two published forms of {class_name}, which give other results: "
            "with query_linear in use, as in ABAW8, whose DCNLayer returns every iteration "
            "(repository='abaw8' or use_query=True), or out of use, as in SPIRo "
            "(repository='spiro' or use_query=False); pass use_query or repository"
        ), ""
    if n in DROPOUT or n == released.DenseCoAttn.default_segments:
        return "", ""
    return "", (
        f"no repository has a {class_name} of N = {n}; taken to use its query_linear and to return "
        "the last features, as most do; if it was made from SPIRo or ABAW8, pass repository"
    )


def read_stack(s: Shapes) -> Sized:
    count = _count(s, "dcn_layers.{}.dense_coattn.key1_linear.weight")
    return read_layers(s, "DCNLayer", "dcn_layers.0.dense_coattn.", (count,))


def read_rnn(s: Shapes) -> Sized:
    gates, embed = s["rnn.weight_ih_l0"]
    dim, width = s["linear.weight"]
    layers = _count(s, "rnn.weight_ih_l{}")
    block = {4: released.LSTM, 3: released.GRU}[gates // s["rnn.weight_hh_l0"][1]]
    text = f"{block.__name__}, {embed} -> {dim}, {layers} layers"
    return Sized(text, block, lambda cls: cls(embed, dim, layers, 0.1, width != dim))


def read_position(
    prefix: str, block: type[nn.Module], one_region: type[nn.Module]
) -> Callable[[Shapes], Sized]:
    def read(s: Shapes) -> Sized:
        dim, embed = s[prefix + "affine_audio.weight"]
        make = one_region if s[prefix + "affine_h.weight"][1] == 1 else block
        return Sized(f"audio {embed}, width {dim}", make, lambda cls: cls(embed, dim))

    return read


def read_predict(s: Shapes) -> Sized:
    dim1, width = s["Joint.linear.weight"]
    dim2, classes = width - 2 * dim1, s["predict.3.weight"][0]
    text = f"widths {dim1}/{dim2}, {classes} classes"
    return Sized(text, released.PredictLayer, lambda cls: cls(dim1, dim2, classes, 0.3))


def read_released(s: Shapes) -> Sized:
    options = SimpleNamespace(
        audio_size=s["audio_extract.linear.weight"][0],
        video_size=s["video_extract.linear.weight"][0],
        num_seq=_count(s, "coattn.dcn_layers.{}.dense_coattn.key1_linear.weight"),
        num_layers=_count(s, "audio_extract.rnn.weight_ih_l{}"),
        num_classes=s["predict.predict.3.weight"][0],
        num_segments=s["coattn.dcn_layers.0.dense_coattn.key1_linear.weight"][0],
        rnn=read_rnn(within(s, "audio_extract.")).text.partition(",")[0],
    )
    o = options
    text = f"audio {o.audio_size}, video {o.video_size}, {o.num_seq} layers, N = {o.num_segments}, "
    text += f"{o.num_classes} classes, {o.rnn}"
    return Sized(text, released.DCNWithRCNN, lambda cls: cls(options))


def _emotion_sizes(s: Shapes) -> tuple[dict[str, int], int, str]:
    """The arguments of the sizes, the hidden width, and a text of the sizes."""
    (visual, audio), n = _dense_sizes(within(s, "coattn.dcn_layers.0.dense_coattn."))
    layers = _count(s, "coattn.dcn_layers.{}.dense_coattn.key1_linear.weight")
    text = f"audio {audio}, visual {visual}, {layers} layers, N = {n}"
    sizes = {
        "num_segments": n,
        "audio_dim": audio,
        "visual_dim": visual,
        "num_layers": layers,
    }
    return sizes, s["vregressor.0.weight"][0], text


def read_orig_cam(s: Shapes) -> Sized:
    sizes, hidden, text = _emotion_sizes(s)
    rnn = "audio_extract.init_hidden" in s
    text += f", {'with' if rnn else 'without'} LSTM blocks"
    more = {"unimodal_rnn": rnn, "hidden_dim": hidden}
    return Sized(text, orig_cam.CAM, lambda cls: cls(**sizes, **more))


def read_gated_emotion(s: Shapes) -> Sized:
    sizes, hidden, text = _emotion_sizes(s)
    return Sized(text, dynamic_crossattention.CAM, lambda cls: cls(**sizes, hidden_dim=hidden))


def read_one_head(s: Shapes) -> Sized:
    sizes, hidden, text = _emotion_sizes(s)
    return Sized(text, pkdot.CAM, lambda cls: cls(**sizes, hidden_dim=hidden))


def read_gated(model: type[abaw8.GRJCA_cam]) -> Callable[[Shapes], Sized]:
    def read(s: Shapes) -> Sized:
        (video, audio), n = _dense_sizes(within(s, "coattn.dcn_layers.0.dense_coattn."))
        layers = _count(s, "coattn.dcn_layers.{}.dense_coattn.key1_linear.weight")
        text = f"video {video}, audio {audio}, {layers} layers, N = {n}"
        return Sized(text, model, lambda cls: cls(n, video, audio, layers))

    return read


def read_speaker(s: Shapes) -> Sized:
    (visual, audio), n = _dense_sizes(within(s, "coattn.dcn_layers.0.dense_coattn."))
    layers = _count(s, "coattn.dcn_layers.{}.dense_coattn.key1_linear.weight")
    speakers, unused = s["predict.predict.3.weight"][0], s["video_attn.attn.affine_audio.weight"]
    text = f"voice {audio}, face {visual}, {layers} layers, N = {n}"
    dims = unused[1], unused[0]
    more = {"num_speakers": speakers, "unused_dims": dims}
    return Sized(text, speaker.CAM, lambda cls: cls(n, audio, visual, layers, **more))


def read_fusion(s: Shapes) -> Sized:
    inner = read_speaker(within(s, "JCA_model."))
    embedding, hidden = s["linear.weight"][0], s["asp.attention.0.weight"][0]
    return Sized(
        f"{inner.text}, embedding {embedding}",
        speaker.FusionModel,
        lambda cls: cls(inner.make(speaker.CAM), embedding, hidden_dim=hidden),
    )


def read_cam(s: Shapes) -> Sized:
    refuse_other_formulas(s)
    n, (k, d) = s["affine_a.weight"][0], s["W_ca.weight"]
    heads = [name for name in ("regressor", "vregressor", "aregressor") if f"{name}.0.weight" in s]
    hidden, width = s[f"{heads[0]}.0.weight"] if heads else (1, d)
    if "encoder1.weight" in s:
        (a, in_a), (v, in_v) = s["encoder1.weight"], s["encoder2.weight"]
        dims, in_dims = (a, v), (in_a, in_v)
        visual = width == in_v + v and (width != d or len(heads) == 2)
    else:  # published only as Jcam_512, whose head reads [visual; attended visual]
        dims = None
        in_dims = (d - width // 2, width // 2)
        visual = True
    head_input = "visual" if visual else "attended"
    # The shapes of the bare attention do not determine the two widths.
    taken = "" if heads or dims else " (taken as halves of d)"
    text = f"inputs {in_dims[0]}/{in_dims[1]}{taken}, d = {d}, N = {n}, k = {k}"
    text += f", heads {', '.join(heads) or 'none'}"

    def make(cls: Any) -> nn.Module:
        return cls(
            num_segments=n,
            in_dim=in_dims,
            dim=dims,
            attention_dim=k,
            heads=heads,
            head_input=head_input,
            hidden_dim=hidden,
        )

    text += f" on the {head_input} features"
    if len(heads) == 2 and not visual:
        return Sized(text, cam.CAM, make, question=AVER_HEADS)
    return Sized(text, cam.CAM, make, caution="" if heads else AVER_ATTENTION)
