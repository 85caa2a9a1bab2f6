"""The valence and arousal model of the emotion-recognition repositories in the released form.

In place of ``from models.orig_cam import CAM``::

    from jca_fast.compat.orig_cam import CAM
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..modules.lengths import Lengths, padding_mask, without_padding, zero_padding
from ..modules.linear import Sequential
from ..modules.recurrent import call_recurrent
from .layers import PublishedModel
from .released import LSTM, BottomUpExtract, DCNLayer


class CAM(PublishedModel):
    """Valence and arousal of every segment from audio and visual features after co-attention.

    Args:
        num_segments: N.
        audio_dim: width of the audio features.
        visual_dim: width to which the visual features are reduced.
        num_layers: co-attention layers.
        unimodal_rnn: False omits the LSTM blocks of audio and video, as one published version
            does.
        hidden_dim: hidden width of the two regressors.
        dropout: in the co-attention and the regressors; the LSTM blocks keep the published 0.1.

    Shapes:
        audio (B, N, audio_dim), visual (B, N, ...) with 49 x 512 numbers in each segment
        -> valence (B, N), arousal (B, N).
        New: ``lengths`` (B,) or ``key_padding_mask`` (B, N), as in
        :class:`jca_fast.modules.JointCoAttention`, for clips that end before N.

    Both inputs are L2-normalised over their last axis, as published. The published scripts pass
    (B, N, 25088), which is normalised over all numbers of a segment; (B, N, 49, 512) and
    (B, N, 7, 7, 512) are normalised region by region.

    Raises:
        ValueError: an argument is out of its range, or an input has the wrong shape.
    """

    vregressor: nn.Module
    aregressor: nn.Module

    def __init__(
        self,
        num_segments: int = 16,
        audio_dim: int = 512,
        visual_dim: int = 512,
        num_layers: int = 1,
        *,
        unimodal_rnn: bool = True,
        hidden_dim: int = 128,
        dropout: float = 0.6,
    ) -> None:
        super().__init__()
        self.coattn = DCNLayer(visual_dim, audio_dim, num_layers, dropout, num_segments)
        self.audio_extract = _block(audio_dim, unimodal_rnn)
        self.video_extract = _block(visual_dim, unimodal_rnn)
        self.video_attn = self._reduction(audio_dim, visual_dim)
        head = (visual_dim, hidden_dim, dropout)
        if unimodal_rnn:  # the published order, because seeds and optimizer states depend on it
            self.vregressor = self._head(head)
        self.Joint = LSTM(visual_dim + audio_dim, visual_dim, 2, dropout=0.0)
        if not unimodal_rnn:
            self.vregressor = self._head(head)
        self._add_parts(audio_dim, visual_dim, head)
        self.init_weights()

    def _reduction(self, audio_dim: int, visual_dim: int) -> nn.Module:
        return BottomUpExtract(audio_dim, visual_dim)

    def _head(self, head: tuple[int, int, float]) -> nn.Module:
        return regressor(*head)

    def _add_parts(self, audio_dim: int, visual_dim: int, head: tuple[int, int, float]) -> None:
        """Add the parts that published versions of this model have after ``Joint``."""
        self.aregressor = self._head(head)

    def forward(
        self,
        f1_norm: Tensor,
        f2_norm: Tensor,
        lengths: Lengths | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        used, (audio, video) = without_padding(
            lengths, key_padding_mask, f1_norm=f1_norm, f2_norm=f2_norm
        )
        joint = self._joint(audio, video, used)
        v, a = (head(joint).squeeze(2) for head in (self.vregressor, self.aregressor))
        return zero_padding(v, used), zero_padding(a, used)

    def _joint(self, audio: Tensor, video: Tensor, used: Tensor | None) -> Tensor:
        """The fused feature (B, N, visual_dim) that the regressors read."""
        audio = call_recurrent(self.audio_extract, F.normalize(audio, dim=-1), used)  # (B, N, d_a)
        video = self.video_attn(F.normalize(video, dim=-1), audio)
        video = call_recurrent(self.video_extract, video, used)  # (B, N, d_v)
        video, audio = self._fuse(video, audio, used)
        return call_recurrent(self.Joint, torch.cat((video, audio), dim=-1), used)

    def _fuse(self, video: Tensor, audio: Tensor, used: Tensor | None) -> tuple[Tensor, Tensor]:
        """Video and audio after co-attention, with the same shapes."""
        video, audio = self.coattn(video, audio, **padding_mask(used))
        return video, audio


def _block(width: int, present: bool) -> nn.Module:
    return LSTM(width, width, 2, 0.1) if present else nn.Identity()


def regressor(width: int, hidden_dim: int, dropout: float, outputs: int = 1) -> nn.Sequential:
    """The published head: Linear, ReLU, Dropout, Linear."""
    return Sequential(
        nn.Linear(width, hidden_dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden_dim, outputs)
    )
