"""Mixes decoded sound down to one channel at 16 kHz, piece by piece, in line with time stamps."""

from __future__ import annotations

from typing import Any

import numpy as np

from .logmel import RATE

TOLERANCE = 0.05
"""Seconds by which time stamps may differ from the count of samples without a correction."""


class Mixer:
    """Turns frames of any format, rate and number of channels into mono float32 at 16 kHz.

    The channels are averaged. `seconds` is the time of the end of the sound so far. If the time
    stamp of a frame is later, silence fills the gap; if it is earlier, the overlap is dropped.
    """

    def __init__(self) -> None:
        self._packers: dict[Any, Any] = {}
        self._resampler: Any = None
        self._rate = 0
        self._start = self._fed = 0.0  # time of the resampler's first sample; samples since then

    @property
    def seconds(self) -> float:
        return self._start + (self._fed / self._rate if self._rate else 0.0)

    def feed(self, frame: Any, time: float) -> np.ndarray:
        """The next piece of the result, for a frame whose first sample is due at `time`."""
        mono, rate = self._mono(frame), frame.sample_rate
        head = self.finish() if rate != self._rate else np.empty(0, np.float32)
        if rate != self._rate:
            self._begin(rate)
        missing = round((time - self.seconds) * rate)
        if missing > TOLERANCE * rate:
            mono = np.concatenate([np.zeros(missing, np.float32), mono])
        elif missing < -TOLERANCE * rate:
            mono = mono[-missing:]
        self._fed += len(mono)
        return np.concatenate([head, self._resample(mono)])

    def finish(self) -> np.ndarray:
        """The samples that remain in the resampler."""
        if self._resampler is None:
            return np.empty(0, np.float32)
        return self._resampler.resample_chunk(np.empty(0, np.float32), last=True)

    def _mono(self, frame: Any) -> np.ndarray:
        """The mean over the channels of a frame, (n,) float32 in about -1 to 1.

        libswresample first makes the samples float and interleaved, because PyAV 18 reads beyond
        the end of frames with eight planes.
        """
        import av

        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        packer = self._packers.setdefault(kind, av.AudioResampler("flt", *kind[1:]))
        parts = [
            part.to_ndarray().reshape(-1, frame.layout.nb_channels)
            for part in packer.resample(frame)
        ]
        mono = np.concatenate(parts).mean(axis=1)  # (n, channels) -> (n,)
        return np.nan_to_num(mono, nan=0.0, posinf=1.0, neginf=-1.0).clip(-4, 4)

    def _begin(self, rate: int) -> None:
        import soxr

        self._start = self.seconds
        self._fed = 0.0
        self._rate = rate
        same = rate == RATE
        self._resampler = None if same else soxr.ResampleStream(rate, RATE, 1, dtype="float32")

    def _resample(self, mono: np.ndarray) -> np.ndarray:
        return mono if self._resampler is None else self._resampler.resample_chunk(mono)
