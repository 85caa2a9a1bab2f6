"""The speaker verification model of praveena2j/RJCAforSpeakerVerification.

In place of ``from orig_cam import CAM`` and of the ``FusionModel`` of its trainer::

    from jca_fast.compat.speaker import CAM, FusionModel
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..heads import AttentiveStatisticsPooling
from ..modules.lengths import Lengths, padding_mask, without_padding
from ..modules.linear import call_linear
from ..modules.recurrent import call_recurrent
from .layers import PublishedModel
from .released import LSTM, BottomUpExtract, DCNLayer, PredictLayer


class CAM(PublishedModel):
    """Face and voice fused by joint co-attention: a vector of their joint width for every segment.

    Args:
        num_segments: N.
        audio_dim: width of the voice features.
        visual_dim: width of the face features.
        num_layers: co-attention layers.
        num_speakers: classes of the unused ``predict``.
        unused_dims: (audio, dim) sizes of the unused ``video_attn``.
        dropout: in the co-attention; the LSTM blocks keep the published 0.1.

    ``video_attn`` and ``predict`` are in the published state_dict but are not used; they get no
    gradient.

    Shapes:
        audio (B, N, audio_dim), visual (B, N, visual_dim) -> (B, N, visual_dim + audio_dim),
        L2-normalised. New: ``lengths`` (B,) or ``key_padding_mask`` (B, N), as in
        :class:`jca_fast.modules.JointCoAttention`, for clips that end before N.

    Raises:
        ValueError: an argument is out of its range, or an input has the wrong shape.
    """

    def __init__(
        self,
        num_segments: int = 8,
        audio_dim: int = 192,
        visual_dim: int = 512,
        num_layers: int = 2,
        *,
        num_speakers: int = 1150,
        unused_dims: tuple[int, int] = (192, 192),
        dropout: float = 0.6,
    ) -> None:
        super().__init__()
        self.coattn = DCNLayer(visual_dim, audio_dim, num_layers, dropout, num_segments)
        self.audio_extract = LSTM(audio_dim, audio_dim, 2, 0.1)
        self.video_extract = LSTM(visual_dim, visual_dim, 2, 0.1)
        self.video_attn = BottomUpExtract(*unused_dims)
        width = visual_dim + audio_dim
        self.Joint = LSTM(width, width, 2, dropout=0.0)
        self.predict = PredictLayer(visual_dim, audio_dim, num_speakers, 0.3)
        self.init_weights()

    def forward(
        self,
        f1_norm: Tensor,
        f2_norm: Tensor,
        lengths: Lengths | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        used, inputs = without_padding(lengths, key_padding_mask, f1_norm=f1_norm, f2_norm=f2_norm)
        audio, video = (F.normalize(x, dim=-1) for x in inputs)
        audio = call_recurrent(self.audio_extract, audio, used)  # (B, N, d_a)
        video = call_recurrent(self.video_extract, video, used)  # (B, N, d_v)
        fused = self.coattn(video, audio, **padding_mask(used))
        return call_recurrent(self.Joint, torch.cat(fused, dim=-1), used)


class FusionModel(nn.Module):
    """:class:`CAM`, attentive statistics pooling and a Linear: one embedding for each utterance.

    ``model`` is the CAM; None makes one of the published sizes. It maps the audio and visual
    features of :class:`CAM` to (B, embedding_dim). New: ``lengths`` (B,), at least 1, counts the
    segments in use of every utterance.
    """

    def __init__(
        self, model: CAM | None = None, embedding_dim: int = 512, *, hidden_dim: int = 256
    ) -> None:
        super().__init__()
        self.JCA_model = CAM() if model is None else model
        width = self.JCA_model.Joint.linear.out_features
        self.asp = AttentiveStatisticsPooling(width, hidden_dim)
        self.linear = nn.Linear(2 * width, embedding_dim)

    def forward(self, a_feat: Tensor, v_feat: Tensor, lengths: Lengths | None = None) -> Tensor:
        if lengths is None:
            return call_linear(self.linear, self.asp(self.JCA_model(a_feat, v_feat)))
        fused = self.JCA_model(a_feat, v_feat, lengths=lengths)
        return call_linear(self.linear, self.asp(fused, lengths))
