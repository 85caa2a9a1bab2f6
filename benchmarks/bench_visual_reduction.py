"""The audio-guided visual reduction at the published size: 640 segments, 49 regions, 512 channels
(64 MB).
"""

from __future__ import annotations

import pytest
import torch

from jca_fast.bench.pairs import interleave, summarise
from jca_fast.functional import visual_reduction
from jca_fast.ops import reference

SEGMENTS = 640
REGIONS = 49
CHANNELS = 512


@pytest.mark.parametrize("mode", ["forward", "backward", "backward_with_regions"])
def test_visual_reduction(paired, quick, mode):
    query = torch.randn(SEGMENTS, CHANNELS, requires_grad=True)
    regions = torch.randn(
        SEGMENTS, REGIONS, CHANNELS, requires_grad=mode == "backward_with_regions"
    )
    grad, scale = torch.randn(SEGMENTS, CHANNELS), CHANNELS**-0.5
    leaves = [t for t in (query, regions) if t.requires_grad]

    def timed(function):
        if mode == "forward":
            return torch.no_grad()(function)
        return lambda: torch.autograd.grad(function(), leaves, grad)

    ours = timed(lambda: visual_reduction(query, regions))
    eager = timed(lambda: reference.visual_reduction(query, regions, scale)[0])
    passes = {"forward": 1, "backward": 2}.get(mode)

    def share_of_bandwidth(_) -> float:
        """The bandwidth at which the regions were read, relative to that of torch.sum."""
        times = interleave({"read": regions.sum, "jca_fast": ours}, 5 if quick else 60)
        return passes * summarise(times)["read"]["ratio"]

    label = {"forward": "fwd", "backward": "fwd+bwd", "backward_with_regions": "fwd+bwd, dK"}[mode]
    providers = {"eager": eager, "jca_fast": ours}
    limit = share_of_bandwidth if passes else None
    paired(f"regions, {label}", f"{SEGMENTS}x{REGIONS}x{CHANNELS}", providers, limit=limit)
