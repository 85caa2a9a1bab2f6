"""A new backend is one module and one row: the whole house then knows it without another edit."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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
    if name not in dir(reference) or name.startswith("_"):
        raise AttributeError(name)

    def launch(*args):
        CALLS.append(name)
        result = getattr(reference, name)(*args)
        if isinstance(result, (tuple, list)):
            return type(result)(t.contiguous() for t in result)
        return result.contiguous()

    return launch
'''

ROW = """
from jca_fast.ops import backends

row = backends._on_cpu("toy", "toy_kernels", "a toy on CPU tensors")
backends.BACKENDS = (row, *backends.BACKENDS)
"""


@pytest.fixture
def python(tmp_path):
    """Run Python where the table has the row of the toy backend; returns what was printed."""
    (tmp_path / "toy_kernels.py").write_text(KERNELS)
    (tmp_path / "toy_row.py").write_text(ROW)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def run(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


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
    code = "import sys, toy_row; from jca_fast.cli import main; sys.exit(main(sys.argv[1:]))"
    printed = python("-c", code, "verify", "--backend", "toy", "--quick")
    rows = [line for line in printed.splitlines() if line.startswith("toy ")]
    assert len(rows) == 3 * 5 * 3  # tiers of the CPU, ops, comparisons
    assert printed.endswith("all checks passed\n")


def test_the_tests_of_the_ops_run_on_it(python):
    files = ("tests/test_tanh_attention.py", "tests/test_layer_ops.py", "tests/test_contract.py")
    chosen = "toy and (no_sample or concat or opcheck) and not float16"
    plugin = ("-m", "pytest", "-q", "-p", "toy_row", "-p", "no:cacheprovider", "-k", chosen)
    printed = python(*plugin, *files)
    passed = re.search(r"^(\d+) passed", printed, re.MULTILINE)
    assert passed is not None
    assert int(passed[1]) > 20
