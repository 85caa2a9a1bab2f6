"""The modules of tuffr5/Recursive-joint-co-attention: same constructors, calls, results and state_dict keys.

In place of its ``layer`` and ``models`` modules::

    from jca_fast.compat.released import DCNWithRCNN

What differs: the number of segments is an argument (10 there), a batch of one keeps its axis unless asked otherwise,
``GRU`` works, odd batch sizes down to 0 work, and no constructor moves itself to a GPU. The first modality
(``dim1``, ``data1``) is the video. The joint affinity is computed by the kernels of this library.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..modules import ResidualRNN
from ..modules.checks import check_positive
from ..modules.linear import Linear
from ..modules.visual_reduction import additive_reduction
from .layers import PublishedCoAttention, PublishedLayer, PublishedStack, init_weights, option

NUM_REGIONS, REGION_FEATURES, AUDIO_FEATURES = (
    49,
    512,
    128,
)  # 7 x 7 positions of VGG19 pool5, channels of VGGish


class DenseCoAttn(PublishedCoAttention):
    """Joint co-attention of two modalities (B, N, dim1), (B, N, dim2) -> two attended features (B, N, dim1 + dim2).

    ``use_query=False`` leaves the query Linear out of the computation, as one published variant does.
    """

    def __init__(
        self,
        dim1: int,
        dim2: int,
        dropout: float,
        num_segments: int = 10,
        *,
        use_query: bool = True,
    ) -> None:
        super().__init__((dim1, dim2), dropout, num_segments, use_query)


class NormalSubLayer(PublishedLayer):
    """One layer with its residual update: (B, N, dim1), (B, N, dim2) -> the same shapes."""

    def __init__(
        self,
        dim1: int,
        dim2: int,
        dropout: float,
        num_segments: int = 10,
        *,
        use_query: bool = True,
    ) -> None:
        super().__init__(
            DenseCoAttn(dim1, dim2, dropout, num_segments, use_query=use_query), dropout
        )


class DCNLayer(PublishedStack):
    """``num_seq`` layers, each with its own weights: (B, N, dim1), (B, N, dim2) -> the same shapes."""

    def __init__(
        self,
        dim1: int,
        dim2: int,
        num_seq: int,
        dropout: float,
        num_segments: int = 10,
        *,
        use_query: bool = True,
    ) -> None:
        sizes = (dim1, dim2, dropout, num_segments)
        super().__init__([NormalSubLayer(*sizes, use_query=use_query) for _ in range(num_seq)])


class LSTM(ResidualRNN):
    """Residual LSTM block: (B, N, embed_size) -> (B, N, dim), L2-normalised; see :class:`jca_fast.modules.ResidualRNN`.

    ``residual_embeddings=False``, which fails in the published code, leaves the input out of the concatenation.
    """

    def __init__(
        self,
        embed_size: int,
        dim: int,
        num_layers: int,
        dropout: float,
        residual_embeddings: bool = True,
    ) -> None:
        super().__init__(
            embed_size, dim, num_layers, "lstm", dropout, residual_embeddings, normalize=True
        )


class GRU(ResidualRNN):
    """The block with a GRU, called and returning like :class:`LSTM`; the published class cannot run."""

    def __init__(
        self,
        embed_size: int,
        dim: int,
        num_layers: int,
        dropout: float,
        residual_embeddings: bool = True,
    ) -> None:
        super().__init__(
            embed_size, dim, num_layers, "gru", dropout, residual_embeddings, normalize=True
        )


class PositionAttn(nn.Module):
    """Additive attention over the 49 positions of each segment, guided by the audio.

    video (B, N, 7, 7, 512) or (B, N, 49, 512), audio (B, N, embed_dim) -> (B, N, dim). The formula is that of
    :class:`jca_fast.modules.AdditiveReduction`.
    """

    def __init__(self, embed_dim: int, dim: int) -> None:
        super().__init__()
        check_positive(embed_dim=embed_dim, dim=dim)
        self.affine_audio = Linear(embed_dim, dim)
        self.affine_video = Linear(REGION_FEATURES, dim)
        self.affine_v = Linear(dim, NUM_REGIONS, bias=False)
        self.affine_g = Linear(dim, NUM_REGIONS, bias=False)
        self.affine_h = Linear(NUM_REGIONS, 1, bias=False)
        self.affine_feat = Linear(REGION_FEATURES, dim)

    def forward(self, video: Tensor, audio: Tensor) -> Tensor:
        return self.attend(video, audio)[0]

    def attend(self, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """The result (B, N, dim) and the attention (B, N, 49), which sums to 1 over the positions."""
        if (
            video.ndim < 4
            or video.shape[-1] != REGION_FEATURES
            or video.shape[2:-1].numel() != NUM_REGIONS
        ):
            needed = f"(B, N, 7, 7, {REGION_FEATURES}) or (B, N, {NUM_REGIONS}, {REGION_FEATURES})"
            raise ValueError(f"video must have shape {needed}, got {tuple(video.shape)}")
        regions = video.flatten(2, -2)  # (B, N, 49, 512)
        of_audio, of_regions = self.affine_audio, self.affine_video
        scores = self.affine_g, self.affine_v, self.affine_h
        return additive_reduction(audio, regions, of_audio, of_regions, *scores, self.affine_feat)


class BottomUpExtract(nn.Module):
    """:class:`PositionAttn` under the name ``attn``: video, audio -> (B, N, dim)."""

    def __init__(self, emed_dim: int, dim: int) -> None:
        super().__init__()
        self.attn = PositionAttn(emed_dim, dim)

    def forward(self, video: Tensor, audio: Tensor) -> Tensor:
        return self.attn(video, audio)


class PredictLayer(nn.Module):
    """Residual LSTM block on [data1; data2], then dim1 -> dim1 / 4 -> num_ans and a softmax.

    data1 (B, N, dim1), data2 (B, N, dim2) -> probabilities (B, N, num_ans). ``squeeze=True`` drops every axis of size
    1 as the published code does, so that a batch of one returns (N, num_ans).
    """

    def __init__(
        self, dim1: int, dim2: int, num_ans: int, dropout: float, *, squeeze: bool = False
    ) -> None:
        super().__init__()
        self.squeeze = squeeze
        self.Joint = LSTM(dim1 + dim2, dim1, 2, dropout=0.0)
        self.predict = nn.Sequential(
            Linear(dim1, dim1 // 4), nn.ReLU(), nn.Dropout(dropout), Linear(dim1 // 4, num_ans)
        )

    def forward(self, data1: Tensor, data2: Tensor) -> Tensor:
        logits = self.predict(self.Joint(torch.cat((data1, data2), dim=-1)))  # (B, N, num_ans)
        return torch.softmax(logits.squeeze() if self.squeeze else logits, dim=-1)


class Normalization(nn.Module):
    """L2-normalises both inputs over their last axis."""

    def forward(self, audio: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
        return F.normalize(audio, dim=-1), F.normalize(video, dim=-1)


class DCNWithRCNN(nn.Module):
    """The whole published model: audio (B, N, 128), video (B, N, 7, 7, 512) or (B, N, 49, 512) -> (B, N, num_classes).

    Args:
        opt: the parsed command line, any object with attributes: ``audio_size`` and ``video_size`` (widths, 512),
            ``num_seq`` (co-attention layers, 4), ``num_layers`` (of each LSTM block, 2), ``num_classes`` (29),
            ``dropout`` (0.3), ``droprnn`` (0.1), ``rnn`` ("LSTM" or "GRU"), and ``num_segments`` (10), which the
            published code lacks. Where an attribute is missing, the value in brackets holds.
        squeeze: drop every axis of size 1 of the scores, as published; see :class:`PredictLayer`.

    Raises:
        ValueError: an option is out of its range, or an input has the wrong shape.
    """

    def __init__(self, opt: Any, *, squeeze: bool = False) -> None:
        super().__init__()
        audio_size, video_size = option(opt, "audio_size", 512), option(opt, "video_size", 512)
        num_classes = int(option(opt, "num_classes", 29))  # the published parser makes it a float
        dropout, rnn = option(opt, "dropout", 0.3), option(opt, "rnn", "LSTM")
        if rnn not in ("LSTM", "GRU"):
            raise ValueError(f"opt.rnn must be 'LSTM' or 'GRU', got {rnn!r}")
        block = LSTM if rnn == "LSTM" else GRU
        layers, droprnn = option(opt, "num_layers", 2), option(opt, "droprnn", 0.1)
        self.audio_extract = block(AUDIO_FEATURES, audio_size, layers, droprnn)
        self.video_extract = block(video_size, video_size, layers, droprnn)
        self.normalize = Normalization()
        self.video_attn = BottomUpExtract(audio_size, video_size)
        segments = option(opt, "num_segments", 10)
        self.coattn = DCNLayer(video_size, audio_size, option(opt, "num_seq", 4), dropout, segments)
        self.predict = PredictLayer(video_size, audio_size, num_classes, dropout, squeeze=squeeze)
        init_weights(self)

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        audio, video = self.normalize(audio, video)
        audio = self.audio_extract(audio)  # (B, N, d_a)
        video = self.video_extract(self.video_attn(video, audio))  # (B, N, d_v)
        video, audio = self.coattn(video, audio)
        return self.predict(video, audio)
