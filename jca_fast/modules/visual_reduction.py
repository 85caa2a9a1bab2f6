"""Reduces the R regions of every segment to one visual vector: guided by the audio, or pooled."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..functional import visual_reduction
from .checks import check_backend, check_like, check_positive
from .linear import call_linear, reset_children, xavier_linear
from .region_scores import region_scores


class AudioGuidedReduction(nn.Module):
    """The paper's early fusion: dot-product attention of a projected audio query over the regions.

        q = Linear(audio)      a = softmax(regions q / sqrt(D))      out = regionsᵀ a

    Args:
        audio_dim: width of the audio features.
        region_dim: D, channels of a region.
        backend: "auto" or the name of a backend of :func:`jca_fast.functional.visual_reduction`.

    Shapes:
        audio (..., audio_dim), regions (..., R, D) -> out (..., D), weights (..., R); any R.

    Raises:
        TypeError, ValueError: an argument is out of its range, or an input has the wrong shape.

    Source: section 3.2 of Duan et al., WACV 2021. The paper leaves the projection open; it is a
    Linear with bias.
    """

    def __init__(
        self,
        audio_dim: int,
        region_dim: int,
        backend: str = "auto",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive(audio_dim=audio_dim, region_dim=region_dim)
        check_backend(backend)
        self.audio_dim = int(audio_dim)
        self.region_dim = int(region_dim)
        self.backend = backend
        self.query = xavier_linear(self.audio_dim, self.region_dim, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Initialise all parameters afresh."""
        reset_children(self)

    def forward(self, audio: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        """The reduced regions (..., D) and the attention over them (..., R)."""
        _check_inputs(audio, regions, self.audio_dim, self.region_dim)
        query = call_linear(self.query, audio)  # (..., D)
        out = visual_reduction(query, regions, return_weights=True, backend=self.backend)
        return out  # type: ignore[return-value]

    def extra_repr(self) -> str:
        return f"audio_dim={self.audio_dim}, region_dim={self.region_dim}, backend={self.backend!r}"


class AdditiveReduction(nn.Module):
    """The released code's early fusion: additive attention over exactly R positions (R = 49).

        s = tanh(relu(Linear(regions)) W_vᵀ + (relu(Linear(audio)) W_gᵀ)[:, None])    (..., R, R)
        a = softmax(s w_hᵀ)                                                           (..., R)
        out = Linear(sum_r a_r regions_r)                                             (..., out_dim)

    The audio code has one entry for each position and is added along the positions. So the hidden
    width is R, and the module accepts no other number of regions.

    Args:
        audio_dim: width of the audio features.
        region_dim: channels of a region.
        out_dim: width of the result, and of the hidden codes of both modalities.
        num_regions: R.

    Shapes:
        audio (..., audio_dim), regions (..., R, region_dim)
        -> out (..., out_dim), weights (..., R).

    Raises:
        TypeError, ValueError: an argument is out of its range, or an input has the wrong shape.

    Source: released code of Duan et al., WACV 2021; after Tian et al., ECCV 2018.
    """

    def __init__(
        self,
        audio_dim: int,
        region_dim: int,
        out_dim: int,
        num_regions: int = 49,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        sizes = {
            "audio_dim": audio_dim,
            "region_dim": region_dim,
            "out_dim": out_dim,
            "num_regions": num_regions,
        }
        check_positive(**sizes)
        audio, region, out, count = (int(size) for size in sizes.values())
        factory: Any = {"device": device, "dtype": dtype}
        self.audio_dim = audio
        self.region_dim = region
        self.num_regions = count
        self.audio = xavier_linear(audio, out, **factory)
        self.regions = xavier_linear(region, out, **factory)
        self.score_regions = xavier_linear(out, count, bias=False, **factory)
        self.score_audio = xavier_linear(out, count, bias=False, **factory)
        self.score = xavier_linear(count, 1, bias=False, **factory)
        self.output = xavier_linear(region, out, **factory)

    def reset_parameters(self) -> None:
        """Initialise all parameters afresh."""
        reset_children(self)

    def forward(self, audio: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        """The reduced regions (..., out_dim) and the attention over them (..., R)."""
        _check_inputs(audio, regions, self.audio_dim, self.region_dim)
        if regions.shape[-2] != self.num_regions:
            raise ValueError(
                f"regions must have {self.num_regions} positions (..., R, D), "
                f"got {tuple(regions.shape)}"
            )
        scores = self.score_audio, self.score_regions, self.score
        return additive_reduction(audio, regions, self.audio, self.regions, *scores, self.output)

    def extra_repr(self) -> str:
        return (
            f"audio_dim={self.audio_dim}, region_dim={self.region_dim}, "
            f"num_regions={self.num_regions}"
        )


def additive_reduction(
    audio: Tensor,
    regions: Tensor,
    hidden_of_audio: nn.Module,
    hidden_of_regions: nn.Module,
    score_audio: nn.Module,
    score_regions: nn.Module,
    score: nn.Module,
    output: nn.Module,
) -> tuple[Tensor, Tensor]:
    """The formula of :class:`AdditiveReduction` with the Linears given one by one."""
    hidden_audio = torch.relu(call_linear(hidden_of_audio, audio))  # (..., out_dim)
    by_region = region_scores(hidden_of_regions, score_regions, regions)  # (..., R, R)
    by_audio = call_linear(score_audio, hidden_audio)  # (..., R)
    z = call_linear(score, torch.tanh(by_region + by_audio[..., None]))[..., 0]  # (..., R)
    weights = torch.softmax(z, dim=-1)  # (..., R)
    pooled = (weights[..., None, :] @ regions)[..., 0, :]  # (..., region_dim)
    return call_linear(output, pooled), weights


def _check_inputs(audio: Tensor, regions: Tensor, audio_dim: int, region_dim: int) -> None:
    """audio (..., audio_dim) and regions (..., R, region_dim) must have the same leading sizes."""
    for name, x, layout in (("audio", audio, "(..., D)"), ("regions", regions, "(..., R, D)")):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a tensor {layout}, got {type(x).__name__}")
    if audio.ndim < 1 or audio.shape[-1] != audio_dim:
        raise ValueError(f"audio must have shape (..., {audio_dim}), got {tuple(audio.shape)}")
    if (
        regions.ndim != audio.ndim + 1
        or regions.shape[:-2] != audio.shape[:-1]
        or regions.shape[-1] != region_dim
    ):
        lead = "".join(f"{size}, " for size in audio.shape[:-1])
        raise ValueError(
            f"regions must have shape ({lead}R, {region_dim}), got {tuple(regions.shape)}"
        )
    check_like("regions", regions, audio, "audio")


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
        """The pooled regions (..., D), and None in place of the attention."""
        return (regions.mean(dim=-2) if self.kind == "average" else regions.amax(dim=-2)), None

    def extra_repr(self) -> str:
        return self.kind
