"""A new backend is one module and one row; every other part uses it without an edit."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from jca_fast import doctor
from jca_fast.ops import backends
from jca_fast.ops.backends.parity import QUICK
from jca_fast.ops.library import OPS, SCHEMAS

ROOT = Path(__file__).resolve().parents[1]

KERNELS = '''
"""The kernels of a toy backend: plain PyTorch, called by another name."""
from jca_fast.ops import reference

CALLS = []

def problem():
    return ""

def describe():
    return "toy 1.0"

def __getattr__(name):
    if name not in LAUNCHERS:
        raise AttributeError(name)

    def launch(*args):
        CALLS.append(name)
        result = getattr(reference, name)(*args)
        if isinstance(result, (tuple, list)):
            return type(result)(t.contiguous() for t in result)
        return result.contiguous()

    return launch
'''
COMMAND = "import sys, toy_row; from jca_fast.cli import main; sys.exit(main(sys.argv[1:]))"


def checks_of_the_ops(names: str) -> tuple[str, ...]:
    """Arguments of Python: the tests of every op on the toy backend that have one of ``names``."""
    return (
        *("-m", "pytest", "-q", "-p", "toy_row", "-p", "no:cacheprovider"),
        *("-k", f"toy and ({names}) and not float16"),
        *("tests/test_tanh_attention.py", "tests/test_layer_ops.py", "tests/test_contract.py"),
    )


PARTIAL = ("tanh_attention", "tanh_attention_backward", "joint_affinity")
"""The launchers of a toy with one op, and another whose backward is missing."""
LACKING = {op: next(n for n in (op, f"{op}_backward") if n not in PARTIAL) for op in OPS[1:]}
"""The ops that it lacks, and the first launcher that is missing for each."""

ROW = """
from jca_fast.ops import backends
from jca_fast.ops.backends.parity import QUICK

