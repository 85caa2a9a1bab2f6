"""The joint affinity in CUDA: its plans executed from the library's PTX."""

from __future__ import annotations

import pytest

from tests.ptx import cuda_device
from tests.ptx.cuda_calls import execute

WHY = cuda_device.problem()
pytestmark = pytest.mark.skipif(bool(WHY), reason=WHY)


@pytest.mark.parametrize(
    ("tier", "call"), [("exact", "affinity, wide"), ("bfloat16", "affinity, two spans")]
)
def test_results_are_right_and_nothing_is_found(tier, call):
    errors, device = execute(tier, call)
    assert not device.findings.lines()
    assert all(error <= 1 for error in errors.values()), errors
    assert set(device.covered) == {"joint_affinity_forward", "joint_affinity_backward"}


def plan(way="", **changes) -> tuple[int, cuda_device.Plan]:
    """The status and the plan of B = 64, M = 512, L = 1024, N = 10."""
    sizes = dict(batch=64, m=512, l=1024, n=10)
    call = cuda_device.JointAffinity(**sizes | changes)
    return cuda_device.plan_of(f"joint_affinity{way}", call)


def test_plans_of_the_paper_size():
    """The forward splits the columns into spans of 256."""
    (status, forward), (other, backward) = plan(), plan("_backward")
    assert status == other == 0
    grids = [grid for _, grid in cuda_device.launches_of(forward, backward)]
    assert grids == [(4 * 64, 4, 1), (4 * 64, 1, 1), (8 * 64, 1, 1)]
    assert max(x.shared_bytes for x in backward.launches) <= 99 * 1024


@pytest.mark.parametrize("way", ["", "_backward"])
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"n": 0}, "every other size 1 or more"),
        ({"batch": -1}, "the batch must be 0 or more"),
        ({"tier": 4}, "tier"),
        ({"m": 2**31 - 1}, "too large"),
    ],
)
def test_a_wrong_call_is_refused(way, changes, text):
    status, result = plan(way, **changes)
    assert text in cuda_device.text_of(status)
    assert result.count == 0


def test_an_empty_batch_launches_nothing():
    assert [plan(way, batch=0)[1].count for way in ("", "_backward")] == [0, 0]
