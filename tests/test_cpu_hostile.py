"""Direct calls of the registered CPU ops with arguments that the library never passes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hostile_calls import CASES, campaign, judge, valid_call
from jca_fast.kernels import cpu
from jca_fast.kernels.cpu import native

from jca_fast.ops.library import overload

if cpu.problem():
    pytest.skip(cpu.problem(), allow_module_level=True)

NO_SCRATCH = r"out of memory for scratch|sizes too large"
Q = torch.ones(1, 1, 1)
K = torch.ones(1, 64, 1)
V = torch.ones(1, 64, 1)


def test_hostile_calls_are_refused_or_answered_as_the_reference_does():
    ends, bad = campaign(400)
    assert not bad, "\n".join(bad)
    assert ends["refused"] > 200
    assert ends["as the reference"] > 20


@pytest.mark.parametrize("op", sorted(native.op_names()))
def test_the_calls_of_the_campaign_are_valid_before_their_damage(op):
    found = [case for case in CASES if case.op == op.removesuffix("_backward")]
    assert found
    for case in found:
        assert judge(op, valid_call(op, case)) == "as the reference"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({2: torch.zeros(1, 1, 1)}, r"v must have shape \(1, 64, \*\), got \(1, 1, 1\)"),
        ({0: torch.ones(1, 1)}, r"q must have shape \(\*, \*, \*\), got \(1, 1\)"),
        ({1: torch.ones(1, 64, 1, dtype=torch.float64)}, "k must be float32 like q, got float64"),
        ({0: torch.ones(1, 1, 1, dtype=torch.int32)}, "q must be float32, float64, bfloat16"),
        ({0: torch.ones(1, 1, 1).to_sparse()}, "q must be a dense CPU tensor"),
        ({4: 1.5}, "dropout_p must be a probability between 0 and 1, got 1.5"),
        ({4: float("nan")}, "dropout_p must be a probability"),
        ({4: 0.5, 5: torch.zeros(2, dtype=torch.int64)}, "seed must be one int64 number"),
        ({4: 0.5, 5: torch.tensor(1.0)}, "seed must be one int64 number"),
    ],
)
def test_the_error_names_the_op_and_the_argument(change, message):
    args = [change.get(i, x) for i, x in enumerate([Q, K, V, 9.0, 0.0, None])]
    with pytest.raises(RuntimeError, match=r"jca_fast::tanh_attention\.cpu: " + message):
        torch.ops.jca_fast.tanh_attention.cpu(*args)


def test_a_storage_that_was_given_back_is_not_read():
    k = K.clone()
    k.untyped_storage().resize_(16)
    with pytest.raises(
        RuntimeError, match=r"k of shape .* reaches outside its storage of 16 bytes"
    ):
        torch.ops.jca_fast.tanh_attention.cpu(Q, k, V, 9.0, 0.0, None)


@pytest.mark.parametrize("length", [2**40, 2**56, 2**60])
def test_scratch_that_cannot_exist_is_refused(length):
    """The operands take no memory, but their packed copies would."""
    wide = torch.zeros(1, 1, 1).expand(1, length, 1)
    with pytest.raises(RuntimeError, match=NO_SCRATCH):
        torch.ops.jca_fast.tanh_attention.cpu(Q, wide, wide, 1.0, 0.0, None)
    inner = torch.zeros(1, 1, 1).expand(1, 1, length)
    for op in ("tanh_attention", "joint_affinity"):
        args = (
            (inner, inner, V[:, :1], 1.0, 0.0, None)
            if op == "tanh_attention"
            else (inner, inner, 1.0)
        )
        with pytest.raises(RuntimeError, match=NO_SCRATCH):
            overload(op, "cpu")(*args)


def test_a_result_that_cannot_exist_is_refused():
    rows = torch.zeros(1, 1, 1).expand(1, 2**60, 1)
    with pytest.raises(RuntimeError, match="a result would need more than"):
        torch.ops.jca_fast.tanh_attention.cpu(rows, K, V, 1.0, 0.0, None)


SCRATCH = """
import pathlib, torch, jca_fast.functional
def held():
    return int(pathlib.Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024
torch.set_num_threads(1)
op, one = torch.ops.jca_fast.tanh_attention.cpu, torch.ones(1, 1, 1)
op(one, one, one, 1.0, 0.0, None)
wide = one.expand(1, 1_000_000, 1).expand(1, 1_000_000, 8)
before = held()
op(one.expand(1, 1, 8), wide, wide, 1.0, 0.0, None)
print(held() - before)
"""


def test_the_scratch_of_a_huge_call_is_given_back():
    """The packed operands of this call take 64 MB; a thread keeps at most 16."""
    code = [sys.executable, "-c", SCRATCH]
    done = subprocess.run(code, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 20
