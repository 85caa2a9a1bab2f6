"""The GPU measurement script: failures, the files that a failed run leaves, and a dry run of one
tier.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu import assembler, checks, measure, plan, run, store, summary
from benchmarks.gpu.processes import Site
from jca_fast.ops.tiers import float32_tier, precision

MACHINE = {
    "time": "2030-01-02T03:04:05",
    "architecture": "sm90",
    "device": "a device",
    "torch": "2",
    "triton": "3",
    "commit": "c0ffee",
    "tree": "clean",
}


@pytest.mark.parametrize(
    ("code", "output", "words"),
    [
        (0, "== 3 passed in 1.0s ==", ""),
        (0, "== 2 passed, 1 skipped in 1.0s ==", "2 of 3 tests passed: 2 passed, 1 skipped"),
        (0, "== 3 passed, 1 skipped in 1.0s ==", "3 of 3"),
        (1, "== 1 failed, 2 passed in 1.0s ==", "2 of 3 tests passed: 1 failed"),
        (0, "== 2 passed, 1 deselected in 1.0s ==", "2 of 3"),
        (-11, "", "0 of 3 tests passed: no summary"),
        (None, "not measured: ended after 5 s", "not measured: ended after 5 s"),
    ],
)
def test_only_tests_that_all_passed_count(code, output, words):
    problem = checks.test_problem(code, output, 3)
    assert words in problem
    assert bool(problem) == bool(words)


def test_compile_caches_may_be_cut_off_and_leave_time_for_the_last_tests(monkeypatch, tmp_path):
    site, seen = Site(tmp_path), []
    monkeypatch.setattr(
        site, "run", lambda name, command, reserve: seen.append(reserve) or (None, "")
    )
    found = [check() for check in checks.fills(site, plan.Options()).values()]
    assert {check["problem"] for check in found} == {""}
    assert set(seen) == {checks.RESERVE}
    monkeypatch.setattr(site, "run", lambda name, command, reserve: (1, "it broke"))
    assert (
        checks.fills(site, plan.Options())["compile visual all all"]()["problem"]
        == "exit status 1: it broke"
    )


def test_tests_are_dealt_out_and_those_with_a_clock_run_alone(monkeypatch, tmp_path):
    names = [f"tests/test_x.py::test_{i}" for i in range(10, 30)]
    clock, elsewhere = (
        "tests/test_x.py::test_y_in_two_seconds[exact]",
        "tests/test_x.py::" + list(checks.ELSEWHERE)[1],
    )
    site = Site(tmp_path)
    monkeypatch.setattr(
        site, "run", lambda *_: (0, "\n".join([*names, clock, elsewhere, "10 tests collected"]))
    )
    monkeypatch.setattr(checks, "_shard", lambda site, name, ids: ids)
    dealt, alone = checks.tests(site, plan.Options())
    assert sorted(name for check in dealt.values() for name in check()) == names
    assert len(dealt) == checks.SHARDS
    assert [check() for check in alone.values()] == [[clock]]
    monkeypatch.setattr(site, "run", lambda *_: (2, "1 error"))
    assert "no tests were collected" in checks.tests(site, plan.Options())[0]["tests"]()["problem"]


def test_a_missing_sanitizer_is_a_failure(monkeypatch, tmp_path):
    monkeypatch.setattr(checks, "sanitizer", lambda *_: [str(tmp_path / "compute-sanitizer")])
    found = checks.sanitize(Site(tmp_path), "memcheck", "exact")
    assert found["problem"].startswith("not measured")
    assert "compute-sanitizer" in found["problem"]
    assert checks.planted(Site(tmp_path), "memcheck")["problem"].startswith("not measured")


def test_what_sanitizers_say(monkeypatch, tmp_path):
    clean = "all checks passed\n========= ERROR SUMMARY: 0 errors"
    ours = (
        "========= Uninitialized read of size 4 bytes\n=========     at "
        "joint_coattention_forward_kernel+0x10\n========= ERROR SUMMARY: 1"
    )
    theirs = ours.replace(
        "joint_coattention_forward_kernel", "void at::native::vectorized_elementwise_kernel<4>"
    )
    assert checks.sanitizer_problem("memcheck", 0, clean) == ""
    assert "never said" in checks.sanitizer_problem("memcheck", 0, "all checks passed")
    assert "exit status 9" in checks.sanitizer_problem(
        "memcheck", 9, "========= ERROR SUMMARY: 2 errors"
    )
    assert "exit status 1" in checks.sanitizer_problem("initcheck", 1, "1 checks failed")
    assert "1 reports, first: at joint_coattention_forward_kernel" in checks.sanitizer_problem(
        "initcheck", 0, ours
    )
    assert checks.sanitizer_problem("initcheck", 0, theirs) == ""
    assert "kns=joint_coattention_forward_kernel" in checks.sanitizer(
        "memcheck", checks.kernel_names()
    )
    assert "--kernel-name" not in checks.sanitizer("initcheck", checks.kernel_names())
    site = Site(tmp_path)
    monkeypatch.setattr(site, "run", lambda *_, **__: (0, clean))
    assert "planted fault was not found" in checks.planted(site, "memcheck")["problem"]


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Run phases made of little programs; returns the exit status and the record."""
    monkeypatch.setattr(store, "machine", lambda dry, commit="": MACHINE)
    monkeypatch.setattr(Site, "lay_out", lambda self: self.folder.mkdir(exist_ok=True))
    monkeypatch.setattr(run, "end_with_us", lambda site: None)

    def start(budgets, **programs):
        monkeypatch.setattr(plan, "BUDGETS", budgets)
        monkeypatch.setattr(
            plan,
            "rows",
            lambda phase, options: [plan.Row("one", "exact", 1), plan.Row("two", "exact", 1)],
        )
        monkeypatch.setattr(
            Site,
            "module",
            lambda self, name, phase, flag, result, *_: [
                sys.executable,
                "-c",
                programs[phase],
                result,
            ],
        )
        code = run.measure(Site(tmp_path / "site"), plan.Options(), list(budgets), tmp_path)
        return code, json.loads((tmp_path / "gpu_sm90_2030-01-02T030405.json").read_text())

    return start


