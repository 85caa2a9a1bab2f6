"""Too little memory: an error, never a crash of the process inside a library."""

import subprocess
import sys

import pytest

from jca_fast import cli
from jca_fast.memory import require

READER = """
import os, resource, sys
from jca_fast.data.files import Table, write_h5
import numpy as np
folder = sys.argv[1]
write_h5(f"{folder}/labels.h5", avadataset=np.ones((4, 3, 2)))
Table(folder, "labels")[0]
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
found = set()
for room in range(0, 40 * 2**20, 2**18):
    pid = os.fork()
    if not pid:
        resource.setrlimit(resource.RLIMIT_AS, (size + room, resource.RLIM_INFINITY))
        try:
            Table(folder, "labels")[0]
        except MemoryError:
            os._exit(3)
        except ValueError as error:
            os._exit(3 if "memory" in str(error) else 4)
        os._exit(0)
    found.add(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(sorted(found))
"""


def test_hdf5_is_not_called_without_memory(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", READER, tmp_path], capture_output=True, text=True, check=True
    )
    assert run.stdout == "[0, 3]\n"


def test_the_missing_memory_is_told():
    require(1, "a byte")
    with pytest.raises(MemoryError, match=r"the work needs [0-9]+ MiB more than this process may"):
        require(2**62, "the work")


COMMAND = """
import resource
from jca_fast.cli import main
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 100 * 2**20, resource.RLIM_INFINITY))
raise SystemExit(main(["data", "labels", "none.txt", "-o", "labels.h5"]))
"""


def test_a_command_without_memory_does_not_start(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", COMMAND], capture_output=True, text=True, cwd=tmp_path
    )
    told = "out of memory: every command needs 704 MiB more than this process may allocate"
    assert run.stderr == f"jca-fast data: error: {told}\n"
    assert run.returncode == 2


PRODUCT = """
import resource, sys
import numpy as np
from jca_fast.cli import main
main(["data", "labels", "none.txt", "-o", "labels.h5"])
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 2**22, resource.RLIM_INFINITY))
print((np.ones((3, 3)) @ np.eye(3)).sum())
"""


def test_a_command_can_multiply_matrices_when_no_memory_is_left(tmp_path):
    """OpenBLAS ends the process if it gets no memory at the first product."""
    run = subprocess.run(
        [sys.executable, "-c", PRODUCT], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.stdout == "9.0\n", run.stderr


def test_numpy_is_not_called_without_memory():
    """The second child has memory for the check, but the first has none."""
    code = """
import os, resource
import numpy
from jca_fast.memory import reserve_blas
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
for room in (2**24, 2**27):
    pid = os.fork()
    if not pid:
        resource.setrlimit(resource.RLIMIT_AS, (size + room, resource.RLIM_INFINITY))
        try:
            reserve_blas()
        except MemoryError:
            os._exit(3)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "3\n0\n"


def test_an_error_that_python_lost_is_one_line(monkeypatch, capsys):
    """At the limit of memory, imports of Python end in SystemError."""

    def fail(count):
        raise SystemError("error return without exception set")

    monkeypatch.setattr(cli, "set_threads", fail)
    assert cli.main(["params"]) == 2
    assert capsys.readouterr().err.startswith("jca-fast params: error: out of memory: ")
