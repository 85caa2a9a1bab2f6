"""FlopCounterMode counts every op as the products of its plain formula."""

from __future__ import annotations

import pytest
import torch
from test_contract import registered
from torch.utils.flop_counter import FlopCounterMode

from jca_fast import JointCoAttention
from jca_fast.ops import reference
from jca_fast.ops.library import SCHEMAS, overload


def counted(function, *args):
    with FlopCounterMode(display=False) as counter:
        function(*args)
    return counter.get_total_flops()


@pytest.mark.parametrize("op", SCHEMAS)
def test_every_op_counts_as_its_formula(backend, op):
    for args in registered()[op]:
        plain = counted(getattr(reference, op), *args)
        assert counted(overload(op, backend), *args) == plain
        assert counted(overload(op, "auto"), *args) == plain


def trained(module, inputs):
    sum(x.sum() for x in module(*inputs)).backward()


@pytest.mark.parametrize("form", ["paper", "released"])
@pytest.mark.parametrize("joint", ["concat", "add", "cross"])
def test_a_module_forward_and_backward(form, joint):
    inputs = torch.randn(2, 5, 6, requires_grad=True), torch.randn(2, 5, 6, requires_grad=True)
    ours, plain = (
        JointCoAttention(6, 6, 5, 3, 2, form, joint, backend=backend)
        for backend in ("auto", "reference")
    )
    count = counted(trained, ours, inputs)
    assert count == counted(trained, plain, inputs) > 3 * counted(plain, *inputs) - 1000


def test_a_counter_that_was_made_before_the_first_call():
    """A counter that is entered again, and one around it."""
    q = torch.randn(2, 3, 4)
    early = FlopCounterMode(display=False)
    with FlopCounterMode(display=False) as outer:
        for _ in range(2):
            with early:
                overload("joint_affinity", "reference")(q, q, 0.5)
            assert early.get_total_flops() == 2 * 2 * 3 * 3 * 4
    assert outer.get_total_flops() == 2 * early.get_total_flops()


def test_an_exported_program():
    module = JointCoAttention(6, 4, 5, 3, 2).eval()
    inputs = torch.randn(2, 5, 6), torch.randn(2, 5, 4)
    program = torch.export.export(module, inputs).module()
    assert counted(program, *inputs) == counted(module, *inputs) > 0
