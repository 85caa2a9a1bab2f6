"""Tanh attention in CUDA: the plans of ``kernels/cuda`` executed from the library's PTX."""

from __future__ import annotations

import pytest
import torch

from jca_fast.ops import reference
from tests.ptx import cuda_device
from tests.ptx.cuda_calls import execute

WHY = cuda_device.problem()
pytestmark = pytest.mark.skipif(bool(WHY), reason=WHY)


KERNELS = {
    "exact": {
        "narrow_attention_forward",
        *(f"tanh_attention_{x}" for x in ("columns", "rows")),
        "sum_parts",
    },
    "bfloat16": {*(f"narrow_attention_{x}" for x in ("forward", "backward")), "sum_parts"},
}


@pytest.mark.parametrize(
    ("tier", "call"), [("exact", "quick"), ("bfloat16", "quick"), ("bfloat16", "shared v")]
)
def test_results_are_right_and_nothing_is_found(tier, call):
    """With dropout; a wrong mask would be seen. Where v is shared, a block of threads has several
    samples. ``python -m tests.ptx.cuda_calls`` has all.
    """
    errors, device = execute(tier, call)
    assert not device.findings.lines()
    assert all(error <= 1 for error in errors.values()), errors
    assert set(device.covered) == KERNELS[tier]


def test_the_forward_of_wide_matrices_in_float32_is_right():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, *shape) for shape in ((4, 20), (35, 20), (35, 9)))
    device = cuda_device.Device("exact")
    got = device.tanh_attention(q, k, v, 0.3, 0.0, None)
    want = reference.tanh_attention(q.double(), k.double(), v.double(), 0.3, 0.0, None)
    assert (got - want).norm() < 4e-7 * want.norm()
    assert not device.findings.lines()
    assert set(device.covered) == {"tanh_attention_forward"}


SEED = ("ld", 8)
SMALL = {  # numbers one by one in the sums, whose threads lie side by side
    "exact": {
        **{kernel: {SEED} for kernel in KERNELS["exact"]},
        "sum_parts": {("ld", 4), ("st", 4)},
    },
    "bfloat16": {
        "narrow_attention_forward": {SEED},
        "narrow_attention_backward": {SEED, ("st", 8)},  # partial sums of dq, by pairs
        "sum_parts": {("ld", 4), ("st", 2)},
    },
}


@pytest.mark.parametrize("tier", SMALL)
def test_aligned_matrices_are_read_and_written_by_16_bytes(tier):
    _, device = execute(tier, "aligned")
    assert cuda_device.small_accesses(device) == SMALL[tier]


def plan(**changes) -> tuple[int, cuda_device.Plan]:
    """The status and the plan of a backward of B = 64, M = 512, L = 1024, N = 10, D = 32."""
    sizes = dict(batch=64, m=512, l=1024, n=10, d=32, workspace_size=2**30)
    call = cuda_device.TanhAttention(**sizes | changes)
    return cuda_device.plan_of("tanh_attention_backward", call)


def test_a_plan_of_the_paper_size():
    status, result = plan(shared_v=1)
    assert status == 0
    assert cuda_device.launches_of(result) == [
        ("tanh_attention_columns", (8 * 16, 1, 1)),
        ("tanh_attention_rows", (4 * 64, 1, 1)),
        ("sum_parts", (1024 * 32 // 128, 1, 1)),
    ]
    assert result.workspace_size == 4 * 16 * 1024 * 32
    assert max(x.shared_bytes for x in result.launches) <= 99 * 1024


def test_a_plan_of_16_bits_has_one_pass_where_all_is_one_block_wide():
    launches = {}
    for n, d in ((10, 32), (20, 32), (10, 40)):
        status, result = plan(shared_v=1, tier=cuda_device.TIERS.index("bfloat16"), n=n, d=d)
        assert status == 0
        assert max(x.shared_bytes for x in result.launches) <= 99 * 1024
        launches[n, d] = cuda_device.launches_of(result)
        if (n, d) == (10, 32):
            assert result.workspace_size == 4 * (16 * 1024 * 32 + 8 * 64 * 512 * 10)
    assert launches[10, 32] == [
        ("narrow_attention_backward", (8 * 16, 1, 1)),
        ("sum_parts", (64 * 512 * 10 // 128, 1, 1)),
        ("sum_parts", (1024 * 32 // 128, 1, 1)),
    ]
    two_passes = ["tanh_attention_columns", "tanh_attention_rows", "sum_parts"]
    assert [name for name, _ in launches[20, 32]] == two_passes
    assert [name for name, _ in launches[10, 40]] == two_passes


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"m": 0}, "every other size 1 or more"),
        ({"batch": -1}, "the batch must be 0 or more"),
        ({"tier": 4}, "tier"),
        ({"dropout_threshold": 65537}, "between 0 and 65536"),
        ({"l": 2**31}, "too large"),
        ({"m": 2**31 - 1, "n": 1, "d": 1}, "too large"),
        ({"shared_v": 1, "workspace_size": 100}, "workspace"),
    ],
)
def test_a_wrong_call_is_refused(changes, text):
    status, result = plan(**changes)
    assert text in cuda_device.text_of(status)
    assert result.count == 0


def test_an_empty_batch_writes_zeros_to_the_shared_gradient_only():
    _, result = plan(batch=0, shared_v=1)
    assert [name for name, _ in cuda_device.launches_of(result)] == ["sum_parts"]
    assert plan(batch=0)[1].count == 0
