"""The cost of importing the package, and the threads that the command line asks for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from jca_fast import cli

COST = """
import sys, time, torch
start = time.process_time()
import jca_fast
for name in jca_fast.__all__:
    getattr(jca_fast, name)
print(time.process_time() - start)
heavy = ("triton", "h5py", "matplotlib", "safetensors", "torch._dynamo", "tensorboard")
assert not [name for name in heavy if name in sys.modules], sorted(sys.modules)
assert not torch.cuda.is_initialized()
"""


def fresh(code, *arguments, **environment):
    known = {k: v for k, v in os.environ.items() if not k.startswith("OMP_")}
    known.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**known, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_takes_at_most_50_ms_more_than_torch(tmp_path):
    """Time of the CPU, all public names loaded, byte code compiled before; the best of five."""
    folder = os.environ.get("PYTHONPYCACHEPREFIX") or str(tmp_path)
    fresh(COST, PYTHONPYCACHEPREFIX=folder)
    times: list[float] = []
    while len(times) < 5 and not (times and times[-1] < 0.05):
        times.append(float(fresh(COST, PYTHONPYCACHEPREFIX=folder)))
    assert times[-1] < 0.05, times


THREADS = """
import os, sys
from jca_fast import cli
parse = cli.build_parser("doctor").parse_args(sys.argv[1:])
assert "torch" not in sys.modules
cli.set_threads(parse.threads)
import torch
print(torch.get_num_threads(), os.environ["OMP_WAIT_POLICY"])
"""


def test_threads_are_set_before_torch_loads():
    assert fresh(THREADS, "doctor", "--threads", "1") == "1 PASSIVE"
    assert fresh(THREADS, "doctor", "--threads", "1", OMP_WAIT_POLICY="ACTIVE") == "1 ACTIVE"


def test_threads_in_a_process_that_has_torch(monkeypatch):
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "")
    before = torch.get_num_threads()
    try:
        cli.set_threads(2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("count", ["0", "-1", "two", "10000"])
def test_odd_numbers_of_threads_are_refused(count, capsys):
    with pytest.raises(SystemExit):
        cli.main(["doctor", "--threads", count])
    assert "expected 1 to 4096" in capsys.readouterr().err


def test_doctor_tells_how_threads_wait():
    code = "from jca_fast.cli import main; main(['doctor'])"
    assert "waiting threads sleep" in fresh(code)
    assert "waiting threads spin" in fresh(code, OMP_WAIT_POLICY="ACTIVE")