ONE = "import json, sys; json.dump({'rows': [{'name': 'one'}]}, open(sys.argv[1], 'w'));"
BOTH = (
    "import json, sys; json.dump({'rows': [{'name': 'one'}, {'name': 'two'}]}, "
    "open(sys.argv[1], 'w'))"
)


def test_a_run_that_measured_everything_passes(measured, monkeypatch, capsys):
    monkeypatch.setattr(summary, "table", lambda record: "the table")
    code, record = measured({"kernels": 60, "training": 60}, kernels=BOTH, training=BOTH)
    assert (code, record["passed"], record["complete"], record["failures"]) == (0, True, True, [])
    assert "the table" in capsys.readouterr().out


def test_a_deadline_leaves_what_is_missing_not_measured(measured, monkeypatch):
    monkeypatch.setattr(summary, "table", lambda record: "")
    code, record = measured(
        {"kernels": 2, "training": 0.0}, kernels=ONE + "import time; time.sleep(60)", training=BOTH
    )
    assert code == 1
    assert record["phases"]["kernels"]["rows"] == [{"name": "one"}]
    assert [text for text in record["failures"] if "kernels" in text] == [
        "kernels: not measured: ended after 2 s",
        "kernels: two: not measured",
    ]
    assert "training: two: not measured" in record["failures"]


def test_a_case_that_failed_and_a_crash_make_a_run_fail(measured, monkeypatch):
    monkeypatch.setattr(summary, "table", lambda record: "")
    broken = BOTH.replace("{'name': 'two'}", "{'name': 'two', 'failed': 'it broke'}")
    code, record = measured(
        {"kernels": 60, "training": 60}, kernels=broken, training=ONE + "sys.exit(3)"
    )
    assert (code, record["passed"]) == (1, False)
    assert record["failures"][0] == "kernels: two: it broke"
    assert "training: exit status 3: it printed nothing" in record["failures"]
    assert "training: two: not measured" in record["failures"]


def test_each_phase_is_on_disk_before_the_next(monkeypatch, tmp_path, measured):
    monkeypatch.setattr(summary, "table", lambda record: "")
    seen = []

    def phase(name, site, options):
        files = list(tmp_path.glob("*.json"))
        seen.append([json.loads(f.read_text())["failures"] for f in files])
        if name == "kernels":
            raise RuntimeError("it broke")
        return {"failures": []}

    monkeypatch.setattr(run, "run_phase", phase)
    with pytest.raises(RuntimeError):
        measured({"checks": 9, "kernels": 9})
    assert seen == [[], [["kernels: not measured"]]]
    monkeypatch.undo()
    monkeypatch.setattr(run, "timed", lambda *_: phase("kernels", None, None))
    assert run.run_phase("kernels", Site(tmp_path), plan.Options()) == {
        "failures": ["RuntimeError: it broke"]
    }


