"""The published modules: the keys that identify each, and the reader of its sizes from shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import abaw8, pkdot, released
from . import published_sizes as sizes
from .published_sizes import Shapes, Sized


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


_RELEASED = "of tuffr5/Recursive-joint-co-attention"
_EMOTION = "of the emotion-recognition repositories"
_ABAW8 = "of ABAW8"
KNOWN = (
    Known(
        "FusionModel of RJCAforSpeakerVerification",
        ("JCA_model.Joint.init_hidden", "asp.attention.0.weight", "linear.weight"),
        sizes.read_fusion,
        part=True,
    ),
    Known(
        "CAM of RJCAforSpeakerVerification",
        ("Joint.init_hidden", "predict.Joint.init_hidden"),
        sizes.read_speaker,
        part=True,
    ),
    Known(
        f"DCNWithRCNN {_RELEASED}",
        ("audio_extract.init_hidden", "predict.predict.3.weight"),
        sizes.read_released,
        part=True,
    ),
    Known(
        f"HGRJCA_cam {_ABAW8}",
        ("video_gating_fc_layer_stage1.weight", "coattn.dcn_layers.0.linears.0.0.weight"),
        sizes.read_gated(abaw8.HGRJCA_cam),
        part=True,
    ),
    Known(
        f"GRJCA_cam {_ABAW8}",
        ("text_gating_fc_layer.weight", "coattn.dcn_layers.0.linears.0.0.weight"),
        sizes.read_gated(abaw8.GRJCA_cam),
        part=True,
    ),
    Known(
        "CAM of Dynamic-CrossAttention",
        ("audio_gating_fc_layer.weight", "audio_extract.init_hidden"),
        sizes.read_gated_emotion,
        part=True,
    ),
    Known(
        f"orig_cam.CAM {_EMOTION}",
        ("vregressor.0.weight", "aregressor.0.weight", "Joint.init_hidden"),
        sizes.read_orig_cam,
        part=True,
    ),
    Known(
        "CAM of PKDOT", ("vregressor.0.weight", "Joint.init_hidden"), sizes.read_one_head, part=True
    ),
    Known(f"CAM {_EMOTION}", ("affine_a.weight", "W_ca.weight"), sizes.read_cam, part=True),
    Known(
        f"PredictLayer {_RELEASED}", ("Joint.init_hidden", "predict.3.weight"), sizes.read_predict
    ),
    Known(
        f"BottomUpExtract {_RELEASED}",
        ("attn.affine_h.weight",),
        sizes.read_position("attn.", released.BottomUpExtract, pkdot.BottomUpExtract),
    ),
    Known(
        f"PositionAttn {_RELEASED}",
        ("affine_h.weight",),
        sizes.read_position("", released.PositionAttn, pkdot.PositionAttn),
    ),
    Known(
        "DCNLayer",
        ("dcn_layers.0.dense_coattn.key1_linear.weight",),
        sizes.read_stack,
        part=True,
        bare=True,
    ),
    Known(
        "NormalSubLayer",
        ("dense_coattn.key1_linear.weight",),
        lambda s: sizes.read_layers(s, "NormalSubLayer", "dense_coattn."),
        bare=True,
    ),
    Known(
        "DenseCoAttn",
        ("key1_linear.weight",),
        lambda s: sizes.read_layers(s, "DenseCoAttn", ""),
        bare=True,
    ),
    Known("residual recurrent block", ("init_hidden", "rnn.weight_ih_l0"), sizes.read_rnn),
)
"""The modules in the order in which they are tried: the most specific first."""
