"""Embeddings that identify a speaker: pooling over time, an angular loss and two error rates."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..modules.checks import check_feature, check_positive
from ..modules.lengths import Lengths, used_segments, zero_padding
from ..modules.linear import reset_children
from ..ops.checks import autocasts


class AttentiveStatisticsPooling(nn.Module):
    """Weighted mean and standard deviation over time: x (B, N, dim) -> (B, 2 dim).

        w = softmax over N of attention(x)
        mean = sum w x        std = sqrt(max(sum w x² - mean², 1e-4))

    ``attention`` is Conv1d(dim, hidden_dim), ReLU, BatchNorm, tanh, Conv1d(hidden_dim, dim), all of
    kernel size 1; the state_dict is that of the published speaker verification code. ``lengths``
    (B,), at least 1, counts the segments in use of each clip: the result is that of the shorter
    clips, and batch norm ignores the padding.

    Source: Okabe et al., Interspeech 2018.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int = 256,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive(dim=dim, hidden_dim=hidden_dim)
        self.dim, hidden_dim = int(dim), int(hidden_dim)
        factory: Any = {"device": device, "dtype": dtype}
        self.attention = nn.Sequential(
            nn.Conv1d(self.dim, hidden_dim, 1, **factory),
            nn.ReLU(),
            nn.BatchNorm1d(hidden_dim, **factory),
            nn.Tanh(),
            nn.Conv1d(hidden_dim, self.dim, 1, **factory),
            nn.Softmax(dim=2),
        )

    def reset_parameters(self) -> None:
        """Initialise all parameters afresh."""
        reset_children(self)

    def forward(self, x: Tensor, lengths: Lengths | None = None) -> Tensor:
        """Mean and deviation (B, 2 dim)."""
        check_feature("x", x, self.dim)
        used = used_segments(lengths, None, x)
        if used is None:
            weights = self.attention(x.mT)  # (B, dim, N)
        else:
            x, weights = zero_padding(x, used), self._weights(x, used[..., 0])
        x = x.mT  # (B, dim, N)
        mean = (weights * x).sum(dim=2)  # (B, dim)
        variance = (weights * x * x).sum(dim=2) - mean * mean  # (B, dim)
        return torch.cat((mean, variance.clamp_min(1e-4).sqrt()), dim=1)

    def _weights(self, x: Tensor, used: Tensor) -> Tensor:
        """The weights (B, dim, N); batch norm and softmax ignore the padding."""
        frames = x[used].mT[None]  # (1, dim, frames in use): every layer treats each frame alone
        scores = self.attention[:-1](frames)[0].mT.to(x.dtype)
        scattered = torch.full_like(x, -torch.inf).masked_scatter(used[..., None], scores)
        return self.attention[-1](scattered.mT)


class AdditiveAngularMargin(nn.Module):
    """Additive angular margin loss: embeddings (B, dim) and speakers (B,) -> the mean loss ().

    It is the cross-entropy of scale * cos(angle to each speaker's vector), where the true speaker's
    angle is increased by ``margin`` (radians). Beyond pi - margin, where the cosine would rise
    again, the cosine falls linearly instead. The loss is computed in float32 at least.

    Source: Deng et al., CVPR 2019 (ArcFace).
    """

    def __init__(
        self,
        dim: int,
        num_speakers: int,
        margin: float = 0.2,
        scale: float = 30.0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive(dim=dim, num_speakers=num_speakers)
        if not 0 <= margin < math.pi / 2:
            raise ValueError(f"margin must lie in [0, pi / 2), got {margin}")
        self.margin, self.scale = margin, scale
        weight = torch.empty(int(num_speakers), int(dim), device=device, dtype=dtype)
        self.weight = nn.Parameter(weight)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the vectors of the speakers afresh."""
        nn.init.xavier_normal_(self.weight)

    def cosines(self, embedding: Tensor) -> Tensor:
        """Cosine of the angle to every speaker (B, num_speakers)."""
        dtype, device = torch.promote_types(embedding.dtype, torch.float32), embedding.device.type
        with torch.autocast(device, enabled=False) if autocasts(device) else nullcontext():
            return F.linear(F.normalize(embedding.to(dtype)), F.normalize(self.weight.to(dtype)))

    def extra_repr(self) -> str:
        speakers, dim = self.weight.shape
        return f"dim={dim}, num_speakers={speakers}, margin={self.margin}, scale={self.scale}"

    def forward(self, embedding: Tensor, speaker: Tensor) -> Tensor:
        """The mean loss ()."""
        cosine = self.cosines(embedding)  # (B, num_speakers)
        true = cosine.gather(1, speaker[:, None])  # (B, 1)
        sine = (1 - true * true).clamp_min(1e-7).sqrt()  # its slope stays finite
        shifted = true * math.cos(self.margin) - sine * math.sin(self.margin)
        past = true - self.margin * math.sin(self.margin)
        with_margin = torch.where(true > -math.cos(self.margin), shifted, past)  # (B, 1)
        return F.cross_entropy(
            self.scale * cosine.scatter(1, speaker[:, None], with_margin), speaker
        )


def equal_error_rate(scores: Tensor, same: Tensor) -> float:
    """The rate at which misses and false alarms are equal, in [0, 1].

    Rates between two thresholds are interpolated linearly.
    scores (n,): higher means more alike; same (n,): non-zero where both sides are one speaker.
    Raises ValueError unless there are pairs of both kinds.
    """
    miss, alarm = _error_rates(scores, same)
    after = int((miss >= alarm).nonzero()[0])  # miss rises from 0 to 1, alarm falls from 1 to 0
    gap_before, gap_after = alarm[after - 1] - miss[after - 1], miss[after] - alarm[after]
    share = gap_before / (gap_before + gap_after)
    return float(miss[after - 1] + share * (miss[after] - miss[after - 1]))


def min_dcf(
    scores: Tensor,
    same: Tensor,
    prior: float = 0.05,
    cost_miss: float = 1.0,
    cost_alarm: float = 1.0,
) -> float:
    """The minimum of the normalised detection cost over all thresholds, in [0, 1].

        DCF = (p_m miss + p_a alarm) / min(p_m, p_a)
        p_m = cost_miss * prior        p_a = cost_alarm * (1 - prior)

    scores, same: as in :func:`equal_error_rate`. prior: assumed share of pairs of one speaker.
    """
    if not 0 < prior < 1:
        raise ValueError(f"prior must lie strictly between 0 and 1, got {prior}")
    miss, alarm = _error_rates(scores, same)
    of_miss, of_alarm = cost_miss * prior, cost_alarm * (1 - prior)
    return float((of_miss * miss + of_alarm * alarm).min() / min(of_miss, of_alarm))


def _error_rates(scores: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
    """Miss and false alarm rates (t,) at every threshold, from accepting all to accepting none."""
    if scores.ndim != 1 or scores.shape != same.shape:
        raise ValueError(
            "scores and same must have one shape (n,), "
            f"got {tuple(scores.shape)}, {tuple(same.shape)}"
        )
    positive = same > 0
    if positive.all() or not positive.any():
        raise ValueError("need pairs of the same speaker and pairs of different speakers")
    values, which = torch.unique(scores.double(), return_inverse=True)  # ascending
    # Count the pairs that each threshold rejects.
    counts = torch.zeros(2, len(values) + 1, dtype=torch.double, device=scores.device)
    counts[0, 1:] = torch.bincount(which[positive], minlength=len(values)).cumsum(0)
    counts[1, 1:] = torch.bincount(which[~positive], minlength=len(values)).cumsum(0)
    return counts[0] / counts[0, -1], 1 - counts[1] / counts[1, -1]
