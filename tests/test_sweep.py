"""500 cases of the sweep, and results that must exceed its bounds."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("jca_fast.kernels.cpu.native")
from jca_fast.kernels import cpu

if cpu.problem():
    pytest.skip(cpu.problem(), allow_module_level=True)

from jca_fast.kernels.cpu import native
from sweep import compare, sweep, table
from sweep_cases import draw_case

from jca_fast.ops.library import OPS


def test_no_case_of_the_sweep_is_over_its_bound():
    breaches: list[str] = []
    results = sweep(0, 500, report=breaches.append)
    assert not breaches, "\n".join([*breaches, table(results)])


def test_the_sweep_reaches_every_op_and_dtype():
    cases = [draw_case(seed) for seed in range(60)]
    assert {case.op for case in cases} == set(OPS) & native.op_names()
    assert len({case.inputs[0].dtype for case in cases}) == 4
    assert any(not t.is_contiguous() for case in cases for t in case.inputs)


@pytest.mark.parametrize("change", [1.01, float("nan")])
def test_a_wrong_result_is_over_its_bound(change):
    """An error of 1 %, or one NaN, in the output of a float32 case."""
    case = next(c for c in map(draw_case, range(100)) if c.inputs[0].dtype == torch.float32)
    right = case.ours

    def wrong(*inputs):
        factor = torch.ones_like(case.grad)
        factor.view(-1)[0] = change
        return right(*inputs) * (factor if change != change else change)

    case.ours = wrong
    with case.level():
        shares = {name: share for name, _, share in compare(case, case.inputs, case.inputs)}
    assert shares["out"] > 1