def test_a_record_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    store.write(path, {"first": 1})
    with pytest.raises(TypeError):
        store.write(path, {"second": object()})

    def full(self, text, encoding=None):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="disk full"):
        store.write(path, {"third": 3})
    assert store.read(path) == {"first": 1}


def test_ending_a_run_ends_its_processes(tmp_path):
    site, found = Site(tmp_path), []
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    thread = threading.Thread(target=lambda: found.append(site.run("sleep", sleep)))
    thread.start()
    while not site.running:
        time.sleep(0.01)
    site.end()
    thread.join(10)
    assert found[0][0] == -9
    assert site.run("sleep", sleep)[0] is None


def test_refuses_without_what_it_needs(monkeypatch, capsys):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(run, "NEEDED", ("torch",))
    assert run.main([]) == 2
    assert "no CUDA device found: use --dry-run" in capsys.readouterr().err
    monkeypatch.setattr(run, "NEEDED", ("torch", "a_package_that_is_not_there"))
    monkeypatch.setattr(run, "NOT_NEEDED", ("another_that_is_not_there",))
    assert run.main(["--dry-run"]) == 2
    captured = capsys.readouterr()
    assert "cannot measure: a_package_that_is_not_there is not installed" in captured.err
    assert "not installed: another_that_is_not_there; this script does without" in captured.out


@pytest.mark.parametrize(
    "arguments", [["--only", "layers,lunch"], ["--tiers", "float8", "--dry-run"]]
)
def test_refuses_what_it_does_not_know(arguments, capsys):
    with pytest.raises(SystemExit):
        run.main(arguments)
    assert arguments[1].split(",")[-1] in capsys.readouterr().err


def test_dry_run_of_one_tier(tmp_path):
    pytest.importorskip("triton", reason="triton is not installed")
    command = [
        sys.executable,
        "benchmarks/gpu/run.py",
        "--dry-run",
        "--tiers",
        "float16",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(
        [*command, "--only", "kernels,layers,counters"],
        cwd=store.ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    (path,) = tmp_path.glob("gpu_dry-run_*.json")
    record = json.loads(path.read_text())
    assert (done.returncode, record["failures"]) == (0, []), (
        done.stdout + path.with_suffix(".log").read_text()
    )
    assert record["passed"]
    assert not record["complete"]
    (row,) = record["phases"]["layers"]["rows"]
    assert row["repeats"]
    assert row["error"]["fused"] <= row["bound"]
    assert row["forward+backward"]["graph"]["eager"]["ratio"]["median"] > 0
    assert "DRY RUN by the interpreter in tiers float16" in done.stdout
    assert done.stdout.rstrip().splitlines()[-2].startswith("PASSED")


def test_takes_the_assembler_of_the_toolkit_where_tritons_is_too_old(monkeypatch, tmp_path):
    own = SimpleNamespace(version="12.8")
    kernels = SimpleNamespace(problem=lambda: "ptxas 12.8 compiles the kernels wrongly")
    knobs = SimpleNamespace(nvidia=SimpleNamespace(ptxas=own))
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(knobs=knobs))
    monkeypatch.setitem(sys.modules, "jca_fast.kernels.triton", kernels)
    monkeypatch.setattr(
        assembler.shutil, "which", lambda name, path=None: path and f"{path}/{name}"
    )
    for name in ("TRITON_PTXAS_PATH", "TRITON_INTERPRET"):
        monkeypatch.delenv(name, raising=False)
    assembler.choose()
    found = "/usr/local/cuda/bin/ptxas"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    passed_on = Site(tmp_path).environment()
    assert passed_on["TRITON_PTXAS_PATH"] == found
    assert "TRITON_INTERPRET" not in passed_on
    monkeypatch.setenv("TRITON_PTXAS_PATH", "/mine")
    assembler.choose()
    assert Site(tmp_path).environment()["TRITON_PTXAS_PATH"] == "/mine"


@pytest.mark.parametrize("tier", plan.TIERS)
def test_every_tier_is_one_that_max_autotune_takes(tier):
    def measured(row):
        with precision(row.tier):
            return {"setting": torch.get_float32_matmul_precision(), "tier": float32_tier()}

    try:
        found = measure.attempt(measured, plan.Row("a row", tier, 1))
    finally:
        torch.set_float32_matmul_precision("highest")
    tf32 = tier == "tf32"
    assert found == {"setting": "high" if tf32 else "highest", "tier": "tf32" if tf32 else "exact"}
