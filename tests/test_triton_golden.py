"""The published numbers by the Triton kernels, which the interpreter runs on CPU tensors."""

from __future__ import annotations

import pytest
from test_golden import verify
from triton_device import DEVICE, kernels, serve, table

if DEVICE != "cpu":
    pytest.skip("the published numbers are on the CPU", allow_module_level=True)

FUSED = (
    "R_dense_a",
    "R_sublayer_a",
    "R_dcn_a",
    "R_dcn_b",
    "R_fork_n16",
    "R_full_a",
    "P_camtiny_a",
    "P_camtiny_b",
)
"""Those with Joint Co-Attention in them, each a few seconds for the interpreter of Triton."""


@pytest.fixture
def launched(monkeypatch) -> list[str]:
    """The ops that the Triton kernels computed, interpreted; plain PyTorch computes the others."""
    serve(monkeypatch)
    monkeypatch.setattr(table, "SMALL", 0)
    calls: list[str] = []

    def recorded(op, launcher):
        return lambda *args: calls.append(op) or launcher(*args)

    for op in (
        "released_attention",
        "joint_coattention",
        "released_attention_backward",
        "joint_coattention_backward",
    ):
        monkeypatch.setattr(kernels, op, recorded(op, getattr(kernels, op)))
    return calls


@pytest.mark.parametrize("case", FUSED)
def test_case_on_the_triton_kernels(golden, launched, case, monkeypatch):
    verify(golden, case, "f32", monkeypatch)
    op = "joint_coattention" if case.startswith("P") else "released_attention"
    assert {op, f"{op}_backward"} <= set(launched)
