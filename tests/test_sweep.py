"""500 cases of the sweep, and results that must exceed its bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("jca_fast.kernels.cpu.native")
from jca_fast.kernels import cpu

if cpu.problem():
    pytest.skip(cpu.problem(), allow_module_level=True)

import sweep_cases
from jca_fast.kernels.cpu import native
from sweep import compare, sweep, table
from sweep_cases import CASES, LEVELS, draw_case, reduction_case

from jca_fast.ops.library import OPS


def test_no_case_of_the_sweep_is_over_its_bound():
    breaches: list[str] = []
    results = sweep(0, 500, report=breaches.append)
    assert not breaches, "\n".join([*breaches, table(results)])


def test_the_sweep_reaches_every_op_and_dtype():
    cases = [draw_case(seed) for seed in range(60)]
    served = set(OPS) & native.op_names()
    assert set(CASES) == served, f"CASES of tests/sweep_cases.py lacks {served - set(CASES)}"
    assert {case.op for case in cases} == served
    assert len({case.inputs[0].dtype for case in cases}) == 4
    assert any(not t.is_contiguous() for case in cases for t in case.inputs)


def test_an_added_op_leaves_the_cases_of_all_other_seeds_as_they_were(monkeypatch):
    """So that nobody who adds an op meets the breach of another op."""
    before = [draw_case(seed) for seed in range(60)]
    added = {"added": lambda draw: replace(reduction_case(draw), op="added")}
    monkeypatch.setattr(sweep_cases, "CASES", added | CASES)
    after = [draw_case(seed) for seed in range(60)]
    kept = [pair for pair in zip(before, after, strict=True) if pair[1].op != "added"]
    assert 40 <= len(kept) < 60
    for old, new in kept:
        assert str(old) == str(new)
        exact = {"rtol": 0, "atol": 0, "equal_nan": True}
        torch.testing.assert_close([*new.inputs, new.grad], [*old.inputs, old.grad], **exact)


def test_an_instruction_set_that_a_machine_lacks_changes_no_other_choice(monkeypatch):
    before = [draw_case(seed) for seed in range(20)]
    monkeypatch.setattr(sweep_cases, "LEVELS", ["added", *LEVELS])
    after = [draw_case(seed) for seed in range(20)]
    assert any(case.isa == "added" for case in after)
    for old, new in zip(before, after, strict=True):
        assert new.isa in ("added", old.isa)
        assert str(replace(new, isa=old.isa)) == str(old)


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
