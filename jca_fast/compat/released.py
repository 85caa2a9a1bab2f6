"""The modules of tuffr5/Recursive-joint-co-attention: same constructors, calls, results and keys.

In place of its ``layer`` and ``models`` modules::

    from jca_fast.compat.released import DCNWithRCNN

Differences: the number of segments is an argument (10 there), a batch of one keeps its axis unless
asked otherwise, ``GRU`` works, a batch may have any size including 0, and no constructor moves
itself to a GPU. The first modality (``dim1``, ``data1``) is the video. A seed gives the published
initial weights, bit for bit. The joint affinity is computed by the kernels of this library.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..modules.lengths import Lengths, padding_mask, without_padding, zero_padding
from ..modules.linear import Sequential
from ..modules.recurrent import call_recurrent
from .layers import PublishedCoAttention, PublishedLayer, PublishedModel, PublishedStack, option
from .released_parts import GRU, LSTM, BottomUpExtract, PositionAttn

__all__ = [
    "GRU",
    "LSTM",
    "BottomUpExtract",
    "DCNLayer",
    "DCNWithRCNN",
    "DenseCoAttn",
    "NormalSubLayer",
    "Normalization",
    "PositionAttn",
    "PredictLayer",
]

AUDIO_FEATURES = 128  # channels of VGGish


class DenseCoAttn(PublishedCoAttention):
    """Joint co-attention of two modalities.

    (B, N, dim1), (B, N, dim2) -> two attended features (B, N, dim1 + dim2). ``num_segments`` (N)
    and ``use_query`` default to the values of the class's repository. ``use_query=False`` does not
    use the query Linear.
    """

    default_segments = 10
    default_query = True

    def __init__(
        self,
        dim1: int,
        dim2: int,
        dropout: float,
        num_segments: int | None = None,
        *,
        use_query: bool | None = None,
    ) -> None:
        n = self.default_segments if num_segments is None else num_segments
        query = self.default_query if use_query is None else use_query
        super().__init__((dim1, dim2), dropout, n, query)

    def forward(
        self,
        value1: Tensor,
        value2: Tensor | None = None,
        *,
        lengths: Lengths | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        return self._attend((value1, value2), lengths, key_padding_mask)


class NormalSubLayer(PublishedLayer):
    """One layer with its residual update: (B, N, dim1), (B, N, dim2) -> the same shapes."""

    attention_class = DenseCoAttn

    def __init__(
        self,
        dim1: int,
        dim2: int,
        dropout: float,
        num_segments: int | None = None,
        *,
        use_query: bool | None = None,
    ) -> None:
        sizes = (dim1, dim2, dropout, num_segments)
        super().__init__(self.attention_class(*sizes, use_query=use_query), dropout)

    def forward(
        self,
        data1: Tensor,
        data2: Tensor | None = None,
        *,
        lengths: Lengths | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        return self._update((data1, data2), lengths, key_padding_mask)


class DCNLayer(PublishedStack):
    """``num_seq`` layers, each with its own weights: (B, N, dim1), (B, N, dim2) -> the same shapes.

    With ``return_all=True``, set at construction or in a call, it returns a list for each modality
    with every iteration.
    """

    layer_class = NormalSubLayer
    default_return_all = False

    def __init__(
        self,
        dim1: int,
        dim2: int,
        num_seq: int,
        dropout: float,
        num_segments: int | None = None,
        *,
        use_query: bool | None = None,
        return_all: bool | None = None,
    ) -> None:
        sizes = (dim1, dim2, dropout, num_segments)
        layers = [self.layer_class(*sizes, use_query=use_query) for _ in range(num_seq)]
        super().__init__(layers, self.default_return_all if return_all is None else return_all)

    def forward(
        self,
        data1: Tensor,
        data2: Tensor | None = None,
        *,
        return_all: bool | None = None,
        lengths: Lengths | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> tuple[Any, ...]:
        return self._run((data1, data2), return_all, lengths, key_padding_mask)


class PredictLayer(nn.Module):
    """A residual LSTM block on [data1; data2], then dim1 -> dim1 / 4 -> num_ans and a softmax.

    data1 (B, N, dim1), data2 (B, N, dim2) -> probabilities (B, N, num_ans). ``squeeze=True`` drops
    every axis of size 1 as the published code does, so that a batch of one returns (N, num_ans).
    """

    def __init__(
        self, dim1: int, dim2: int, num_ans: int, dropout: float, *, squeeze: bool = False
    ) -> None:
        super().__init__()
        self.squeeze = squeeze
        self.Joint = LSTM(dim1 + dim2, dim1, 2, dropout=0.0)
        self.predict = Sequential(
            nn.Linear(dim1, dim1 // 4),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(dim1 // 4, num_ans),
        )

    def forward(
        self,
        data1: Tensor,
        data2: Tensor,
        lengths: Lengths | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        used, inputs = without_padding(lengths, key_padding_mask, data1=data1, data2=data2)
        joint = call_recurrent(self.Joint, torch.cat(inputs, dim=-1), used)
        logits = self.predict(joint)  # (B, N, num_ans)
        scores = torch.softmax(logits.squeeze() if self.squeeze else logits, dim=-1)
        return zero_padding(scores.view(logits.shape), used).view(scores.shape)


class Normalization(nn.Module):
    """L2-normalises both inputs over their last axis."""

    def forward(self, audio: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
        return F.normalize(audio, dim=-1), F.normalize(video, dim=-1)


class DCNWithRCNN(PublishedModel):
    """The whole published model: audio (B, N, 128), video (B, N, 7, 7, 512) -> (B, N, num_classes).

    Like :class:`PositionAttn` it takes the video in any layout with 49 x 512 numbers in a segment.
    The inputs are L2-normalised over their last axis, as published: over 512 channels in
    (B, N, 7, 7, 512), over all numbers of a segment in (B, N, 25088). New: ``lengths`` (B,) or
    ``key_padding_mask`` (B, N), as in :class:`jca_fast.modules.JointCoAttention`, for clips that
    end before N.

    Args:
        opt: the parsed command line, or any object with attributes. A missing attribute has the
            published default: ``audio_size`` and ``video_size`` (widths, 512), ``num_seq``
            (co-attention layers, 4), ``num_layers`` (of each LSTM block, 2), ``num_classes`` (29),
            ``dropout`` (0.3), ``droprnn`` (0.1), ``rnn`` ("LSTM" or "GRU"). ``num_segments`` (10)
            is new.
        squeeze: drop every axis of size 1 of the scores, as published; see :class:`PredictLayer`.

    Raises:
        ValueError: an option is out of its range, or an input has the wrong shape.
    """

    def __init__(self, opt: Any, *, squeeze: bool = False) -> None:
        super().__init__()
        audio_size, video_size = option(opt, "audio_size", 512), option(opt, "video_size", 512)
        num_classes = int(option(opt, "num_classes", 29))  # the published parser makes it a float
        dropout, rnn = option(opt, "dropout", 0.3), option(opt, "rnn", "LSTM")
        if rnn not in ("LSTM", "lstm", "GRU"):  # the published code takes any other as LSTM
            raise ValueError(f"opt.rnn must be 'LSTM' or 'GRU', got {rnn!r}")
        block = GRU if rnn == "GRU" else LSTM
        layers, droprnn = option(opt, "num_layers", 2), option(opt, "droprnn", 0.1)
        self.audio_extract = block(AUDIO_FEATURES, audio_size, layers, droprnn)
        self.video_extract = block(video_size, video_size, layers, droprnn)
        self.normalize = Normalization()
        self.video_attn = BottomUpExtract(audio_size, video_size)
        segments = option(opt, "num_segments", 10)
        self.coattn = DCNLayer(video_size, audio_size, option(opt, "num_seq", 4), dropout, segments)
        self.predict = PredictLayer(video_size, audio_size, num_classes, dropout, squeeze=squeeze)
        self.init_weights()

    def forward(
        self,
        audio: Tensor,
        video: Tensor,
        lengths: Lengths | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        used, inputs = without_padding(lengths, key_padding_mask, audio=audio, video=video)
        audio, video = self.normalize(*inputs)
        audio = call_recurrent(self.audio_extract, audio, used)  # (B, N, d_a)
        video = call_recurrent(self.video_extract, self.video_attn(video, audio), used)
        padding = padding_mask(used)
        video, audio = self.coattn(video, audio, **padding)  # (B, N, d_v), (B, N, d_a)
        return self.predict(video, audio, **padding)
