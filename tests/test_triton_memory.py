"""NaN and the Triton kernels: none comes from fresh memory, and those of inputs propagate as in
PyTorch."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from triton_device import Memory, kernels, on_device  # noqa: F401

from jca_fast.ops import reference
from jca_fast.ops.reference import joints_of
from jca_fast.ops.tiers import TIERS, precision

pytestmark = pytest.mark.usefixtures("on_device")


def tanh_attention(ops, q, k, v, grad, dropout=0.3):
    options = (0.3, dropout, torch.tensor(3) if dropout else None)
    yield [ops.tanh_attention(q, k, v, *options)]
    yield ops.tanh_attention_backward(grad, q, k, v, *options)


def released_attention(ops, query, key, value, grad, dropout=0.3):
    options = (0.3, dropout, torch.tensor(3) if dropout else None)
    out = ops.released_attention(query, key, value, *options)
    yield [out]
    yield ops.released_attention_backward(grad, out, query, key, value, *options)


def joint_coattention(ops, *tensors, joints=0, dropout=0.3):
    inputs = tensors[:2]
    given = tensors[2 : 2 + joints]
    weights = tensors[2 + joints : -2]
    grads = tensors[-2:]
    groups = (inputs, given, *(weights[i : i + 2] for i in (0, 2, 4, 6)))
    options = ([0.2, 0.1], dropout, torch.tensor(3) if dropout else None)
    out = ops.joint_coattention(*groups, *options, True)
    yield out
    yield ops.joint_coattention_backward(grads, out[2:], *groups, *options)


def visual_reduction(ops, query, regions, *grads):
    out = ops.visual_reduction(query, regions, 0.3)
    yield out
    yield ops.visual_reduction_backward(*grads, query, regions, out[1], 0.3, True)


def tanh_attention_shapes(batch, rows, columns, segments, width, shared=False):
    qkv = (
        (batch, rows, segments),
        (batch, columns, segments),
        (1 if shared else batch, columns, width),
    )
    return *qkv, (batch, rows, width)


def released_attention_shapes(batch, segments, width, columns):
    return (batch, segments, width), *[(batch, segments, columns)] * 2, (batch, segments, width)


def joint_coattention_shapes(batch, segments, audio, visual, k, joints=0):
    width = 70 if joints else audio + visual
    inputs = [(batch, segments, audio), (batch, segments, visual)]
    weights = (
        [(segments, segments)] * 2 + [(k, segments)] * 2 + [(k, width)] * 2 + [(k, segments)] * 2
    )
    return *inputs, *[(batch, segments, width)] * joints, *weights, *inputs


def visual_reduction_shapes(segments, count, width):
    return (segments, width), (segments, count, width), (segments, width), (segments, count)


CALLS = {
    "tanh_attention": (tanh_attention, tanh_attention_shapes(2, 65, 66, 4, 3), 65 * 66),
    "tanh_attention, v shared": (
        tanh_attention,
        tanh_attention_shapes(2, 65, 66, 4, 3, True),
        65 * 66,
    ),
    "tanh_attention, several tiles": (
        tanh_attention,
        tanh_attention_shapes(2, 129, 130, 4, 3, True),
        129 * 130,
    ),
    "tanh_attention, two passes in each tier": (
        tanh_attention,
        tanh_attention_shapes(1, 65, 66, 33, 40),
        65 * 66,
    ),
    "released_attention": (released_attention, released_attention_shapes(2, 4, 65, 66), 65 * 66),
    "joint_coattention": (joint_coattention, joint_coattention_shapes(2, 4, 65, 66, 3), 65 * 131),
    "joint_coattention, joint given": (
        partial(joint_coattention, joints=1),
        joint_coattention_shapes(2, 4, 65, 66, 3, 1),
        65 * 70,
    ),
    "joint_coattention, one joint each": (
        partial(joint_coattention, joints=2),
        joint_coattention_shapes(2, 4, 65, 66, 3, 2),
        65 * 70,
    ),
    "joint_coattention, too many segments for one program": (
        joint_coattention,
        joint_coattention_shapes(1, 33, 80, 70, 3),
        70 * 150,
    ),
    "visual_reduction": (visual_reduction, visual_reduction_shapes(3, 19, 40), 3 * 19 * 40 + 1),
}
"""A call that yields outputs and gradients, its shapes, and a size that no allocation reaches."""


def tensors_of(shapes, dtype):
    return [(0.5 * torch.randn(shape)).to(dtype) for shape in shapes]


@pytest.mark.parametrize("tier", [tier for tier in TIERS if tier != "float16"])
@pytest.mark.parametrize("name", CALLS)
def test_writes_all_it_returns_and_never_holds_the_matrix(name, tier):
    """float16 has the tiles and the launches of bfloat16."""
    call, shapes, matrix = CALLS[name]
    with precision(tier) as dtype:
        tensors = tensors_of(shapes, dtype)
        with Memory() as memory:
            outputs, grads = call(kernels, *tensors)
    assert not any(t.isnan().any() for t in (*outputs, *grads))
    assert 0 < memory.largest < matrix


def layer_from_left_to_right(
    inputs, joints, w_j, w_x, w_c, w_h, scales, dropout_p, seed, keep_maps
):
    """The equations of a layer in plain PyTorch, in the order of the paper: (Xᵀ W_j) J."""
    parts = zip(inputs, joints_of(inputs, joints), w_j, w_x, w_c, w_h, scales, strict=True)
    maps, out = [], []
    for x, joint, w_j_i, w_x_i, w_c_i, w_h_i, scale in parts:
        maps.append(torch.relu(w_x_i @ x + w_c_i @ torch.tanh(x.mT @ w_j_i @ joint * scale).mT))
        out.append(x + w_h_i.mT @ maps[-1])
    return out + maps


PLAIN = SimpleNamespace(
    tanh_attention=reference.tanh_attention,
    released_attention=reference.released_attention,
    visual_reduction=reference.visual_reduction,
    joint_coattention=layer_from_left_to_right,
)
BAD = (float("nan"), float("inf"), -float("inf"))
ODD = {
    "tanh_attention": (
        partial(tanh_attention, dropout=0.0),
        tanh_attention_shapes(3, 35, 40, 3, 5),
        (0, 1, 2),
    ),
    "released_attention": (
        partial(released_attention, dropout=0.0),
        released_attention_shapes(3, 3, 35, 40),
        (0, 1, 2),
    ),
    "joint_coattention": (
        partial(joint_coattention, dropout=0.0),
        joint_coattention_shapes(3, 3, 35, 18, 4),
        (0, 1),
    ),
    "joint_coattention, joint given": (
        partial(joint_coattention, joints=1, dropout=0.0),
        joint_coattention_shapes(3, 3, 35, 18, 4, 1),
        (0, 1, 2),
    ),
    "joint_coattention of one segment": (
        partial(joint_coattention, dropout=0.0),
        joint_coattention_shapes(3, 1, 35, 18, 4),
        (0, 1),
    ),
    "visual_reduction": (visual_reduction, visual_reduction_shapes(3, 19, 12), (0, 1)),
}
"""Outputs, shapes, and which of the tensors have a sample for each bad number."""


@pytest.mark.parametrize("tier", ["exact", "tf32", "float16"])
@pytest.mark.parametrize("name", ODD)
def test_nan_and_inf_of_each_sample_go_through_as_in_torch(name, tier):
    call, shapes, batched = ODD[name]
    for index in batched:
        with precision(tier) as dtype:
            tensors = tensors_of(shapes, dtype)
            for sample, bad in enumerate(BAD):
                tensors[index][sample].flatten()[-2] = bad
            for got, want in zip(
                next(call(kernels, *tensors)), next(call(PLAIN, *tensors)), strict=True
            ):
                torch.testing.assert_close(got, want, rtol=0.02, atol=0.02, equal_nan=True)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("weight", ["w_j", "w_x", "w_c", "w_h"])
@pytest.mark.parametrize("tier", ["exact", "float16"])
def test_nan_and_inf_of_a_weight_go_through_as_in_torch(tier, weight, bad):
    call, shapes, _ = ODD["joint_coattention"]
    with precision(tier) as dtype:
        tensors = tensors_of(shapes, dtype)
        tensors[2 + 2 * ("w_j", "w_x", "w_c", "w_h").index(weight)][1, 2] = bad
        for got, want in zip(
            next(call(kernels, *tensors)), next(call(PLAIN, *tensors)), strict=True
        ):
            torch.testing.assert_close(got, want, rtol=0.02, atol=0.02, equal_nan=True)


@pytest.mark.parametrize("count", [16, 19, 40])
def test_regions_of_score_minus_infinity_get_no_weight(count):
    """They may fill the first chunk of rows, where the maximum is -inf and must not be
    subtracted."""
    query, regions = torch.full((1, 8), 1e20), torch.randn(1, 40, 8) * 1e-20
    regions[:, :count] = -1e20  # the products overflow
    got, want = (
        kernels.visual_reduction(query, regions, 1.0),
        reference.visual_reduction(query, regions, 1.0),
    )
    torch.testing.assert_close(got, want, equal_nan=True)


def test_a_nan_in_the_map_keeps_its_gradient():
    """H = NaN passes the ReLU, and PyTorch lets its gradient through."""
    tensors = [0.5 * torch.randn(shape) for shape in joint_coattention_shapes(1, 3, 20, 18, 4)]
    inputs = tensors[:2]
    weights = tensors[2:-2]
    grads = tensors[-2:]
    groups = (inputs, [], *(weights[i : i + 2] for i in (0, 2, 4, 6)))
    options = ([0.2, 0.1], 0.0, None)
    maps = [t.clone() for t in reference.joint_coattention(*groups, *options, True)[2:]]
    maps[0][0, 1, 2] = 1.0
    open_relu = reference.joint_coattention_backward(grads, maps, *groups, *options)
    maps[0][0, 1, 2] = float("nan")
    *rest, audio, visual = kernels.joint_coattention_backward(grads, maps, *groups, *options)
    for a, b in zip((*rest, visual), (*open_relu[:-2], open_relu[-1]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert audio.isnan().any()  # dW_h of audio is the only gradient that reads H


@pytest.mark.parametrize("tier", ["exact", "tf32"])
def test_finite_inputs_give_finite_gradients(tier):
    """Neither 1/(1-p) nor the scale may overflow k where plain PyTorch multiplies a small dS."""
    q, k, v, grad = (torch.randn(s) for s in tanh_attention_shapes(1, 20, 33, 3, 4))
    k[0, 5] = 2e38
    q[0, :, :] = 0.0
    grad.mul_(1e-20)
    options = (1.0, 0.6, torch.tensor(3))
    with precision(tier):
        got = kernels.tanh_attention_backward(grad, q, k, v, *options)
    want = reference.tanh_attention_backward(grad, q, k, v, *options)
    for a, b in zip(got, want, strict=True):
        assert b.isfinite().all()
        torch.testing.assert_close(a, b, rtol=1e-2, atol=float(b.abs().max()) * 1e-2)


def test_an_infinite_gradient_stops_at_a_closed_relu():
    query, key, value, grad = (torch.randn(s) for s in released_attention_shapes(1, 3, 20, 18))
    out = reference.released_attention(query, key, value, 0.3, 0.0, None)
    closed = (out <= 0).nonzero()[0]
    grad[tuple(closed)] = float("inf")
    got = kernels.released_attention_backward(grad, out, query, key, value, 0.3, 0.0, None)
    assert all(g.isfinite().all() for g in got)
