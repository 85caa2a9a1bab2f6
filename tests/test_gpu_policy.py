"""The conditions under which "auto" trusts GPU kernels: recorded runs and the self-check."""

from __future__ import annotations

import contextlib
import json
import re
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from jca_fast import doctor
from jca_fast.functional import tanh_attention
from jca_fast.ops import backends, library, reference
from jca_fast.ops.backends import gpu, launchers, parity, recorded, trust
from jca_fast.ops.backends.parity import Case, Result, run_checks
from jca_fast.ops.released_attention import released_attention
from jca_fast.ops.tiers import precision

KERNELS = ("triton", "jca_fast.kernels.triton")
"""A backend and its module."""
TRITON = gpu.GpuKernels(*KERNELS, region_channels=8192)
CUDA = gpu.GpuKernels("cuda", "jca_fast.kernels.cuda", modalities=12)


def result(error: float) -> Result:
    return Result(Case("tanh_attention", (1, 1, 1, 1, 1, 0)), "out", error, 1e-7, 5e-7)


@pytest.fixture
def device(monkeypatch, tmp_path):
    """A simulated device; ``errors`` is the result of its checks, ``runs`` the tiers of those
    checks.
    """
    state = {"errors": [1e-7], "runs": []}

    def run_checks(cases, tier, device, launchers):
        state["runs"].append(tier)
        return [result(e) for e in state["errors"]]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(parity, "run_checks", run_checks)
    monkeypatch.setattr(trust, "device_class", lambda index: "sm90")
    monkeypatch.setattr(trust, "_key", lambda module, index: "one device")
    monkeypatch.setattr(trust, "load", lambda module: None)
    monkeypatch.setattr(
        torch.cuda, "is_current_stream_capturing", lambda: state.get("capturing", False)
    )
    monkeypatch.setattr(trust, "_DECIDED", {})
    return state


def test_a_device_is_checked_once_and_the_verdict_kept(device, tmp_path):
    assert trust.caution(*KERNELS, 0, "exact") == ""
    trust._DECIDED.clear()  # as in another process
    assert trust.caution(*KERNELS, 0, "exact") == ""
    assert device["runs"] == ["exact"]
    assert json.loads((tmp_path / "jca_fast" / "gpu_checks.json").read_text()) == {
        "one device": {"exact": ""}
    }
    assert trust.caution(*KERNELS, 0, "tf32") == ""
    assert device["runs"] == ["exact", "tf32"]


def test_a_failed_check_warns_once_and_says_where(device):
    device["errors"] = [1e-7, float("nan")]
    with pytest.warns(
        UserWarning, match="self-check on cuda:0 .*tanh_attention out.*jca-fast verify"
    ):
        assert "error nan" in trust.caution(*KERNELS, 0, "exact")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trust.caution(*KERNELS, 0, "exact")
    assert trust.report(*KERNELS, 0)["exact"].startswith("not used")
    assert trust.report(*KERNELS, 0)["tf32"].startswith("not decided")


