"""The Triton kernels, by the interpreter or on a GPU: values and gradients against float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from triton_device import DEVICE, Memory, kernels, launch, on_device, sums, table  # noqa: F401

from jca_fast.ops import reference
from jca_fast.ops.backends.parity import QUICK, Case, run_checks, with_kernels
from jca_fast.ops.library import SCHEMAS
from jca_fast.ops.tiers import precision

ATTENTION = [
    Case("tanh_attention", (2, 70, 65, 10, 9, 0), 0.3),  # (B, M, L, N, D, v shared)
    Case("tanh_attention", (17, 3, 20, 5, 3, 1), 0.1),  # more samples than groups
    Case("tanh_attention", (1, 1, 1, 1, 1, 1)),
    Case("tanh_attention", (1, 20, 33, 70, 150, 1), 0.3),  # blocks of N and of D
]
RELEASED = [
    Case("released_attention", (2, 10, 40, 33), 0.3),  # (B, N, d, d_x)
    Case("released_attention", (2, 3, 1, 20)),
]
LAYER = [
    Case("joint_coattention", (2, 10, 20, 33, 9, 0)),  # (B, N, d_a, d_v, k, joints)
    Case("joint_coattention", (2, 7, 30, 20, 5, 0), 0.3),
    Case("joint_coattention", (2, 7, 1, 20, 5, 0), 0.3),  # modalities that are compiled differently
    Case(
        "joint_coattention", (2, 13, 20, 33, 9, 0)
    ),  # more segments than one exact launch chooses problems with
    Case("joint_coattention", (2, 7, 30, 20, 5, 1), 0.3),
    Case("joint_coattention", (2, 7, 30, 20, 5, 2)),
    Case("joint_coattention", (1, 70, 9, 12, 5, 0), 0.3),  # too many segments for one program
]
VISUAL = [
    Case("visual_reduction", (3, 49, 64)),  # (S, R, D)
    Case("visual_reduction", (2, 50, 100)),
    Case("visual_reduction", (2, 1, 1)),
    Case("visual_reduction", (1, 3, 1500)),
]
CASES = ATTENTION + RELEASED + LAYER + VISUAL
"""Those of joint_affinity are in tests/test_triton_joint_affinity.py."""

pytestmark = pytest.mark.usefixtures("on_device")


@pytest.mark.parametrize("tier", ["exact", "float16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_error_is_no_worse_than_plain_torch(case, tier):
    for result in run_checks([case], tier, DEVICE, kernels):
        assert result.passed, result


@pytest.mark.parametrize("tier", ["exact", "float16"])
@pytest.mark.parametrize("case", [ATTENTION[0], LAYER[1]], ids=str)
def test_the_tiles_of_small_batches(monkeypatch, case, tier):
    monkeypatch.setattr(table, "SMALL", 2**40)
    for result in run_checks([case], tier, DEVICE, kernels):
        assert result.passed, result


@pytest.mark.parametrize("case", [ATTENTION[0], LAYER[1], VISUAL[0]], ids=str)
def test_tf32_error_is_that_of_the_tier(case):
    """PyTorch on the CPU has no TF32 to compare with: 10 mantissa bits an operand, 3 products."""
    for result in run_checks([case], "tf32", DEVICE, kernels):
        assert result.error < 4e-3, result


def layer_arguments(dims, segments=5, widths=(4, 4, 4), batch=2):
    """inputs, and w_j, w_x, w_c, w_h for attention of these ``widths``."""
    shapes = [
        ((segments, segments), (k, segments), (k, sum(dims)), (k, segments))
        for k in widths[: len(dims)]
    ]
    weights = [[0.3 * torch.randn(shape) for shape in group] for group in zip(*shapes, strict=True)]
    return [torch.randn(batch, segments, d) for d in dims], weights


@pytest.mark.parametrize(
    ("dims", "widths"),
    [((17, 40), (4, 4)), ((9, 20, 33), (4, 4, 4)), ((9, 12), (3, 20)), ((9, 12), (20, 3))],
)
def test_layer_of_any_number_of_modalities_each_with_its_own_width(dims, widths):
    inputs, weights = layer_arguments(dims, widths=widths)
    options = ([0.2] * len(dims), 0.3, torch.tensor(-(2**40)))
    grads = [torch.randn_like(x) for x in inputs]
    with Memory():
        got = kernels.joint_coattention(inputs, [], *weights, *options, True)
        got_grads = kernels.joint_coattention_backward(
            grads, got[len(dims) :], inputs, [], *weights, *options
        )
    want = reference.joint_coattention(inputs, [], *weights, *options, True)
    want_grads = reference.joint_coattention_backward(
        grads, want[len(dims) :], inputs, [], *weights, *options
    )
    for a, b in zip((*got, *got_grads), (*want, *want_grads), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize("name", ["q", "k", "v"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_inf_go_through(monkeypatch, name, value, precision):
    """Odd sizes: the zeros around a tile and the halves of a split number must add no NaN."""
    torch.set_float32_matmul_precision(precision)
    monkeypatch.setattr(table, "forward", lambda *_: table.Config(32, 32, 4, 1))
    tensors = {
        "q": torch.rand(1, 40, 3) + 0.1,
        "k": torch.rand(1, 50, 3) + 0.1,
        "v": torch.rand(1, 50, 4) + 0.1,
    }
    tensors[name][0, 7, 1] = value
    try:
        out = kernels.tanh_attention(*tensors.values(), 0.5, 0.0, None)
    finally:
        torch.set_float32_matmul_precision("highest")
    want = reference.tanh_attention(*tensors.values(), 0.5, 0.0, None)
    torch.testing.assert_close(out, want, rtol=4e-3, atol=1e-5, equal_nan=True)


def test_no_sample():
    empty, shared = torch.empty(0, 4, 3), torch.ones(1, 4, 2)
    assert kernels.tanh_attention(empty, empty, shared, 1.0, 0.0, None).shape == (0, 4, 2)
    dq, _, dv = kernels.tanh_attention_backward(
        torch.empty(0, 4, 2), empty, empty, shared, 1.0, 0.0, None
    )
    assert dq.shape == (0, 4, 3)
    assert not dv.any()
    inputs, weights = layer_arguments((3, 4), batch=0)
    out = kernels.joint_coattention(inputs, [], *weights, [1.0, 1.0], 0.0, None, True)
    grads = kernels.joint_coattention_backward(
        inputs, out[2:], inputs, [], *weights, [1.0, 1.0], 0.0, None
    )
    assert not any(g.any() for g in grads)
    out, attention = kernels.visual_reduction(torch.empty(0, 8), torch.empty(0, 5, 8), 1.0)
    assert (out.shape, attention.shape) == ((0, 8), (0, 5))


def test_visual_backward_of_frozen_regions_is_the_same():
    query, regions = torch.randn(3, 20), torch.randn(3, 7, 20)
    out, weights = kernels.visual_reduction(query, regions, 0.2)
    args = (torch.randn_like(out), torch.randn_like(weights), query, regions, weights, 0.2)
    frozen, none = kernels.visual_reduction_backward(*args, False)
    assert none.numel() == 0
    assert torch.equal(frozen, kernels.visual_reduction_backward(*args, True)[0])


SIZE, LARGE = st.integers(1, 9), st.integers(1, 50)
DROPOUT = st.sampled_from((0.0, 0.3, 0.9))
ANY = {
    "tanh_attention": st.tuples(
        st.integers(1, 3), LARGE, LARGE, st.integers(1, 36), SIZE, st.integers(0, 1)
    ),
    "released_attention": st.tuples(st.integers(1, 3), st.integers(1, 20), LARGE, LARGE),
    "joint_coattention": st.tuples(
        st.integers(1, 3), SIZE, st.integers(1, 40), LARGE, SIZE, st.integers(0, 2)
    ),
    "joint_affinity": st.tuples(st.integers(1, 3), LARGE, LARGE, st.integers(1, 36)),
    "visual_reduction": st.tuples(st.integers(1, 4), LARGE, LARGE),
}
"""Sizes of each op, see :data:`jca_fast.ops.backends.parity.QUICK`."""


def test_every_op_with_kernels_has_cases():
    served = {case.op for case in with_kernels(QUICK, kernels)}
    apart = {op for op in served if Path(__file__).with_name(f"test_triton_{op}.py").exists()}
    without = served - apart - {case.op for case in CASES}
    assert not without, f"CASES of tests/test_triton_kernels.py has no case of {without}"
    assert served <= set(ANY), f"ANY of tests/test_triton_kernels.py lacks {served - set(ANY)}"


@pytest.mark.parametrize("op", ANY)
@settings(
    max_examples=6,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)
@given(data=st.data())
def test_any_size_is_no_worse_than_plain_torch(op, data):
    dropout = data.draw(DROPOUT) if "dropout_p" in SCHEMAS[op] else 0.0
    case, tier = (
        Case(op, data.draw(ANY[op]), dropout),
        data.draw(st.sampled_from(("exact", "float16", "bfloat16"))),
    )
    for result in run_checks([case], tier, DEVICE, kernels):
        assert result.passed, result


def test_partial_results_of_any_number_and_size_are_summed_in_one_launch():
    partials = [torch.randn(shape) for shape in ((100, 70), (1, 3), (33, 1), (5, 2, 130))]
    factors = (1.0, 0.0, 0.3, -2.0)
    found = [
        sums.partial_sum(p, p.new_full(p.shape[1:], float("nan")), factor)
        for p, factor in zip(partials, factors, strict=True)
    ]
    sums.launch_sums(found)
    for x, p, factor in zip(found, partials, factors, strict=True):
        torch.testing.assert_close(x.out, factor * p.sum(0), rtol=1e-5, atol=1e-5)


@pytest.fixture
def launches(monkeypatch):
    """Kernels start nothing; the list of their names and constants."""
    found: list[tuple[str, dict]] = []

    def take(kernel, grid, *args, **meta):
        found.append((kernel.fn.__name__.removesuffix("_kernel"), launch.constants(meta)))

    monkeypatch.setattr(launch, "TARGETS", [launch.Target("sm90", take)])
    return found


@pytest.mark.parametrize(("tier", "cores"), [("exact", 2), ("tf32", 1), ("bfloat16", 1)])
@pytest.mark.parametrize("dims", [(512, 512), (128, 40, 64)])
def test_a_layer_is_one_launch_forward_and_four_or_five_backward(launches, tier, cores, dims):
    with precision(tier) as dtype:
        inputs, weights = layer_arguments(dims, segments=10, widths=(32,) * len(dims))
        inputs, weights = (
            [t.to(dtype) for t in inputs],
            [[w.to(dtype) for w in group] for group in weights],
        )
        options = ([1.0] * len(dims), 0.0, None)
        maps = kernels.joint_coattention(inputs, [], *weights, *options, True)[len(dims) :]
        assert [name for name, _ in launches] == ["joint_coattention_forward"]
        kernels.joint_coattention_backward(inputs, maps, inputs, [], *weights, *options)
    assert [name for name, _ in launches[1:]] == [
        "joint_coattention_prepare",
        *["tanh_attention_backward"] * cores,
        "joint_coattention_finish",
        "sum",
    ]
    sizes = {"BO": 16, "BD": 32, "BK": 32 if tier == "exact" else 16, "ALIKE": True}
    for _, meta in launches:
        assert {k: meta[k] for k in sizes if k in meta} == {
            k: v for k, v in sizes.items() if k in meta
        }
