"""Arguments that every op rejects by name, the meta device, and special values in the formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_contract import cases

from jca_fast import JointCoAttention
from jca_fast.functional import joint_coattention, tanh_attention
from jca_fast.ops import reference
from jca_fast.ops.library import OPS, SCHEMAS

X = torch.ones(1, 2, 2)
SCALED = [op for op in OPS if "float scale" in SCHEMAS[op]]
DROPPED = [op for op in OPS if "float dropout_p" in SCHEMAS[op]]


def call(op, **options):
    function, inputs = cases()[op]
    return function(*inputs, **options)


@pytest.mark.parametrize("op", SCALED)
@pytest.mark.parametrize(
    "scale", [torch.tensor(0.5), torch.nn.Parameter(torch.ones(())), "0.5", 1j, np.ones(1)]
)
def test_a_scale_is_a_number(op, scale):
    """A learnable scale would silently get no gradient."""
    with pytest.raises(TypeError, match="scale must be a number"):
        call(op, scale=scale)


def test_a_tensor_is_no_scale_of_a_layer():
    weights = [[X[0]] * 2, [X[0]] * 2, [torch.ones(2, 4)] * 2, [X[0]] * 2]
    with pytest.raises(TypeError, match=r"scales\[1\] must be a number"):
        joint_coattention([X, X], *weights, scales=[0.5, torch.tensor(0.5)])


@pytest.mark.parametrize("op", DROPPED)
@pytest.mark.parametrize("seed", [True, 1.0, np.bool_(True), np.float32(1), "1"])
def test_a_seed_is_an_integer(op, seed):
    with pytest.raises(TypeError, match="seed must be an int"):
        call(op, dropout_p=0.5, seed=seed)
    with pytest.raises(ValueError, match="seed must fit into int64, got 9223372036854775808"):
        call(op, dropout_p=0.5, seed=2**63)


@pytest.mark.parametrize("op", DROPPED)
@pytest.mark.parametrize("p", [torch.tensor(0.5), "0.5", None])
def test_a_dropout_probability_is_a_number(op, p):
    with pytest.raises(TypeError, match="dropout_p must be a number"):
        call(op, dropout_p=p)


@pytest.mark.parametrize("op", DROPPED)
def test_numbers_of_numpy(op):
    given = call(op, dropout_p=np.float32(0.5), seed=np.int64(3))
    expected = call(op, dropout_p=0.5, seed=3)
    torch.testing.assert_close(given, expected, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested")
@pytest.mark.parametrize("form", ["paper", "released"])
def test_nested_and_sparse_tensors(form):
    """A nested tensor is a likely guess for clips of different lengths."""
    fusion, audio = JointCoAttention(2, 2, 2, form=form), torch.ones(1, 2, 2)
    nested = torch.nested.nested_tensor([X[0], X[0, :1]])
    for name, bad in (("nested", nested), ("sparse", X.to_sparse()), ("mkldnn", X.to_mkldnn())):
        with pytest.raises(TypeError, match=rf"visual must be a dense tensor .*{name}"):
            fusion(audio, bad)
        with pytest.raises(TypeError, match=rf"k must be a dense tensor .*{name}"):
            tanh_attention(audio, bad, audio, 0.5)


def test_the_meta_device_gives_shapes_and_a_mismatch_names_the_argument():
    meta = torch.ones(3, 4, 2, device="meta")
    out = tanh_attention(meta, meta, meta, 0.5)
    assert (out.shape, out.device.type) == ((3, 4, 2), "meta")
    real = torch.ones(3, 4, 2)
    with pytest.raises(ValueError, match="k must be on meta like q, got cpu"):
        tanh_attention(meta, real, meta, 0.5)
    with pytest.raises(ValueError, match="v must be on cpu like q, got meta"):
        tanh_attention(real, real, meta, 0.5)


def test_special_values_in_the_formulas_are_those_of_autograd():
    """A NaN in H or T keeps its gradient, and an infinite gradient behind a closed ReLU is 0."""
    query, key, value, grad = (torch.randn(2, 3, 4, dtype=torch.float64) for _ in range(4))
    query[0, 0, 0], grad[1] = float("nan"), float("inf")
    leaves = [t.clone().requires_grad_() for t in (query, key, value)]
    out = reference.released_attention(*leaves, 0.5, 0.0, None)
    expected = torch.autograd.grad(out, leaves, grad)
    found = reference.released_attention_backward(grad, out.detach(), *leaves, 0.5, 0.0, None)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)
    inputs = [query, key]
    weights = [[torch.randn(3, 3).double()] * 2, [torch.randn(2, 3).double()] * 2,
               [torch.randn(2, 8).double()] * 2, [torch.randn(2, 3).double()] * 2]  # fmt: skip
    groups = [[t.clone().requires_grad_() for t in group] for group in (inputs, *weights)]
    options = ([0.3, 0.3], 0.0, None)
    *outs, h_a, h_v = reference.joint_coattention(groups[0], [], *groups[1:], *options, True)
    grads = [grad, grad]
    flat = [t for group in groups for t in group]
    expected = torch.autograd.grad(outs, flat, grads)
    maps = [h_a.detach(), h_v.detach()]
    found = reference.joint_coattention_backward(grads, maps, groups[0], [], *groups[1:], *options)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.isnan(), b.isnan())


@pytest.mark.parametrize("name", ["inputs", "joints", "w_j", "w_x", "w_c", "w_h", "scales"])
@pytest.mark.parametrize("bad", [None, 0.5, torch.tensor(0.5), {"audio": X}])
def test_a_layer_names_the_list_that_is_none(name, bad):
    groups = {"w_j": [X[0]] * 2, "w_x": [X[0]] * 2, "w_c": [torch.ones(2, 4)] * 2}
    arguments = {"inputs": [X, X], **groups, "w_h": [X[0]] * 2}
    if bad is None and name == "scales":
        return
    with pytest.raises((TypeError, ValueError), match=name):
        joint_coattention(**{**arguments, name: bad})


def test_a_layer_takes_any_iterable_of_tensors():
    weights = [[X[0]] * 2, [X[0]] * 2, [torch.ones(2, 4)] * 2, [X[0]] * 2]
    expected = joint_coattention([X, X], *weights)
    given = joint_coattention(iter([X, X]), *map(iter, weights), scales=iter([0.5, 0.5]))
    torch.testing.assert_close(given, expected, rtol=0, atol=0)


@pytest.mark.parametrize("p", [None, "0.1", [0.1], torch.ones(2)])
def test_constructors_name_the_probability(p):
    with pytest.raises(TypeError, match="dropout must be a number between 0 and 1, got"):
        JointCoAttention(2, 2, dropout=p)


def test_one_width_is_no_list_of_widths():
    with pytest.raises(TypeError, match=r"dims must hold the widths of two or more .*, got 512"):
        JointCoAttention(dims=512)