def test_doctor_says_what_was_decided_and_starts_no_check(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(doctor, "_backends", lambda: {})
    monkeypatch.setattr(gpu, "problem", lambda module, op: "")
    monkeypatch.setattr(gpu, "_too_old", lambda index, needed: "")
    device["errors"] = [1.0]
    with pytest.warns(UserWarning, match="self-check"):
        trust.caution(*KERNELS, 0, "tf32")
    verdicts = doctor.collect()["gpu kernels"]["triton on cuda:0"]
    assert verdicts["exact"].startswith("not decided")
    assert verdicts["tf32"].startswith("not used: tanh_attention out in tier tf32: error 1.0e+00")
    assert device["runs"] == ["tf32"]
    monkeypatch.setattr(gpu, "problem", lambda module, op: "it is not offered on ROCm")
    assert doctor.collect()["gpu kernels"] == {
        f"{row.name} on cuda:0": {"all tiers": "not used: it is not offered on ROCm"}
        for row in backends.on_device("cuda")
    }


def test_doctor_lists_the_devices_that_the_backends_of_the_table_run_on(monkeypatch):
    """A type of device that only its row names: here "meta", of which two are simulated."""
    module = SimpleNamespace(device_count=lambda: 2, get_device_name=lambda i: f"toy model {i}")
    found = torch.get_device_module
    monkeypatch.setattr(
        torch, "get_device_module", lambda kind: module if kind == "meta" else found(kind)
    )
    row = backends.Backend(
        "toy", "a toy", None, lambda op, t: [], device="meta", verdicts=lambda i: {"exact": f"{i}"}
    )
    monkeypatch.setattr(backends, "BACKENDS", (row, *backends.BACKENDS))
    monkeypatch.setattr(backends, "on_device", lambda kind: (row,) if kind == "meta" else ())
    report = doctor.collect()
    assert report["devices"]["meta:1"] == "toy model 1"
    assert report["backends"]["toy"]["meta:0"] == "runs every op"
    assert report["backends"]["cpu"]["meta:0"].startswith("runs none: it runs on CPU tensors")
    assert report["gpu kernels"]["toy on meta:1"] == {"exact": "1"}


def test_verdicts_belong_to_a_backend_a_class_of_chips_and_a_tier(device, monkeypatch):
    """Another backend on the same chip in the same tier gets a separate check."""
    monkeypatch.setattr(trust, "VERIFIED", frozenset({("triton", "sm90", "exact")}))
    monkeypatch.setattr(trust, "_key", lambda module, index: f"{module} on one device")
    device["errors"] = [1.0]
    with pytest.warns(UserWarning, match="the toy kernels failed .* verify --backend toy"):
        assert trust.caution("toy", "toy_kernels", 0, "exact")
    assert device["runs"] == ["exact"]
    assert trust.caution(*KERNELS, 0, "exact") == ""
    assert "recorded run" in trust.report(*KERNELS, 0)["exact"]
    assert trust.report("toy", "toy_kernels", 0)["exact"].startswith("not used")
    assert trust.report(*KERNELS, 0)["tf32"].startswith("not decided")


def test_a_check_that_raises_is_a_failed_check(device, monkeypatch):
    def broken(*_):
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(parity, "run_checks", broken)
    with pytest.warns(UserWarning, match="no kernel image"):
        assert trust.caution(*KERNELS, 0, "exact")


def test_a_recorded_run_needs_no_check(device, monkeypatch):
    monkeypatch.setattr(trust, "VERIFIED", frozenset({("triton", "sm90", "exact")}))
    assert trust.caution(*KERNELS, 0, "exact") == ""
    assert device["runs"] == []
    assert "recorded run" in trust.report(*KERNELS, 0)["exact"]


def test_no_check_inside_a_graph_capture(device):
    device["capturing"] = True
    assert "graph capture" in trust.caution(*KERNELS, 0, "exact")
    assert device["runs"] == []


def test_what_was_decided_holds_inside_a_graph_capture_even_where_nothing_can_be_written(
    device, monkeypatch
):
    monkeypatch.setattr(trust, "_path", lambda: Path("/dev/null/jca_fast/gpu_checks.json"))
    assert trust.caution(*KERNELS, 0, "exact") == ""
    device["capturing"] = True
    assert trust.caution(*KERNELS, 0, "exact") == ""
    assert device["runs"] == ["exact"]


@pytest.mark.parametrize(
    "text", ["{broken", "[]", '{"one device": 3}', '{"one device": {"exact": null}}', "\xff"]
)
def test_an_unreadable_cache_is_no_verdict_and_is_replaced(device, tmp_path, text):
    (tmp_path / "jca_fast").mkdir()
    file = tmp_path / "jca_fast" / "gpu_checks.json"
    file.write_text(text, encoding="latin-1")
    assert trust.caution(*KERNELS, 0, "exact") == ""
    assert device["runs"] == ["exact"]
    assert json.loads(file.read_text())["one device"] == {"exact": ""}


def test_a_user_without_a_home_has_no_cache(device, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert trust.caution(*KERNELS, 0, "exact") == ""
    assert device["runs"] == ["exact"]


def test_processes_add_to_the_verdicts_of_each_other(device, tmp_path):
    file = tmp_path / "jca_fast" / "gpu_checks.json"
    assert trust.caution(*KERNELS, 0, "exact") == ""
    file.write_text(
        json.dumps({"one device": {"exact": "", "tf32": "wrong"}, "another": {"exact": "wrong"}})
    )
    assert trust.caution(*KERNELS, 0, "bfloat16") == ""
    kept = {
        "one device": {"exact": "", "tf32": "wrong", "bfloat16": ""},
        "another": {"exact": "wrong"},
    }
    assert json.loads(file.read_text()) == kept
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_check_that_could_not_finish_is_not_kept(device, monkeypatch, tmp_path):
    """Memory may be short only now, so another process checks again."""
    monkeypatch.setattr(parity, "run_checks", lambda *_: 1 / 0)
    with pytest.warns(UserWarning, match="ZeroDivisionError"):
        assert trust.caution(*KERNELS, 0, "exact")
    assert not (tmp_path / "jca_fast" / "gpu_checks.json").exists()
    assert trust.report(*KERNELS, 0)["exact"].startswith("not used: its self-check raised")


def test_threads_wait_for_one_check(device, monkeypatch):
    def slow(cases, tier, where, launchers):
        device["runs"].append(tier)
        time.sleep(0.05)
        return [result(1e-7)]

    monkeypatch.setattr(parity, "run_checks", slow)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: trust.caution(*KERNELS, 0, "exact"), range(4))) == [""] * 4
    assert device["runs"] == ["exact"]


