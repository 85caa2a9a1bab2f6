"""A whole layer in CUDA: its plans executed from the library's PTX."""

from __future__ import annotations

import pytest
import torch

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
