"""When "auto" trusts the GPU kernels: recorded runs, the self-check and its cache, and the reasons in words."""

from __future__ import annotations

import json
import warnings

import pytest
import torch

from jca_fast import doctor
from jca_fast.gpu import check, support, trust
from jca_fast.gpu.check import Case, Result
from jca_fast.ops import backends


def result(error: float) -> Result:
    return Result(Case("tanh_attention", (1, 1, 1, 1, 1, 0)), "out", error, 1e-7, 5e-7)


@pytest.fixture
def device(monkeypatch, tmp_path):
    """A device that is not there; ``errors`` is what its checks find, ``runs`` the tiers they ran in."""
    state = {"errors": [1e-7], "runs": []}

    def run_checks(cases, tier, device):
        state["runs"].append(tier)
        return [result(e) for e in state["errors"]]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(check, "run_checks", run_checks)
    monkeypatch.setattr(trust, "architecture", lambda index: "sm90")
    monkeypatch.setattr(trust, "_key", lambda index: "one device")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: state.get("capturing", False))
    trust._decided.cache_clear()
    yield state
    trust._decided.cache_clear()


def test_a_device_is_checked_once_and_the_verdict_kept(device, tmp_path):
    assert trust.doubt(0, "exact") == ""
    trust._decided.cache_clear()  # as in another process
    assert trust.doubt(0, "exact") == ""
    assert device["runs"] == ["exact"]
    assert json.loads((tmp_path / "jca_fast" / "gpu_checks.json").read_text()) == {"one device": {"exact": ""}}
    assert trust.doubt(0, "tf32") == ""
    assert device["runs"] == ["exact", "tf32"]


def test_a_failed_check_warns_once_and_says_where(device):
    device["errors"] = [1e-7, float("nan")]
    with pytest.warns(UserWarning, match="self-check on cuda:0 .*tanh_attention out.*jca-fast verify"):
        assert "error nan" in trust.doubt(0, "exact")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trust.doubt(0, "exact")
    assert trust.report(0)["exact"].startswith("not used")
    assert trust.report(0)["tf32"].startswith("not decided")


def test_doctor_says_what_was_decided_and_starts_no_check(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(support, "problem", lambda index: "")
    device["errors"] = [1.0]
    with pytest.warns(UserWarning, match="self-check"):
        trust.doubt(0, "tf32")
    verdicts = doctor.collect()["gpu kernels"]["cuda:0"]
    assert verdicts["exact"].startswith("not decided")
    assert verdicts["tf32"].startswith("not used: tanh_attention out in tier tf32: error 1.0e+00")
    assert device["runs"] == ["tf32"]
    monkeypatch.setattr(support, "problem", lambda index: "it is not offered on ROCm")
    assert doctor.collect()["gpu kernels"] == {"cuda:0": {"all tiers": "not used: it is not offered on ROCm"}}


def test_a_check_that_raises_is_a_failed_check(device, monkeypatch):
    def broken(*_):
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(check, "run_checks", broken)
    with pytest.warns(UserWarning, match="no kernel image"):
        assert trust.doubt(0, "exact")


def test_a_recorded_run_needs_no_check(device, monkeypatch):
    monkeypatch.setattr(trust, "VERIFIED", frozenset({("sm90", "exact")}))
    assert trust.doubt(0, "exact") == ""
    assert device["runs"] == []
    assert "recorded run" in trust.report(0)["exact"]


def test_no_check_inside_a_graph_capture(device):
    device["capturing"] = True
    assert "graph capture" in trust.doubt(0, "exact")
    assert device["runs"] == []


def test_an_unreadable_cache_is_no_verdict(device, tmp_path):
    (tmp_path / "jca_fast").mkdir()
    (tmp_path / "jca_fast" / "gpu_checks.json").write_text("{broken")
    assert trust.doubt(0, "exact") == ""
    assert device["runs"] == ["exact"]


def test_doubts_move_auto_to_the_next_backend_but_not_who_asks_by_name(monkeypatch):
    monkeypatch.delenv("JCA_FAST_BACKEND", raising=False)
    monkeypatch.setattr(backends, "BACKENDS", (backends.find("triton"), backends.find("reference")))
    tensor = torch.zeros(1, 1, 1)
    monkeypatch.setattr(support, "reasons", lambda op, tensors: [])
    monkeypatch.setattr(support, "doubts", lambda op, tensors: ["its self-check failed"])
    assert backends.choose("tanh_attention", "auto", [tensor]) == "reference"
    assert backends.choose("tanh_attention", "triton", [tensor]) == "triton"
    assert "its self-check failed" in backends.explain(tensor)
    monkeypatch.setattr(support, "doubts", lambda op, tensors: [])
    assert backends.choose("tanh_attention", "auto", [tensor]) == "triton"


def test_reasons_name_what_is_wrong():
    words = " ".join(support.reasons("joint_affinity", [torch.zeros(1, 1, 1, dtype=torch.float64)]))
    for part in ("no kernel for joint_affinity", "serves CUDA tensors, got cpu", "got torch.float64"):
        assert part in words
    assert "8192 channels" in " ".join(support.reasons("visual_reduction", [torch.zeros(1, 9000)]))
    far = torch.zeros(1).expand(1, 1, 1).as_strided((1, 2, 1), (0, 0, 1))
    assert "2^31" not in " ".join(support.reasons("tanh_attention", [far]))
    meta = torch.empty_strided((1, 2, 1), (1, 2**31, 1), device="meta")
    assert "2^31" in " ".join(support.reasons("tanh_attention", [meta]))


def test_verify_says_that_there_is_no_device(capsys):
    from jca_fast.cli import main

    if torch.cuda.is_available():
        pytest.skip("there is a device")
    assert main(["verify"]) == 2
    assert "no CUDA device found" in capsys.readouterr().err


def test_the_choice_is_a_constant_of_a_compiled_graph(monkeypatch):
    """On a GPU the table is asked while a graph is traced: nothing in it may break the graph."""
    monkeypatch.setattr(trust, "_decided", lambda index, tier: "a doubt" if tier == "tf32" else "")
    monkeypatch.setattr(trust, "architecture", lambda index: "sm90")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(support, "_found_problem", lambda index: "")

    @torch.compile(backend="eager", fullgraph=True)
    def call(x):
        words = support.doubts("tanh_attention", (x,)) + support.reasons("tanh_attention", (x,))
        return x + len(words)

    assert call(torch.zeros(1, 1, 1)).item() == 1  # the one reason: a CPU tensor