row = backends._on_cpu("toy", "toy_kernels", "a toy on CPU tensors")
backends.BACKENDS = (row, *backends.BACKENDS)
"""


@pytest.fixture
def start(tmp_path):
    """``start(launchers)``: how to run Python where the table has a toy backend with them."""

    def install(launchers):
        (tmp_path / "toy_kernels.py").write_text(f"{KERNELS}\nLAUNCHERS = {tuple(launchers)}\n")
        (tmp_path / "toy_row.py").write_text(ROW)
        return run

    def run(*arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return install


@pytest.fixture
def python(start):
    """Run Python where the table has a backend with every op; returns what was printed."""
    return start(SCHEMAS)


@pytest.fixture
def partial(start):
    """Run Python where the table has a backend that lacks ops; returns what was printed."""
    return start(PARTIAL)


def test_choose_explain_and_call_use_it(python):
    printed = python(
        "-c",
        "import toy_row, toy_kernels, torch; from jca_fast import explain, tanh_attention\n"
        "from jca_fast.ops.backends import choose\n"
        "q = torch.randn(2, 3, 4); print(choose('tanh_attention', 'auto', (q, q, q)))\n"
        "print(explain(q, q, q)); tanh_attention(q, q, q, 0.5); print(toy_kernels.CALLS)",
    )
    assert printed.startswith("toy\n")
    assert re.search(r"^  toy +chosen$", printed, re.MULTILINE)
    assert re.search(r"^  reference +can run, not first choice$", printed, re.MULTILINE)
    assert "['tanh_attention']" in printed


def test_doctor_shows_it(python):
    printed = python("-c", "import toy_row; from jca_fast.cli import main; main(['doctor'])")
    assert re.search(r"toy\n +is +a toy on CPU tensors\n +kernels +toy 1.0\n", printed)
    assert "runs every op" in printed


def test_verify_checks_it(python):
    printed = python("-c", COMMAND, "verify", "--backend", "toy", "--quick")
    rows = [line for line in printed.splitlines() if line.startswith("toy ")]
    assert {line.split()[2] for line in rows} == set(OPS)
    assert len(rows) == 3 * len(QUICK) * 3  # tiers of the CPU, cases, comparisons
    assert printed.endswith("all checks passed\n")


def test_the_checks_of_the_ops_run_on_it(python):
    printed = python(*checks_of_the_ops("no_sample or concat or opcheck"))
    passed = re.search(r"^(\d+) passed", printed, re.MULTILINE)
    assert passed is not None
    assert int(passed[1]) > 20


def test_a_backend_that_lacks_ops_serves_those_that_it_has(partial):
    printed = partial(
        "-c",
        "import toy_row, torch; from jca_fast.functional import joint_affinity\n"
        "from jca_fast.ops.backends import choose, explain; q = torch.randn(2, 3, 4)\n"
        "for op in ('tanh_attention', 'joint_affinity', 'visual_reduction'):\n"
        "    print(op, choose(op, 'auto', (q, q, q)) == 'toy')\n"
        "print(explain(q, q, op='visual_reduction'))\n"
        "for call in (lambda: joint_affinity(q, q, q[0] @ q[0].mT, backend='toy'),\n"
        "             lambda: torch.ops.jca_fast.visual_reduction.toy(q[:, 0], q, 0.5)):\n"
        "    try: call()\n"
        "    except RuntimeError as error: print(error)\n",
    )
    assert printed.startswith("tanh_attention True\njoint_affinity False\nvisual_reduction False\n")
    assert re.search(
        r"^  toy +cannot run: it has no kernel for visual_reduction$", printed, re.MULTILINE
    )
    assert (
        "backend 'toy' cannot run joint_affinity: it has no kernel for joint_affinity_backward"
        in (printed)
    )
    assert "backend 'toy' has no kernel for visual_reduction" in printed


def test_doctor_and_verify_name_the_ops_that_a_backend_lacks(partial):
    printed = partial("-c", COMMAND, "doctor")
    for op, kernel in LACKING.items():
        assert f"{op} (it has no kernel for {kernel})" in printed
    printed = partial("-c", COMMAND, "verify", "--backend", "toy", "--quick")
    checked = [line for line in printed.splitlines() if re.match(r"toy +(exact|\w*float16)", line)]
    assert len(checked) == 3 * 3
    assert f"has no kernel for {', '.join(LACKING.values())}: not checked" in printed
    assert printed.endswith("all checks passed\n")


def test_the_checks_of_the_ops_skip_the_ops_that_a_backend_lacks(partial):
    printed = partial(*checks_of_the_ops("no_sample or concat"))
    counts = re.search(r"^(\d+) passed, (\d+) skipped", printed, re.MULTILINE)
    assert counts is not None
    assert int(counts[1]) > 5
    assert int(counts[2]) > 5


BROKEN = {
    "raises": "raise RuntimeError('the driver is too old')",
    "has no report": "def problem():\n    return ''",
    "has another error": "def problem():\n    raise OSError('no device file')",
    "does not compile": "def (",
}
"""Modules of a toy backend that cannot be used."""


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_backend_leaves_the_others(fault, tmp_path, monkeypatch):
    module = f"toy_that_{fault.replace(' ', '_')}"
    (tmp_path / f"{module}.py").write_text(BROKEN[fault])
    monkeypatch.syspath_prepend(tmp_path)
    row = backends._on_cpu("toy", module, "a toy on CPU tensors")
    monkeypatch.setattr(backends, "BACKENDS", (row, *backends.BACKENDS))
    q = torch.zeros(2, 3, 4)
    assert backends.choose("tanh_attention", "auto", (q, q, q)) != "toy"
    assert re.search(r"^  toy +cannot run: \S", backends.explain(q, q, q), re.MULTILINE)
    report = doctor.collect()["backends"]
    assert re.match(rf"{module} cannot be used: \w+Error: ", report["toy"]["kernels"])
    assert report["reference"]["cpu"] == "runs every op"
