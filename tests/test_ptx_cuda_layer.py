"""A whole layer in CUDA: its plans executed from the library's PTX."""

from __future__ import annotations

import pytest
import torch

from jca_fast.ops import reference
from tests.ptx import cuda_device, cuda_layer
from tests.ptx.cuda_calls import execute

WHY = cuda_device.problem()
pytestmark = pytest.mark.skipif(bool(WHY), reason=WHY)
KERNELS = ["forward", "prepare", "attention", "finish", "sums"]


@pytest.mark.parametrize(
    ("tier", "call", "how"),
    [
        ("exact", "layer, small", "2 guard bits"),
        ("bfloat16", "layer, small", "together"),
        ("bfloat16", "layer, groups", "together"),
    ],
)
def test_results_are_right_and_nothing_is_found(tier, call, how):
    """With dropout; a wrong mask would be seen. In groups, a block of threads has several samples.
    ``python -m tests.ptx.cuda_calls`` has all.
    """
    errors, device = execute(tier, call, how)
    assert not device.findings.lines()
    assert all(error <= 1 for error in errors.values()), errors
    assert set(device.covered) == {f"joint_coattention_{kernel}" for kernel in KERNELS}


def test_aligned_matrices_are_read_and_written_by_16_bytes():
    """But for numbers that a thread adds to its own, or compares with 0, and the sums."""
    _, device = execute("bfloat16", "layer, aligned")
    small = cuda_device.small_accesses(device)
    assert {name.removeprefix("joint_coattention_"): found for name, found in small.items()} == {
        "forward": {("ld", 8), ("ld", 2)},  # the seed, X
        "prepare": {("ld", 2)},  # H
        "attention": {("ld", 8)},
        "finish": {("ld", 2), ("ld", 4)},  # dX', dJ
        "sums": {("ld", 4), ("st", 2)},
    }


def layer(tier, batch, channels, widths, joints=()):
    """Positive gradients, maps and groups of a layer with N = 3."""
    torch.manual_seed(0)
    wide = joints or [sum(channels)] * len(channels)
    features = [(batch, 3, d) for d in channels]
    groups = [
        features,
        [(batch, k, d) for k, d in zip(widths, channels, strict=True)],
        features,
        [(batch, 3, d) for d in joints],
        [(3, 3) for _ in channels],
        [(k, 3) for k in widths],
        [*zip(widths, wide, strict=True)],
        [(k, 3) for k in widths],
    ]
    dtype = torch.float32 if tier == "exact" else torch.bfloat16
    return [[(torch.rand(shape) + 0.1).to(dtype) for shape in group] for group in groups]


def assert_like_the_reference(tier, grads, maps, *groups):
    """NaN and Inf in the same places, in X', H and every gradient."""
    options = [0.1, 0.2, 0.15, 0.1, 0.2, 0.15, 0.1, 0.2, 0.15][: len(maps)], 0.0, None
    device = cuda_layer.Device(tier)
    got = device.joint_coattention(*groups, *options, True)
    got += device.joint_coattention_backward(grads, maps, *groups, *options)
    want = reference.joint_coattention(*groups, *options, True)
    want += reference.joint_coattention_backward(grads, maps, *groups, *options)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("tier", "bad"),
    [
        ("exact", torch.nan),
        ("bfloat16", torch.nan),
        ("bfloat16", torch.inf),
        ("bfloat16", -torch.inf),
    ],
)
def test_a_nan_and_an_inf_stay_in_their_modality(tier, bad):
    """Each but the last, which has none, has one in another argument, and a joint of its own."""
    groups = layer(tier, 1, [7, 6, 5] * 3, [5, 4, 3] * 3, [4, 6, 9] * 3)
    for i, group in enumerate(groups):
        group[i][..., 1, 2] = bad
    assert_like_the_reference(tier, *groups)


def test_a_nan_and_an_inf_reach_the_sample_that_shares_the_joint_feature():
    groups = layer("bfloat16", 2, [7, 6], [5, 4])
    inputs = groups[2]
    inputs[0][0, 1, 5] = -torch.inf
    inputs[1][1, 2, 4] = torch.nan
    assert_like_the_reference("bfloat16", *groups)


def call(**changes):
    """B = 64, N = 10, 512 channels of each of two modalities, width 32."""
    sizes = dict(batch=64, n=10, modalities=2, workspace_size=2**30, dropout_threshold=0)
    found = cuda_layer.JointCoattention(**sizes | changes)
    for m in found.modality:
        m.d, m.k = 512, 32
    return found


def plan(way="_backward", given=None, **changes) -> tuple[int, cuda_device.Plan]:
    """The status and the plan."""
    return cuda_device.plan_of(f"joint_coattention{way}", given or call(**changes))


def test_plans_of_the_paper_size():
    """One launch forward, four backward; a part of the columns has a CTA for each of 16 groups."""
    (status, forward), (other, backward) = plan(""), plan()
    assert status == other == 0
    launches = cuda_device.launches_of(forward, backward)
    grids = [(name.split("_")[-1], grid) for name, grid in launches]
    rows = 4 * 64
    assert grids == [
        ("forward", (rows, 2, 1)),
        ("prepare", (rows, 2 * 2, 1)),
        ("attention", (rows, 2 * 2 + 2, 1)),
        ("finish", (rows, 2 * (1 + 3), 1)),
        ("sums", (1024 * 32 // 128, 2 * 4, 1)),
    ]
    assert forward.workspace_size == 0
    assert max(x.shared_bytes for x in backward.launches) <= 99 * 1024


@pytest.mark.parametrize("way", ["", "_backward"])
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"n": 0}, "every other size 1 or more"),
        ({"batch": -1}, "the batch must be 0 or more"),
        ({"tier": 4}, "tier"),
        ({"dropout_threshold": -1}, "between 0 and 65536"),
        ({"modalities": 13}, "1 to 12 modalities"),
        ({"modalities": 0}, "1 to 12 modalities"),
        ({"modalities": 3, "joints": 2}, "0, 1 or as many joint features"),
        ({"joints": 1}, "every other size 1 or more"),
        ({"n": 2**26}, "too large"),
        ({"n": 20, "workspace_size": 100}, "workspace"),
    ],
)
def test_a_wrong_call_is_refused(way, changes, text):
    status, result = plan(way, **changes)
    assert text in cuda_device.text_of(status)
    assert result.count == 0


def test_the_largest_layer_fits_the_parameters_of_a_kernel():
    status, result = plan(modalities=12, workspace_size=2**40)
    assert status == 0
    assert max(x.argument_bytes for x in result.launches) <= 4096


def test_an_empty_batch_writes_zeros_to_the_weights_only():
    _, result = plan(batch=0)
    assert plan("", batch=0)[1].count == 0
    assert [name for name, _ in cuda_device.launches_of(result)] == ["joint_coattention_sums"]
    inputs = [torch.empty(0, 3, 5), torch.empty(0, 3, 6)]
    weights = [[torch.ones(k, n)] * 2 for k, n in ((3, 3), (4, 3), (4, 11), (4, 3))]
    device = cuda_layer.Device("exact")
    maps = [torch.empty(0, 4, x.shape[2]) for x in inputs]
    grads = device.joint_coattention_backward(
        inputs, maps, inputs, [], *weights, [0.1, 0.1], 0.0, None
    )
    assert all(torch.equal(g, torch.zeros_like(g)) for g in grads)