@contextlib.contextmanager
def having(setter, value, before):
    """A setting of the whole process within a context."""
    setter(value)
    try:
        yield
    finally:
        setter(before)


SURROUNDINGS = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "grad mode": torch.enable_grad,
    "a default device": lambda: torch.device("meta"),
    "a default dtype": lambda: having(torch.set_default_dtype, torch.float64, torch.float32),
    "fake tensors": FakeTensorMode,
    "high precision": lambda: precision("tf32"),
    "deterministic mode": lambda: having(torch.use_deterministic_algorithms, True, False),
}


def settings() -> list:
    modes = [
        torch.are_deterministic_algorithms_enabled(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
    ]
    return [torch.backends.cuda.matmul.fp32_precision, *modes, *torch.get_rng_state().tolist()]


@pytest.fixture
def real_check(device, monkeypatch):
    """The self-check itself, of plain PyTorch on the CPU; ``runs`` gets the numbers it finds."""

    def checks(cases, tier, where, launchers):
        assert not torch.are_deterministic_algorithms_enabled()
        found = run_checks(parity.QUICK[:1], tier, "cpu", reference)
        device["runs"].append([(r.error, r.baseline) for r in found])
        return found

    monkeypatch.setattr(parity, "run_checks", checks)
    return device


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_the_check_finds_the_same_in_all_surroundings_and_leaves_them_as_they_were(
    real_check, name
):
    assert trust.caution(*KERNELS, 0, "exact") == ""
    trust._DECIDED.clear()
    trust._path().unlink()
    with SURROUNDINGS[name]():
        before = settings()
        assert trust.caution(*KERNELS, 0, "exact") == ""
        assert settings() == before
    first, second = real_check["runs"]
    assert first == second


def test_the_check_runs_while_vmap_forbids_random_numbers(real_check):
    assert torch.func.vmap(lambda x: x + len(trust.caution(*KERNELS, 0, "exact")))(
        torch.zeros(3)
    ).tolist() == [
        0,
        0,
        0,
    ]


def test_cautions_move_auto_to_the_next_backend_but_not_an_explicit_request(monkeypatch):
    monkeypatch.delenv("JCA_FAST_BACKEND", raising=False)
    tensor, found = torch.zeros(1, 1, 1), ["its self-check failed"]
    row = replace(
        backends.find("triton"),
        reasons=lambda op, tensors: [],
        cautions=lambda op, tensors: found,
    )
    monkeypatch.setattr(backends, "BACKENDS", (row, backends.find("reference")))
    assert backends.choose("tanh_attention", "auto", [tensor]) == "reference"
    assert backends.choose("tanh_attention", "triton", [tensor]) == "triton"
    assert "its self-check failed" in backends.explain(tensor)
    found.clear()
    assert backends.choose("tanh_attention", "auto", [tensor]) == "triton"


@pytest.mark.parametrize("passed", [False, True])
def test_auto_takes_cuda_kernels_before_triton_where_their_own_check_passed(
    device, monkeypatch, passed
):
    """A recorded run of Triton's is none of theirs; an op that they lack goes to Triton."""
    monkeypatch.delenv("JCA_FAST_BACKEND", raising=False)
    monkeypatch.setattr(trust, "VERIFIED", frozenset({("triton", "sm90", "exact")}))
    monkeypatch.setattr(trust, "_key", lambda module, index: f"{module} on one device")
    device["errors"] = [1e-7 if passed else 1.0]

    def reasons(name):
        return lambda op, t: ["no kernel"] * (name == "cuda" and op != "tanh_attention")

    rows = (replace(backends.find(n), reasons=reasons(n)) for n in ("cuda", "triton", "reference"))
    monkeypatch.setattr(backends, "BACKENDS", tuple(rows))
    tensors = [torch.zeros(1, 1, 1)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert backends.choose("tanh_attention", "auto", tensors) == ("triton", "cuda")[passed]
    assert len(caught) == (not passed)
    assert backends.choose("joint_affinity", "auto", tensors) == "triton"
    assert device["runs"] == ["exact"]


RECORDED = {("tanh_attention", "sm90", "exact"): ((100, "cuda"), (1000, "triton"))}


@pytest.mark.parametrize(
    ("op", "dtype", "elements", "chosen"),
    [
        ("tanh_attention", torch.float32, 1, "cuda"),
        ("tanh_attention", torch.float32, 999, "cuda"),
        ("tanh_attention", torch.float32, 1000, "triton"),
        ("tanh_attention", torch.bfloat16, 1000, "cuda"),
        ("joint_affinity", torch.float32, 1000, "cuda"),
    ],
)
def test_auto_takes_what_recorded_runs_show_to_be_the_fastest(
    monkeypatch, op, dtype, elements, chosen
):
    """By architecture, tier and size; without a record the order of the table."""
    monkeypatch.delenv("JCA_FAST_BACKEND", raising=False)
    monkeypatch.setattr(recorded, "FASTEST", RECORDED)
    monkeypatch.setattr(recorded, "device_class", lambda index: "sm90")
    cautions = []
    rows = (
        replace(backends.find(n), reasons=lambda op, t: [], cautions=lambda op, t: cautions)
        for n in ("cuda", "triton", "reference")
    )
    monkeypatch.setattr(backends, "BACKENDS", tuple(rows))
    tensor = SimpleNamespace(
        is_cuda=True, device=torch.device("cuda", 0), dtype=dtype, shape=(elements,),
        numel=lambda: elements,
    )  # fmt: skip
    assert backends.choose(op, "auto", [tensor]) == chosen
    assert re.search(rf"{chosen} +chosen", backends.explain(tensor, op=op))
    assert backends.choose(op, "auto", [torch.zeros(elements)]) == "cuda"


def test_a_faster_backend_that_is_not_trusted_is_not_taken(monkeypatch):
    monkeypatch.delenv("JCA_FAST_BACKEND", raising=False)
    monkeypatch.setattr(backends, "fastest", lambda op, tensors: "triton")
    rows = (
        replace(
            backends.find(n),
            reasons=lambda op, t: [],
            cautions=lambda op, t, n=n: ["its self-check failed"] * (n == "triton"),
        )
        for n in ("cuda", "triton", "reference")
    )
    monkeypatch.setattr(backends, "BACKENDS", tuple(rows))
    assert backends.choose("tanh_attention", "auto", [torch.zeros(1)]) == "cuda"


def test_the_fastest_backend_is_a_constant_of_a_compiled_graph(monkeypatch):
    monkeypatch.setattr(recorded, "FASTEST", RECORDED)
    monkeypatch.setattr(recorded, "device_class", lambda index: "sm90")

    @torch.compile(backend="eager", fullgraph=True)
    def call(x):
        return x + len(recorded._recorded("tanh_attention", 0, torch.float32))

    assert call(torch.zeros(1)).item() == len(RECORDED["tanh_attention", "sm90", "exact"])


def test_reasons_name_what_is_wrong():
    words = " ".join(TRITON.reasons("tanh_attention", [torch.zeros(1, 1, 1, dtype=torch.float64)]))
    assert "runs on CUDA tensors, got cpu" in words
    assert "got torch.float64" in words
    layer = [torch.zeros(1, 2, 3)] * 13 + [torch.zeros(2, 2)] * 4 * 13
    assert "up to 12 modalities, got 13" in " ".join(CUDA.reasons("joint_coattention", layer))
    assert "modalities" not in " ".join(TRITON.reasons("joint_coattention", layer))
    assert "8192 channels" in " ".join(TRITON.reasons("visual_reduction", [torch.zeros(1, 9000)]))
    far = torch.zeros(1).expand(1, 1, 1).as_strided((1, 2, 1), (0, 0, 1))
    assert "2^31" not in " ".join(TRITON.reasons("tanh_attention", [far]))
    meta = torch.empty_strided((1, 2, 1), (1, 2**31, 1), device="meta")
    assert "2^31" in " ".join(TRITON.reasons("tanh_attention", [meta]))


def test_results_too_large_to_address_are_refused_although_the_inputs_are_small():
    def words(op, *shapes):
        return " ".join(TRITON.reasons(op, [torch.empty(shape, device="meta") for shape in shapes]))

    rows = 2**16
    for op in ("tanh_attention", "joint_affinity"):
        shapes = (
            [(1, rows, 1), (1, 1, 1), (1, 1, rows)]
            if op == "tanh_attention"
            else [(1, rows, 1)] * 2
        )
        assert "2^31" in words(op, *shapes)
        assert "2^31" not in words(op, *((b, m // 8, n // 4 or 1) for b, m, n in shapes))
    expanded = torch.empty(1, 1, 1, device="meta").expand(1, rows, rows)  # its gradient is not
    assert "2^31" in " ".join(
        TRITON.reasons("visual_reduction", [torch.empty(1, rows, device="meta"), expanded])
    )


@pytest.mark.parametrize(
    ("setting", "tier"), [("tf32", "tf32"), ("ieee", "exact"), ("none", "exact")]
)
def test_the_tier_follows_the_precision_settings_of_newer_torch(monkeypatch, setting, tier):
    matmul = torch.backends.cuda.matmul
    monkeypatch.setattr(trust, "caution", lambda backend, module, index, tier: tier)
    change, before = partial(setattr, matmul, "fp32_precision"), matmul.fp32_precision
    with having(change, setting, before):
        assert TRITON.cautions("tanh_attention", [torch.zeros(1)]) == [tier]


@pytest.mark.parametrize(
    ("name", "tier"), [("highest", "exact"), ("high", "tf32"), ("medium", "tf32")]
)
def test_the_tier_follows_float32_matmul_precision(monkeypatch, name, tier):
    monkeypatch.setattr(trust, "caution", lambda backend, module, index, tier: tier)
    with having(torch.set_float32_matmul_precision, name, "highest"):
        assert TRITON.cautions("tanh_attention", [torch.zeros(1)]) == [tier]


@pytest.mark.parametrize("op", [tanh_attention, released_attention])
def test_cpu_tensors_are_refused_by_name_and_served_by_another_backend(op):
    tensors = [torch.ones(1, 3, 3)] * 3
    with pytest.raises(
        RuntimeError, match=r"'triton' cannot run \w+: it runs on CUDA tensors, got cpu"
    ):
        op(*tensors, 0.5, backend="triton")
    torch.testing.assert_close(op(*tensors, 0.5), op(*tensors, 0.5, backend="reference"))


def test_verify_says_that_there_is_no_device(capsys):
    from jca_fast.cli import main

    if torch.cuda.is_available():
        pytest.skip("there is a device")
    assert main(["verify"]) == 2
    assert "no CUDA device found" in capsys.readouterr().err


def test_the_choice_is_a_constant_of_a_compiled_graph(monkeypatch):
    """On a GPU the choice runs while a graph is traced, so it must not break the graph."""
    decided = {("triton", 0, "tf32"): "a caution", ("triton", 0, "exact"): ""}
    monkeypatch.setattr(trust, "_DECIDED", decided)
    monkeypatch.setattr(trust, "device_class", lambda index: "sm90")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(launchers, "_problem", lambda module, op: "")
    monkeypatch.setattr(gpu, "_too_old", lambda index, needed: "")

    @torch.compile(backend="eager", fullgraph=True)
    def call(x):
        words = TRITON.cautions("tanh_attention", (x,)) + TRITON.reasons("tanh_attention", (x,))
        return x + len(words) + len(TRITON.problem("tanh_attention", 0))

    assert call(torch.zeros(1, 1, 1)).item() == 1  # the one reason: a CPU tensor


@pytest.mark.parametrize("name", [n for n in backends.names() if backends.find(n).module])
def test_an_op_without_a_kernel_is_refused_and_auto_goes_on(name, monkeypatch):
    row = backends.find(name)
    monkeypatch.setattr(backends, "BACKENDS", (row, backends.find("reference")))
    assert launchers.problem(row.module, "softmax_attention") in (
        "it has no kernel for softmax_attention",
        launchers.problem(row.module, "tanh_attention"),
    )
    assert backends.choose("softmax_attention", "auto", (torch.zeros(1, 1, 1),)) == "reference"


def test_the_dispatcher_runs_the_launchers_that_a_check_judges(backend):
    """The self-check calls launchers; users reach them through ``torch.ops``."""
    row, case = backends.find(backend), parity.QUICK[0]
    q, k, v, _ = parity.tensors_of(case, torch.float32)
    direct = launchers.load(row.module).tanh_attention(q, k, v, 0.2, 0.0, None)
    assert torch.equal(library.overload("tanh_attention", backend)(q, k, v, 0.2, 0.0, None), direct)


def test_the_scope_of_a_verdict_names_device_and_driver(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    monkeypatch.setattr(trust, "device_class", lambda index: "sm90")
    trust._key.cache_clear()
    key = trust._key("jca_fast.kernels.cpu", 3)
    assert re.search(r" \| GPU 3 \| sm90 \| driver \d+ \| ", key)
    trust._key.cache_clear()
