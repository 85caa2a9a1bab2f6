"""The paper form under autocast: one fused call, and a residual that is never rounded."""

from __future__ import annotations

import pytest
import torch
from test_contract import layer_inputs
from torch.utils._python_dispatch import TorchDispatchMode

from jca_fast import JointCoAttention
from jca_fast.ops import reference
from jca_fast.ops.library import overload


def groups(flat, joints):
    ends = [2, 2 + joints, 4 + joints, 6 + joints, 8 + joints, 10 + joints]
    return [flat[a:b] for a, b in zip([0, *ends], ends, strict=False)]


@pytest.mark.parametrize("joints", [0, 1, 2])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_without_the_residual(backend, joints, dropout):
    """Values and gradients of the registered op, first and second order."""
    flat = [t.detach().requires_grad_() for t in layer_inputs(joints)]
    options = ([0.4, 0.5], dropout, torch.tensor(3) if dropout else None, False, False)
    results = []
    for op in (overload("joint_coattention", backend), reference.joint_coattention):
        out = op(*groups(flat, joints), *options)
        first = torch.autograd.grad(sum(t.square().sum() for t in out), flat, create_graph=True)
        second = torch.autograd.grad(sum(t.square().sum() for t in first), flat)
        results.append([list(out), list(first), list(second)])
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("keep_maps", [True, False])
def test_the_update_of_half_precision(backend, dtype, keep_maps):
    flat = [t.detach().to(dtype) for t in layer_inputs()]
    options = ([0.4, 0.5], 0.0, None, keep_maps, False)
    ours = overload("joint_coattention", backend)(*groups(flat, 0), *options)
    wide = [t.double() for t in flat]
    plain = reference.joint_coattention(*groups(wide, 0), *options)
    for got, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=0.05, atol=0.05)


class Called(TorchDispatchMode):
    """The library's ops and the matrix products that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        if "jca_fast" in name or "mm" in name:
            self.names.append(name.removeprefix("jca_fast."))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("joint", ["concat", "add", "cross"])
def test_a_layer_is_one_call_forward_and_one_backward(backend, joint):
    module = JointCoAttention(6, 6, 5, 3, 1, joint=joint, dropout=0.2, backend=backend)
    inputs = torch.randn(2, 5, 6), torch.randn(2, 5, 6)
    with Called() as called, torch.autocast("cpu", torch.bfloat16):
        sum(x.float().sum() for x in module(*inputs)).backward()
    ops = [f"joint_coattention{end}.{backend}" for end in ("", "_backward")]
    assert [name for name in called.names if name in ops] == ops
    assert not [name for name in called.names if "mm" in name] or backend == "reference"


def test_the_stream_of_features_is_not_rounded(backend):
    """Weights of zero give the inputs back, bit for bit, through four layers."""
    module = JointCoAttention(6, 4, 5, 3, 4, backend=backend)
    for name, weight in module.named_parameters():
        if "W_h" in name:
            torch.nn.init.zeros_(weight)
    inputs = [torch.randn(2, 5, d, requires_grad=True) for d in (6, 4)]
    with torch.autocast("cpu", torch.bfloat16):
        out = module(*inputs)
    grads = [torch.randn_like(x) for x in inputs]
    back = torch.autograd.grad(out, inputs, grads)
    for got, expected in zip((*out, *back), (*inputs, *grads), strict=True):
        assert torch.equal(got, expected)
