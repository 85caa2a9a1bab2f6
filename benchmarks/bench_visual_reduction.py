"""The audio-guided visual reduction at the published size: 640 segments, 49 regions, 512 channels (64 MB)."""

from __future__ import annotations

import pytest
import torch

from benchmarks.pairs import best_seconds
from jca_fast.functional import visual_reduction
from jca_fast.ops import reference

SEGMENTS, REGIONS, CHANNELS = 640, 49, 512


@pytest.mark.parametrize("mode", ["forward", "backward", "backward_with_regions"])
def test_visual_reduction(paired, report, mode):
    query = torch.randn(SEGMENTS, CHANNELS, requires_grad=True)
    regions = torch.randn(SEGMENTS, REGIONS, CHANNELS, requires_grad=mode == "backward_with_regions")
    grad, scale = torch.randn(SEGMENTS, CHANNELS), CHANNELS**-0.5
    leaves = [t for t in (query, regions) if t.requires_grad]

    def timed(function):
        if mode == "forward":
            return torch.no_grad()(function)
        return lambda: torch.autograd.grad(function(), leaves, grad)

    result = paired(
        {
            "eager": timed(lambda: reference.visual_reduction(query, regions, scale)[0]),
            "jca_fast": timed(lambda: visual_reduction(query, regions)),
        }
    )
    passes = {"forward": 1, "backward": 2}.get(mode)
    if passes:
        bandwidth = regions.nbytes / best_seconds(lambda: regions.sum(), 10)
        share = passes * regions.nbytes / bandwidth / (result["jca_fast"]["ms"] / 1e3)
        report(
            f"{bandwidth / 1e9:.1f} GB/s read by torch.sum, {100 * share:.0f} % of it used", share_of_bandwidth=share
        )
