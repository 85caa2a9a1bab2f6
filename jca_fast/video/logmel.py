"""The sound front end of VGGish: log-mel patches of 96 frames of 10 ms.

    logmel = log(|FFT_512(hann_400 * frame)| M + 0.01)

Frames of 25 ms start every 10 ms; the Hann window is periodic, the spectrum is the magnitude (not
the power). M holds 64 triangles, linear on the HTK mel scale, between 125 and 7,500 Hz; its row
for frequency 0 is zero. Source: the front end published with VGGish (Hershey et al., 2017).
"""

from __future__ import annotations

from functools import cache

import numpy as np

RATE = 16000
"""Samples per second that the front end needs."""

FRAMES, BANDS = 96, 64
WINDOW = 400
STEP = 160
FFT = 512
PATCH_SAMPLES = WINDOW + STEP * (FRAMES - 1)
"""Samples of the shortest sound with a whole patch: 15,600, that is 0.975 s."""


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Log-mel patches (patches, 96, 64) float64 of mono samples (n,) at 16 kHz, in -1 to 1.

    Patches follow each other without overlap from the first sample; frames that do not fill a
    patch are dropped. Raises ValueError if the samples are not one-dimensional or too short for
    one patch (15,600 samples).
    """
    samples = np.asarray(samples, np.float64)
    if samples.ndim != 1 or len(samples) < PATCH_SAMPLES:
        raise ValueError(
            f"samples have shape {samples.shape}; needed: (n,) with n of {PATCH_SAMPLES} or more"
        )
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::STEP]  # (frames, 400)
    count = len(frames) // FRAMES
    spectrum = np.abs(np.fft.rfft(frames[: count * FRAMES] * _hann(), FFT))  # (frames, 257)
    return np.log(spectrum @ _mel_matrix() + 0.01).reshape(count, FRAMES, BANDS)


def padded(samples: np.ndarray) -> np.ndarray:
    """The samples, with zeros at their end if they are too short for one patch."""
    return np.pad(samples, (0, max(0, PATCH_SAMPLES - len(samples))))


@cache
def _hann() -> np.ndarray:
    return 0.5 - 0.5 * np.cos(2 * np.pi / WINDOW * np.arange(WINDOW))


@cache
def _mel_matrix() -> np.ndarray:
    """M of the module's formula, (257, 64)."""
    mel = _mel(np.arange(FFT // 2 + 1) * RATE / FFT)[:, None]  # (257, 1)
    edges = np.linspace(_mel(125.0), _mel(7500.0), BANDS + 2)
    low = edges[:-2]
    centre = edges[1:-1]
    high = edges[2:]
    triangles = np.minimum((mel - low) / (centre - low), (high - mel) / (high - centre))
    matrix = np.maximum(triangles, 0)
    matrix[0] = 0
    return matrix


def _mel(hertz: np.ndarray | float) -> np.ndarray:
    return 1127 * np.log1p(np.asarray(hertz) / 700)
