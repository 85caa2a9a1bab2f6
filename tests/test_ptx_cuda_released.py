"""The attention of the released form in CUDA: its plans executed from the library's PTX."""

from __future__ import annotations

import pytest
import torch

from jca_fast.ops import reference
from tests.ptx import cuda_device
from tests.ptx.cuda_calls import execute

WHY = cuda_device.problem()
pytestmark = pytest.mark.skipif(bool(WHY), reason=WHY)


@pytest.mark.parametrize(
    ("tier", "call", "how", "kernel"),
    [
        ("exact", "released", "0 guard bits", "narrow_attention"),
        ("bfloat16", "released, transposed", "together", "narrow_attention"),
    ],
)
def test_results_are_right_and_nothing_is_found(tier, call, how, kernel):
    """With dropout; a wrong mask would be seen. ``python -m tests.ptx.cuda_calls`` has all."""
    errors, device = execute(tier, call, how)
    assert not device.findings.lines()
    assert all(error <= 1 for error in errors.values()), errors
    assert {f"{kernel}_forward", "released_activation"} < set(device.covered)


def test_nan_and_infinity_go_where_the_reference_lets_them_go():
    """An Inf in the gradient ends where T is 0; a NaN in T or the gradient goes on."""
    torch.manual_seed(0)
    half = torch.bfloat16
    query, key, value = (torch.randn(1, 3, d).to(half) for d in (8, 6, 6))
    out, grad = torch.rand(1, 3, 8).to(half), torch.randn(1, 3, 8).to(half)
    out[0, :, 0] = torch.tensor([0.0, 0.5, torch.nan])
    grad[0, :2, 0] = torch.inf
    grad[0, 1, 1] = torch.nan
    value[0, 0, 0] = torch.nan
    device = cuda_device.Device("bfloat16")
    got = device.released_attention(query, key, value, 0.3, 0.0, None)
    want = reference.released_attention(query, key, value, 0.3, 0.0, None)
    torch.testing.assert_close(got, want, equal_nan=True, rtol=0.05, atol=0.05)
    assert got.isnan().any()
    value[0, 0, 0] = 1
    given = grad, out, query, key, value, 0.3, 0.0, None
    for a, b in zip(
        device.released_attention_backward(*given),
        reference.released_attention_backward(*given),
        strict=True,
    ):
        torch.testing.assert_close(a, b, equal_nan=True, rtol=0.05, atol=0.05)


def plan(way="", **changes) -> tuple[int, cuda_device.Plan]:
    """The status and the plan of B = 64, N = 10, d = 1024, d_x = 512."""
    sizes = dict(batch=64, n=10, d=1024, d_x=512, workspace_size=2**30)
    call = cuda_device.ReleasedAttention(**sizes | changes)
    return cuda_device.plan_of(f"released_attention{way}", call)


def test_plans_of_the_paper_size():
    (status, forward), (other, backward) = plan(), plan("_backward")
    assert status == other == 0
    assert cuda_device.launches_of(forward, backward) == [
        ("narrow_attention_forward", (8 * 64, 1, 1)),
        ("released_activation", (10 * 1024 // 4 // 128 * 64, 1, 1)),
        ("tanh_attention_columns", (4 * 64, 1, 1)),
        ("tanh_attention_rows", (8 * 64, 1, 1)),
    ]
    assert backward.workspace_size == 64 * 10 * 1024 * 4


@pytest.mark.parametrize(
    ("way", "changes", "text"),
    [
        ("", {"n": 0}, "every other size 1 or more"),
        ("", {"dropout_threshold": -1}, "between 0 and 65536"),
        ("_backward", {"tier": 4}, "tier"),
        ("_backward", {"d": 2**31 - 1}, "too large"),
        ("_backward", {"workspace_size": 100}, "workspace"),
    ],
)
def test_a_wrong_call_is_refused(way, changes, text):
    status, result = plan(way, **changes)
    assert text in cuda_device.text_of(status)
    assert result.count == 0


def test_an_empty_batch_launches_nothing():
    assert [plan(way, batch=0)[1].count for way in ("", "_backward")] == [0, 0]
