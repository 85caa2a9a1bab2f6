"""The published modules: the keys that identify each, and the reader of its sizes from shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

from torch import nn

from . import abaw8, cam, dynamic_crossattention, orig_cam, pkdot, released, rjcma, speaker, spiro

SPIRO_SEGMENTS = spiro.DenseCoAttn.default_segments
Shapes = dict[str, tuple[int, ...]]
Sized = tuple[str, Callable[..., nn.Module]]  # the sizes as text, and their module


@dataclass(frozen=True)
class Known:
    """A published module: its name, the keys that identify it, and the reader of its sizes.

    ``part`` is True if it is also searched inside larger models. ``bare`` is True if it consists of
    co-attention layers only, which some published code computes without their query Linear.
    """

    name: str
    identifying: tuple[str, ...]
    read: Callable[[Shapes], Sized]
    part: bool = False
    bare: bool = False

    def takes_query(self, s: Shapes) -> bool:
        """Whether ``s`` are layers that may or may not use their query Linear."""
        return self.bare and not any(key.endswith("value3_linear.weight") for key in s)

    def asks_query(self, s: Shapes) -> bool:
        """Whether both forms are published for ``s``: with N = 300 by ABAW8 and SPIRo."""
        keys = (size for key, size in s.items() if key.endswith("key1_linear.weight"))
        return self.takes_query(s) and next(keys, (0,))[0] == SPIRO_SEGMENTS


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


def _layers(s: Shapes, class_name: str, prefix: str, num_seq: tuple[int, ...] = ()) -> Sized:
    """``class_name`` of the two- or three-modality code, sized by the layer under ``prefix``."""
    dims, n = _dense_sizes(within(s, prefix))
    counts = "".join(f", {count} layers" for count in num_seq)
    text = f"widths {'/'.join(map(str, dims))}, N = {n}{counts}"
    if len(dims) > 2:
        three = getattr(rjcma, class_name)
        return text, lambda: three(*dims, *num_seq, 0.6, num_segments=n)

    def build(use_query: bool = True) -> nn.Module:
        two = getattr(released, class_name)
        return two(*dims, *num_seq, 0.3, num_segments=n, use_query=use_query)

    return text, build


def _stack(s: Shapes) -> Sized:
    count = _count(s, "dcn_layers.{}.dense_coattn.key1_linear.weight")
    return _layers(s, "DCNLayer", "dcn_layers.0.dense_coattn.", (count,))


def _rnn(s: Shapes) -> Sized:
    gates, embed = s["rnn.weight_ih_l0"]
    dim, width = s["linear.weight"]
    layers = _count(s, "rnn.weight_ih_l{}")
    block = {4: released.LSTM, 3: released.GRU}[gates // s["rnn.weight_hh_l0"][1]]
    text = f"{block.__name__}, {embed} -> {dim}, {layers} layers"
    return text, lambda: block(embed, dim, layers, 0.1, width != dim)


def _position(
    prefix: str, block: Callable[..., nn.Module], one_region: Callable[..., nn.Module]
) -> Callable[[Shapes], Sized]:
    def read(s: Shapes) -> Sized:
        dim, embed = s[prefix + "affine_audio.weight"]
        make = one_region if s[prefix + "affine_h.weight"][1] == 1 else block
        return f"audio {embed}, width {dim}", lambda: make(embed, dim)

    return read


def _predict(s: Shapes) -> Sized:
    dim1, width = s["Joint.linear.weight"]
    dim2, classes = width - 2 * dim1, s["predict.3.weight"][0]
    return f"widths {dim1}/{dim2}, {classes} classes", lambda: released.PredictLayer(
        dim1, dim2, classes, 0.3
    )


def _released(s: Shapes) -> Sized:
    options = SimpleNamespace(
        audio_size=s["audio_extract.linear.weight"][0],
        video_size=s["video_extract.linear.weight"][0],
        num_seq=_count(s, "coattn.dcn_layers.{}.dense_coattn.key1_linear.weight"),
        num_layers=_count(s, "audio_extract.rnn.weight_ih_l{}"),
        num_classes=s["predict.predict.3.weight"][0],
        num_segments=s["coattn.dcn_layers.0.dense_coattn.key1_linear.weight"][0],
        rnn=_rnn(within(s, "audio_extract."))[0].partition(",")[0],
    )
    o = options
    text = f"audio {o.audio_size}, video {o.video_size}, {o.num_seq} layers, N = {o.num_segments}, "
    return text + f"{o.num_classes} classes, {o.rnn}", lambda: released.DCNWithRCNN(options)


def _emotion_sizes(s: Shapes) -> tuple[tuple[int, int, int, int], int, str]:
    """(N, audio width, visual width, layers), the hidden width, and a text of the sizes."""
    (visual, audio), n = _dense_sizes(within(s, "coattn.dcn_layers.0.dense_coattn."))
    layers = _count(s, "coattn.dcn_layers.{}.dense_coattn.key1_linear.weight")
    text = f"audio {audio}, visual {visual}, {layers} layers, N = {n}"
    return (n, audio, visual, layers), s["vregressor.0.weight"][0], text


def _orig_cam(s: Shapes) -> Sized:
    sizes, hidden, text = _emotion_sizes(s)
    rnn = "audio_extract.init_hidden" in s
    text += f", {'with' if rnn else 'without'} LSTM blocks"
    return text, lambda: orig_cam.CAM(*sizes, unimodal_rnn=rnn, hidden_dim=hidden)


def _gated_emotion(s: Shapes) -> Sized:
    sizes, hidden, text = _emotion_sizes(s)
    return text, lambda: dynamic_crossattention.CAM(*sizes, hidden_dim=hidden)


def _one_head(s: Shapes) -> Sized:
    sizes, hidden, text = _emotion_sizes(s)
    return text, lambda: pkdot.CAM(*sizes, hidden_dim=hidden)


def _gated(model: type[abaw8.GRJCA_cam]) -> Callable[[Shapes], Sized]:
    def read(s: Shapes) -> Sized:
        (video, audio), n = _dense_sizes(within(s, "coattn.dcn_layers.0.dense_coattn."))
        layers = _count(s, "coattn.dcn_layers.{}.dense_coattn.key1_linear.weight")
        text = f"video {video}, audio {audio}, {layers} layers, N = {n}"
        return text, lambda: model(n, video, audio, layers)

    return read


def _speaker(s: Shapes) -> tuple[str, Callable[[], speaker.CAM]]:
    (visual, audio), n = _dense_sizes(within(s, "coattn.dcn_layers.0.dense_coattn."))
    layers = _count(s, "coattn.dcn_layers.{}.dense_coattn.key1_linear.weight")
    speakers, unused = s["predict.predict.3.weight"][0], s["video_attn.attn.affine_audio.weight"]
    text = f"voice {audio}, face {visual}, {layers} layers, N = {n}"
    dims = unused[1], unused[0]
    return text, lambda: speaker.CAM(
        n, audio, visual, layers, num_speakers=speakers, unused_dims=dims
    )


def _fusion(s: Shapes) -> Sized:
    text, model = _speaker(within(s, "JCA_model."))
    embedding, hidden = s["linear.weight"][0], s["asp.attention.0.weight"][0]
    return f"{text}, embedding {embedding}", lambda: speaker.FusionModel(
        model(), embedding, hidden_dim=hidden
    )


def _cam(s: Shapes) -> Sized:
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

    def build() -> nn.Module:
        return cam.CAM(n, in_dims, dims, k, heads=heads, head_input=head_input, hidden_dim=hidden)

    return f"{text} on the {head_input} features", build


_RELEASED = "of tuffr5/Recursive-joint-co-attention"
_EMOTION = "of the emotion-recognition repositories"
_ABAW8 = "of ABAW8"
KNOWN = (
    Known(
        "FusionModel of RJCAforSpeakerVerification",
        ("JCA_model.Joint.init_hidden", "asp.attention.0.weight", "linear.weight"),
        _fusion,
        part=True,
    ),
    Known(
        "CAM of RJCAforSpeakerVerification",
        ("Joint.init_hidden", "predict.Joint.init_hidden"),
        _speaker,
        part=True,
    ),
    Known(
        f"DCNWithRCNN {_RELEASED}",
        ("audio_extract.init_hidden", "predict.predict.3.weight"),
        _released,
        part=True,
    ),
    Known(
        f"HGRJCA_cam {_ABAW8}",
        ("video_gating_fc_layer_stage1.weight", "coattn.dcn_layers.0.linears.0.0.weight"),
        _gated(abaw8.HGRJCA_cam),
        part=True,
    ),
    Known(
        f"GRJCA_cam {_ABAW8}",
        ("text_gating_fc_layer.weight", "coattn.dcn_layers.0.linears.0.0.weight"),
        _gated(abaw8.GRJCA_cam),
        part=True,
    ),
    Known(
        "CAM of Dynamic-CrossAttention",
        ("audio_gating_fc_layer.weight", "audio_extract.init_hidden"),
        _gated_emotion,
        part=True,
    ),
    Known(
        f"orig_cam.CAM {_EMOTION}",
        ("vregressor.0.weight", "aregressor.0.weight", "Joint.init_hidden"),
        _orig_cam,
        part=True,
    ),
    Known("CAM of PKDOT", ("vregressor.0.weight", "Joint.init_hidden"), _one_head, part=True),
    Known(f"CAM {_EMOTION}", ("affine_a.weight", "W_ca.weight"), _cam, part=True),
    Known(f"PredictLayer {_RELEASED}", ("Joint.init_hidden", "predict.3.weight"), _predict),
    Known(
        f"BottomUpExtract {_RELEASED}",
        ("attn.affine_h.weight",),
        _position("attn.", released.BottomUpExtract, pkdot.BottomUpExtract),
    ),
    Known(
        f"PositionAttn {_RELEASED}",
        ("affine_h.weight",),
        _position("", released.PositionAttn, pkdot.PositionAttn),
    ),
    Known(
        "DCNLayer",
        ("dcn_layers.0.dense_coattn.key1_linear.weight",),
        _stack,
        part=True,
        bare=True,
    ),
    Known(
        "NormalSubLayer",
        ("dense_coattn.key1_linear.weight",),
        lambda s: _layers(s, "NormalSubLayer", "dense_coattn."),
        bare=True,
    ),
    Known(
        "DenseCoAttn",
        ("key1_linear.weight",),
        lambda s: _layers(s, "DenseCoAttn", ""),
        bare=True,
    ),
    Known("residual recurrent block", ("init_hidden", "rnn.weight_ih_l0"), _rnn),
)
"""The modules in the order in which they are tried: the most specific first."""
