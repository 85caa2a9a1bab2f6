"""The parts of the published models around the co-attention: recurrent blocks and region attention.

:mod:`.released` offers them by their published names.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..modules import ResidualRNN
from ..modules.checks import check_positive, check_probability, check_together
from ..modules.lengths import Lengths
from ..modules.visual_reduction import additive_reduction

NUM_REGIONS = 49  # 7 x 7 positions of VGG19 pool5
REGION_FEATURES = 512


class _RecurrentBlock(ResidualRNN):
    """:class:`jca_fast.modules.ResidualRNN`, L2-normalised, with the published initial weights.

    The random numbers are drawn in the published order: the Linear, the network, the initial state.
    """

    cell = "lstm"

    def __init__(
        self,
        embed_size: int,
        dim: int,
        num_layers: int,
        dropout: float,
        residual_embeddings: bool = True,
    ) -> None:
        nn.Module.__init__(self)
        check_positive(embed_size=embed_size, dim=dim, num_layers=num_layers)
        check_probability(dropout=dropout)
        embed_size, dim, num_layers = int(embed_size), int(dim), int(num_layers)
        if dim % 2:
            raise ValueError(f"dim must be even, half for each direction; got {dim}")
        self.input_dim = embed_size
        self.dim = dim
        self.residual = residual_embeddings
        self.normalize = True
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(dim + embed_size if residual_embeddings else dim, dim)
        network = nn.LSTM if self.cell == "lstm" else nn.GRU
        between = dropout if num_layers > 1 else 0.0
        self.rnn = network(
            embed_size, dim // 2, num_layers, batch_first=True, dropout=between, bidirectional=True
        )
        states = 4 if self.cell == "lstm" else 2
        self.init_hidden = nn.Parameter(torch.empty(states * num_layers, dim // 2))
        nn.init.xavier_uniform_(self.init_hidden)

    def forward(
        self,
        inputs: Tensor,
        lengths: Lengths | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        return self._represent("inputs", inputs, lengths, key_padding_mask)

    @property
    def rnn_dim(self) -> int:
        """The units of each direction."""
        return self.rnn.hidden_size

    @property
    def num_layers(self) -> int:
        """The layers of the recurrent network."""
        return self.rnn.num_layers

    @property
    def residual_embeddings(self) -> bool:
        """Whether the input is concatenated to the output of the recurrent network."""
        return self.residual


class LSTM(_RecurrentBlock):
    """Residual LSTM block: (B, N, embed_size) -> (B, N, dim), L2-normalised.

    ``residual_embeddings=False``, which fails in the published code, omits the input from the
    concatenation.
    """


class GRU(_RecurrentBlock):
    """The block with a GRU and the interface of :class:`LSTM`; the published class fails."""

    cell = "gru"


class PositionAttn(nn.Module):
    """Additive attention over the 49 positions of each segment, guided by the audio.

    video (B, N, ...) with 49 x 512 numbers in each segment, audio (B, N, embed_dim)
    -> (B, N, dim). The trailing axes of the video are read as 49 rows of 512, as in the published
    code: (B, N, 7, 7, 512), (B, N, 49, 512) and (B, N, 25088) are the same. The formula is that of
    :class:`jca_fast.modules.AdditiveReduction`.

    Raises:
        ValueError: the video or the audio has another shape.
    """

    num_regions = NUM_REGIONS

    def __init__(self, embed_dim: int, dim: int) -> None:
        super().__init__()
        check_positive(embed_dim=embed_dim, dim=dim)
        hidden = self.num_regions
        self.audio_width = int(embed_dim)
        self.affine_audio = nn.Linear(embed_dim, dim)
        self.affine_video = nn.Linear(REGION_FEATURES, dim)
        self.affine_v = nn.Linear(dim, hidden, bias=False)
        self.affine_g = nn.Linear(dim, hidden, bias=False)
        self.affine_h = nn.Linear(hidden, 1, bias=False)
        self.affine_feat = nn.Linear(REGION_FEATURES, dim)

    def forward(self, video: Tensor, audio: Tensor) -> Tensor:
        return self.attend(video, audio)[0]

    def attend(self, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """The result (B, N, dim) and the attention (B, N, 49), which sums to 1 over positions."""
        check_together(video=video, audio=audio)
        regions = self._regions(video)  # (B, N, 49, 512)
        segments, width = regions.shape[:2], self.audio_width
        if audio.shape[-1:] != (width,) or audio.shape[:-1].numel() != segments.numel():
            needed = f"(B, N, {width}) with B, N = {tuple(segments)} as the video"
            raise ValueError(f"audio must have shape {needed}, got {tuple(audio.shape)}")
        audio = audio.reshape(*segments, width)
        scores = self.affine_g, self.affine_v, self.affine_h
        return additive_reduction(
            audio, regions, self.affine_audio, self.affine_video, *scores, self.affine_feat
        )

    def _regions(self, video: Tensor) -> Tensor:
        """The video as (B, N, regions, 512); a hidden width of 1 fits any number of regions."""
        rows, channels = self.num_regions, REGION_FEATURES
        numbers = video.shape[2:].numel()
        if rows == 1 and numbers and numbers % channels == 0:
            rows = numbers // channels
        if video.ndim < 3 or numbers != rows * channels:
            known = "(B, N, 7, 7, 512), " if rows == NUM_REGIONS else ""
            raise ValueError(
                f"video must have shape {known}(B, N, {rows}, {channels}), "
                f"(B, N, {rows * channels}) or any (B, N, ...) with {rows} x {channels} numbers "
                f"in each segment, got {tuple(video.shape)}"
            )
        return video.reshape(*video.shape[:2], rows, channels)


class BottomUpExtract(nn.Module):
    """:class:`PositionAttn` under the name ``attn``: video, audio -> (B, N, dim)."""

    attention_class = PositionAttn

    def __init__(self, emed_dim: int, dim: int) -> None:
        super().__init__()
        self.attn = self.attention_class(emed_dim, dim)

    def forward(self, video: Tensor, audio: Tensor) -> Tensor:
        return self.attn(video, audio)
