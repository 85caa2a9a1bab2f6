"""The valence and arousal model of the emotion-recognition repositories that uses the released form (``orig_cam``).

In place of ``from models.orig_cam import CAM``::

    from jca_fast.compat.orig_cam import CAM
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..modules.linear import Linear
from .layers import init_weights
from .released import LSTM, BottomUpExtract, DCNLayer


class CAM(nn.Module):
    """Valence and arousal of every segment from audio and visual features, after joint co-attention.

    Args:
        num_segments: N.
        audio_dim: width of the audio features.
        visual_dim: width to which the visual features are reduced.
        num_layers: co-attention layers.
        unimodal_rnn: False leaves out the LSTM blocks of audio and video, as one published version does.
        hidden_dim: hidden width of the two regressors.
        dropout: in the co-attention and the regressors; the LSTM blocks keep the published 0.1.

    Shapes:
        audio (B, N, audio_dim), visual (B, N, 7, 7, 512) or (B, N, 49, 512) -> valence (B, N), arousal (B, N).

    Raises:
        ValueError: an argument is out of its range, or an input has the wrong shape.
    """

    Joint: nn.Module
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
        self.audio_extract: nn.Module = (
            LSTM(audio_dim, audio_dim, 2, 0.1) if unimodal_rnn else nn.Identity()
        )
        self.video_extract: nn.Module = (
            LSTM(visual_dim, visual_dim, 2, 0.1) if unimodal_rnn else nn.Identity()
        )
        self.video_attn = BottomUpExtract(audio_dim, visual_dim)
        heads = {
            name: _regressor(visual_dim, hidden_dim, dropout)
            for name in ("vregressor", "aregressor")
        }
        parts = {"Joint": LSTM(visual_dim + audio_dim, visual_dim, 2, dropout=0.0), **heads}
        order = (
            ("vregressor", "Joint", "aregressor")
            if unimodal_rnn
            else ("Joint", "vregressor", "aregressor")
        )
        for name in order:  # the published one, which an optimizer's state depends on
            self.add_module(name, parts[name])
        init_weights(self)

    def forward(self, f1_norm: Tensor, f2_norm: Tensor) -> tuple[Tensor, Tensor]:
        audio = self.audio_extract(F.normalize(f1_norm, dim=-1))  # (B, N, d_a)
        video = self.video_extract(
            self.video_attn(F.normalize(f2_norm, dim=-1), audio)
        )  # (B, N, d_v)
        joint = self.Joint(torch.cat(self.coattn(video, audio), dim=-1))  # (B, N, d_v)
        return self.vregressor(joint).squeeze(2), self.aregressor(joint).squeeze(2)


def _regressor(width: int, hidden_dim: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        Linear(width, hidden_dim), nn.ReLU(), nn.Dropout(dropout), Linear(hidden_dim, 1)
    )
