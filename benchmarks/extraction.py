"""The speed of feature extraction from a video, beside that of its networks alone.

    python -m benchmarks.extraction VIDEO --networks vgg --threads 1

prints milliseconds for each second of the video: decoding alone, the networks alone on decoded
segments, and the extraction, which decodes while it computes. "vgg" is VGG19 and VGGish with random
weights, "embedded" the default extractor. The last number is networks / extraction.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch

from jca_fast.video import extractors, store, vgg19, vggish
from jca_fast.video.decode import VideoReader
from jca_fast.video.settings import Extractor, Settings, load_extractor


def networks(name: str) -> Extractor:
    """The extractor "embedded", or "vgg" with random weights."""
    if name == "embedded":
        return load_extractor(Settings())
    picture = vgg19.VGG19("torchvision").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Extractor(
        Settings(),
        extractors.Network("vgg19", "", vgg19.Pool5(picture.eval())),
        extractors.Network("vggish", "", vggish.Embed(vggish.VGGish().eval())),
    )


def seconds_of(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(video: Path, extractor: Extractor, length: int, threads: int) -> str:
    """One line with the three times of the first `length` segments."""

    class Beginning(VideoReader):
        def segments(self):
            return itertools.islice(super().segments(), length)

    segments = []
    reader = Beginning(video, size=extractor.visual.size, threads=threads)
    decoding = seconds_of(lambda: segments.extend(reader.segments()))

    def compute(some):
        for segment in some:
            extractors.hear(extractor.audio, segment.sound)
            extractors.see(extractor.visual, segment.pictures)

    compute(segments[:1])
    alone = seconds_of(lambda: compute(segments))
    with mock.patch.object(store, "VideoReader", Beginning), tempfile.TemporaryDirectory() as out:
        target = Path(out) / "features"
        whole = seconds_of(lambda: store.store_features(video, extractor, target, threads))
    times = (1000 * value / len(segments) for value in (decoding, alone, whole))
    text = "decoding {:.0f}, networks {:.0f}, extraction {:.0f} ms a second".format(*times)
    return f"{video.name}, {len(segments)} s: {text}; {alone / whole:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("--networks", choices=("vgg", "embedded"), default="embedded")
    parser.add_argument("--seconds", type=int, default=10, help="of the video (10)")
    parser.add_argument("--threads", type=int, default=1, help="of networks and decoder (1)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(measure(args.video, networks(args.networks), args.seconds, args.threads))


if __name__ == "__main__":
    main()
