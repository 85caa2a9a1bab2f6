"""From the R regions of every segment to one visual vector: guided by the audio, or pooled."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..functional import visual_reduction
from .checks import check_positive
from .linear import xavier_linear


class AudioGuidedReduction(nn.Module):
    """The paper's early fusion: scaled dot-product attention of a projected audio query over the regions.

        q = Linear(audio)      a = softmax(regions q / sqrt(D))      out = regionsᵀ a

    Args:
        audio_dim: width of the audio features.
        region_dim: D, channels of a region.
        backend: "auto" or the name of a backend of :func:`jca_fast.functional.visual_reduction`.

    Shapes:
        audio (..., audio_dim), regions (..., R, D) -> out (..., D), weights (..., R); any R.

    Source: section 3.2 of Duan et al., WACV 2021. The paper leaves the projection open; it is a Linear with bias.
    """

    def __init__(self, audio_dim: int, region_dim: int, backend: str = "auto") -> None:
        super().__init__()
        check_positive(audio_dim=audio_dim, region_dim=region_dim)
        self.query = xavier_linear(audio_dim, region_dim)
        self.backend = backend

    def forward(self, audio: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        out = visual_reduction(
            self.query(audio), regions, return_weights=True, backend=self.backend
        )
        return out  # type: ignore[return-value]


class AdditiveReduction(nn.Module):
    """The released code's early fusion: additive attention over exactly R positions (R = 49).

        s = tanh(relu(Linear(regions)) W_vᵀ + (relu(Linear(audio)) W_gᵀ)[:, None])      (..., R, R)
        a = softmax(s w_hᵀ)                                                             (..., R)
        out = Linear(sum_r a_r regions_r)                                               (..., out_dim)

    The audio code has one entry for each position and is added along the positions, so the hidden width is R and the
    module serves no other number of regions.

    Args:
        audio_dim: width of the audio features.
        region_dim: channels of a region.
        out_dim: width of the result, and of the hidden codes of both modalities.
        num_regions: R.

    Shapes:
        audio (..., audio_dim), regions (..., R, region_dim) -> out (..., out_dim), weights (..., R).

    Raises:
        ValueError: ``regions`` has another number of positions.

    Source: released code of Duan et al., WACV 2021; after Tian et al., ECCV 2018.
    """

    def __init__(
        self, audio_dim: int, region_dim: int, out_dim: int, num_regions: int = 49
    ) -> None:
        super().__init__()
        check_positive(
            audio_dim=audio_dim, region_dim=region_dim, out_dim=out_dim, num_regions=num_regions
        )
        self.num_regions = num_regions
        self.audio = xavier_linear(audio_dim, out_dim)
        self.regions = xavier_linear(region_dim, out_dim)
        self.score_regions = xavier_linear(out_dim, num_regions, bias=False)
        self.score_audio = xavier_linear(out_dim, num_regions, bias=False)
        self.score = xavier_linear(num_regions, 1, bias=False)
        self.output = xavier_linear(region_dim, out_dim)

    def forward(self, audio: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        if regions.shape[-2] != self.num_regions:
            raise ValueError(
                f"regions must have {self.num_regions} positions (..., R, D), got {tuple(regions.shape)}"
            )
        return additive_reduction(
            audio,
            regions,
            self.audio,
            self.regions,
            self.score_audio,
            self.score_regions,
            self.score,
            self.output,
        )


def additive_reduction(
    audio: Tensor,
    regions: Tensor,
    of_audio: nn.Module,
    of_regions: nn.Module,
    score_audio: nn.Module,
    score_regions: nn.Module,
    score: nn.Module,
    output: nn.Module,
) -> tuple[Tensor, Tensor]:
    """The formula of :class:`AdditiveReduction` with the Linears given one by one."""
    by_region = score_regions(torch.relu(of_regions(regions)))  # (..., R, R)
    by_audio = score_audio(torch.relu(of_audio(audio)))  # (..., R)
    z = score(torch.tanh(by_region + by_audio[..., None]))[..., 0]  # (..., R)
    weights = torch.softmax(z, dim=-1)  # (..., R)
    pooled = (weights[..., None, :] @ regions)[..., 0, :]  # (..., region_dim)
    return output(pooled), weights


class PooledReduction(nn.Module):
    """Average or max pooling over the regions, without the audio: the ablations of Table 3.

    Shapes:
        audio (ignored), regions (..., R, D) -> out (..., D), None in place of the weights.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        if kind not in ("average", "max"):
            raise ValueError(f"kind must be 'average' or 'max', got {kind!r}")
        self.kind = kind

    def forward(self, audio: Tensor | None, regions: Tensor) -> tuple[Tensor, None]:
        return (regions.mean(dim=-2) if self.kind == "average" else regions.amax(dim=-2)), None

    def extra_repr(self) -> str:
        return self.kind
