"""The visual reduction in CUDA: its plans executed from the library's PTX."""

from __future__ import annotations

import ctypes

import pytest
import torch

from tests.ptx import cuda_device
from tests.ptx.cuda_calls import execute

WHY = cuda_device.problem()
pytestmark = pytest.mark.skipif(bool(WHY), reason=WHY)


@pytest.mark.parametrize(
    ("tier", "call"),
    [
        ("exact", "visual, odd"),
        ("bfloat16", "visual"),
        ("bfloat16", "visual, frozen"),
        ("float16", "visual, a team"),
        ("exact", "visual, blocks"),
    ],
)
def test_results_are_right_and_nothing_is_found(tier, call):
    """Numbers one by one and by 16 bytes; rows of one, two and four warps, and of two CTAs."""
    errors, device = execute(tier, call)
    assert not device.findings.lines()
    assert all(error <= 1 for error in errors.values()), errors
    assert set(device.covered) == {"visual_reduction_forward", "visual_reduction_backward"}


def test_a_nan_and_an_inf_stay_in_their_segment():
    """As in PyTorch: a score that is NaN or Inf makes all weights of its segment NaN."""
    torch.manual_seed(0)
    query, keys = torch.randn(4, 20), torch.randn(4, 9, 20)
    keys[1, 8, 3] = float("nan")
    keys[2, 0, 3], query[2, 3] = float("inf"), 1
    keys[3, :, 3], query[3, 3] = -float("inf"), 1
    device = cuda_device.Device("exact")
    out, weights = device.visual_reduction(query, keys, 0.2)
    expected = torch.softmax((keys @ query[:, :, None])[..., 0] * 0.2, -1)
    torch.testing.assert_close(weights, expected, equal_nan=True)
    torch.testing.assert_close(out, (expected[:, None] @ keys)[:, 0], equal_nan=True)
    assert weights.isnan().any(1).tolist() == [False, True, True, True]


def plan(way="", **changes) -> tuple[int, cuda_device.Plan]:
    """The status and the plan of 640 segments of 49 regions with 512 channels, contiguous."""
    sizes = dict(segments=640, regions=49, width=512, workspace_size=2**30)
    call = cuda_device.VisualReduction(**sizes | changes)
    call.keys = cuda_device.Matrix(0, (ctypes.c_int64 * 3)(49 * 512, 512, 1))
    call.dkeys = cuda_device.Matrix(1024, call.keys.strides)
    return cuda_device.plan_of(f"visual_reduction{way}", call)


@pytest.mark.parametrize("way", ["", "_backward"])
def test_plans_of_the_paper_size(way):
    status, result = plan(way)
    assert status == 0
    assert [grid for _, grid in cuda_device.launches_of(result)] == [(640, 1, 1)]
    assert result.workspace_size == 4 * 640 * 49
    assert result.launches[0].shared_bytes <= 99 * 1024


def test_wide_regions_take_several_blocks():
    """Four warps hold 2048 columns."""
    grids = [tuple(plan(width=width)[1].launches[0].grid) for width in (2048, 2049, 10_000)]
    assert grids == [(640, 1, 1), (640, 2, 1), (640, 5, 1)]


@pytest.mark.parametrize("way", ["", "_backward"])
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"regions": 0}, "every other size 1 or more"),
        ({"segments": -1}, "the batch must be 0 or more"),
        ({"tier": 4}, "tier"),
        ({"regions": 2**31 - 1}, "too large"),
        ({"regions": 2**31 - 128, "width": 1}, "too large"),
        ({"workspace_size": 100}, "workspace"),
    ],
)
def test_a_wrong_call_is_refused(way, changes, text):
    status, result = plan(way, **changes)
    assert text in cuda_device.text_of(status)
    assert result.count == 0


def test_an_empty_batch_launches_nothing():
    assert [plan(way, segments=0)[1].count for way in ("", "_backward")] == [0, 0]
