"""The settings of an extraction, its networks, and their record."""

from __future__ import annotations

import argparse
import platform
from dataclasses import asdict, dataclass
from typing import Any

from jca_fast._version import __version__
from jca_fast.data.record import Record

from . import extractors


@dataclass(frozen=True)
class Settings:
    """The settings of an extraction. Raises ValueError for a value out of its range.

    `visual` and `audio` are "embedded", a file of weights, or "module:function". A `hop` of None
    is `num_segments`, so that windows do not overlap.
    """

    visual: str = extractors.EMBEDDED
    audio: str = extractors.EMBEDDED
    segment_seconds: float = 1.0
    frames_per_segment: int = 16
    num_segments: int = 10
    hop: int | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("segment-seconds", self.segment_seconds, 0.1, 60),
            ("frames-per-segment", self.frames_per_segment, 1, 256),
            ("num-segments", self.num_segments, 1, 10000),
            ("hop", self.step, 1, self.num_segments),
        ):
            if not low <= value <= high:
                raise ValueError(f"--{name} is {value}; needed: {low} to {high}")
        if self.dtype not in ("float32", "float16"):
            raise ValueError(f"--dtype is {self.dtype!r}; needed: 'float32' or 'float16'")

    @property
    def step(self) -> int:
        """The hop in segments."""
        return self.num_segments if self.hop is None else self.hop


@dataclass(frozen=True)
class Extractor:
    """The settings of an extraction and its two networks."""

    settings: Settings
    visual: extractors.Network
    audio: extractors.Network

    def record(self) -> Record:
        """The record that is stored with the features (`jca_fast.data.record`)."""
        import av
        import numpy as np
        import torch

        versions = {"jca_fast": __version__, "torch": str(torch.__version__)}
        versions |= {"numpy": np.__version__, "av": av.__version__}
        settings = asdict(self.settings) | {"hop": self.settings.step}
        return settings | {
            "visual": self.visual.record(),
            "audio": self.audio.record(),
            "picture_size": self.visual.size,
            "versions": versions | {"python": platform.python_version()},
        }


def load_extractor(settings: Settings) -> Extractor:
    """The networks that the settings name."""
    return Extractor(
        settings,
        extractors.visual_network(settings.visual),
        extractors.audio_network(settings.audio),
    )


def add_flags(parser: argparse.ArgumentParser, hop: int | None = None) -> None:
    """Add the flags of the networks and windows; a None default leaves the choice to a record."""
    parser.add_argument(
        "--visual",
        metavar="NETWORK",
        help="network of the picture: a file of VGG19's weights (torchvision .pth or Keras .h5), "
        "module:function, or embedded, which needs no weights (default)",
    )
    parser.add_argument(
        "--audio",
        metavar="NETWORK",
        help="network of the sound: a file of VGGish's weights (torch .pth or TensorFlow .ckpt), "
        "module:function, or embedded (default)",
    )
    parser.add_argument(
        "--download",
        action="store_true",
        help="download the weights of VGG19 and VGGish by torch.hub, checked by their hash, "
        "if --visual or --audio is not given",
    )
    parser.add_argument("--segment-seconds", type=float, help="length of a segment (1)")
    parser.add_argument("--frames-per-segment", type=int, help="pictures of a segment (16)")
    parser.add_argument("--num-segments", type=int, help="segments of a window (10)")
    shown = "no overlap" if hop is None else "half a window"
    parser.add_argument("--hop", type=int, help=f"segments from window to window ({shown})")


def from_flags(args: argparse.Namespace, **defaults: Any) -> Settings:
    """Settings of the given flags, with the defaults for the others."""
    names = ("visual", "audio", "segment_seconds", "frames_per_segment", "num_segments", "hop")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.download:
        given.setdefault("visual", extractors.DOWNLOAD)
        given.setdefault("audio", extractors.DOWNLOAD)
    values = defaults | given
    for name, kind in (("visual", "vgg19"), ("audio", "vggish")):
        if values.get(name) == extractors.DOWNLOAD:
            values[name] = extractors.download(kind)
    return Settings(**values)
