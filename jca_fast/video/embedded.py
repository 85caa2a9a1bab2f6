"""The embedded extractor: features without a file of weights, in the shapes of VGG19 and VGGish.

It applies convolutions with random weights, fixed by a seed, to colours and edges of the picture
and to the log-mel of the sound. The features distinguish colours, shapes and pitches, but they are
not trained: they suit first trials, and material as simple as the planted videos.

Each channel is shifted and scaled so that over a fixed set of random pictures (sounds) it has
mean -0.6 and standard deviation 1 before its ReLU. Then about 70 % are zeros, as in VGG features.
"""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from . import logmel

NAME = "embedded 1"
"""The name in the record of the features; the number changes whenever the features do."""

SEED = 20211
SIZE = 112
THRESHOLD = 0.6
VISUAL_SCALE, AUDIO_SCALE = 4.0, 0.35


class Visual:
    """`(frames (T, 112, 112, 3) uint8 RGB) -> (7, 7, 512)`, the mean over the frames."""

    size = SIZE

    @torch.no_grad()
    def __call__(self, frames: np.ndarray) -> np.ndarray:
        kept = [i for i in range(len(frames)) if not i or (frames[i] != frames[i - 1]).any()]
        counts = torch.tensor(np.diff([*kept, len(frames)]), dtype=torch.float32)
        codes = _visual_codes(torch.from_numpy(frames[kept]))  # (kept, 512, 7, 7)
        shift, scale = _visual_calibration()
        features = F.relu(codes * scale + shift)
        mean = torch.einsum("t,tcyx->yxc", counts, features) / len(frames)
        return (VISUAL_SCALE * mean).numpy()


class Audio:
    """`(samples (n,), rate 16,000) -> (128,)`; padding and averaging as in `vggish.Embed`."""

    @torch.no_grad()
    def __call__(self, samples: np.ndarray, rate: int) -> np.ndarray:
        if rate != logmel.RATE:
            raise ValueError(f"rate is {rate}; needed: {logmel.RATE}")
        codes = _audio_codes(logmel.log_mel(logmel.padded(samples)))  # (patches, 128)
        shift, scale = _audio_calibration()
        return (AUDIO_SCALE * F.relu(codes * scale + shift).mean(dim=0)).numpy()


def _draw(stream: int, *shape: int) -> Tensor:
    """Random weights of a layer, scaled by its number of inputs; the same on every machine."""
    values = np.random.RandomState(SEED + stream).standard_normal(shape)
    return torch.from_numpy(values / np.sqrt(np.prod(shape[1:]))).float()


def weights_hash() -> str:
    """SHA-256 of all random weights."""
    digest = hashlib.sha256()
    for values in (*_visual_weights(), *_audio_weights()):
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()


@cache
def _visual_weights() -> tuple[Tensor, Tensor, Tensor]:
    """Filters over opponent colours, over edges, and the mixing 1 x 1 convolution."""
    colours = _draw(1, 96, 6, 1, 1)
    edges = _draw(2, 96, 8, 5, 5)
    return colours, edges, _draw(3, 512, 192, 1, 1)


def _visual_codes(pictures: Tensor) -> Tensor:
    """(B, 112, 112, 3) uint8 -> (B, 512, 7, 7) before shift, scale and ReLU."""
    x = pictures.permute(0, 3, 1, 2).float() / 255  # (B, 3, 112, 112)
    x = F.avg_pool2d(x, 2)  # (B, 3, 56, 56)
    grey = x.mean(dim=1, keepdim=True)
    colour = torch.cat((x, x - grey), dim=1)  # (B, 6, 56, 56)
    right, down = grey.diff(dim=3, append=grey[..., -1:]), grey.diff(dim=2, append=grey[:, :, -1:])
    diagonals = (right + down, right - down)
    slopes = torch.cat((right, down, *diagonals), dim=1)
    edges = 4 * torch.cat((F.relu(slopes), F.relu(-slopes)), dim=1)  # (B, 8, 56, 56)
    by_colour, by_edge, mix = _visual_weights()
    small = F.avg_pool2d(colour, 2)  # (B, 6, 28, 28)
    first = F.relu(F.conv2d(small - 0.3, by_colour))
    second = F.relu(F.conv2d(edges, by_edge, padding=2, stride=2))
    layers = torch.cat((first, second), dim=1)  # (B, 192, 28, 28)
    return F.conv2d(F.avg_pool2d(layers, 4), mix)


@cache
def _audio_weights() -> tuple[Tensor, Tensor]:
    return _draw(4, 64, 1, 5, 5), _draw(5, 128, 64 * 16 + 64)


def _audio_codes(patches: np.ndarray) -> Tensor:
    """Log-mel patches (P, 96, 64) -> (P, 128) before shift, scale and ReLU."""
    x = torch.from_numpy(patches).float()[:, None] / 2  # (P, 1, 96, 64)
    filters, dense = _audio_weights()
    responses = F.relu(F.conv2d(x - x.mean(dim=(2, 3), keepdim=True), filters, padding=2, stride=2))
    by_filter = F.adaptive_avg_pool2d(responses, (1, 16)).flatten(1)  # (P, 64 * 16)
    spectrum = x.mean(dim=2).flatten(1)  # (P, 64)
    spectrum = 3 * (spectrum - spectrum.mean(dim=1, keepdim=True))
    return torch.cat((by_filter, spectrum), dim=1) @ dense.T


@cache
def _visual_calibration() -> tuple[Tensor, Tensor]:
    """Shift and scale (512, 1, 1) from random pictures of coloured noise at several scales."""
    random = np.random.RandomState(SEED)
    pictures = []
    for side in (4, 7, 14, 28, 56, 112) * 4:
        noise = random.randint(0, 256, (side, side, 3), dtype=np.uint8)
        pictures.append(noise.repeat(SIZE // side, axis=0).repeat(SIZE // side, axis=1))
    codes = _visual_codes(torch.from_numpy(np.stack(pictures)))
    return _standardize(codes.transpose(0, 1).flatten(1), (-1, 1, 1))


@cache
def _audio_calibration() -> tuple[Tensor, Tensor]:
    """Shift and scale (128,) from tones and noises over the whole range, loud and soft."""
    random = np.random.RandomState(SEED)
    time = np.arange(logmel.PATCH_SAMPLES) / logmel.RATE
    codes = []
    for hertz in np.geomspace(100, 7000, 48):
        tone = np.sin(2 * np.pi * hertz * time) + np.sin(4 * np.pi * hertz * time) / 2
        noise = random.standard_normal(len(time)) * random.uniform(0.01, 0.3)
        codes.append(_audio_codes(logmel.log_mel(random.uniform(0.02, 0.4) * tone + noise)))
    return _standardize(torch.cat(codes).T, (-1,))


def _standardize(values: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Shift and scale of each channel of values (channels, n); see the text of the module."""
    scale = 1 / values.std(dim=1)
    return (-values.mean(dim=1) * scale - THRESHOLD).view(shape), scale.view(shape)
