"""Commands with a deadline, in sequence or in parallel, in an environment with this checkout alone.

The package is copied to a separate folder in the layout of an installation, and the native library
is built there. Nothing is installed, and later edits do not affect a run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gpu.assembler import VARIABLE
from benchmarks.gpu.bars import ABSENT
from benchmarks.gpu.store import ROOT

COMPILE_THREADS = 3
"""Compile processes of one torch.compile process: the same number for all, because several fill the
cache at once.
"""


@dataclass
class Site:
    """The copy of the package, the caches beside it, and the deadline of the phase under way."""

    folder: Path
    dry: bool = False
    deadline: float = float("inf")
    log: list[str] = field(default_factory=list)
    running: set[subprocess.Popen[str]] = field(default_factory=set)

    def lay_out(self) -> None:
        """Copy the package anew; keep the caches of earlier runs, so that a part can be repeated
        quickly.
        """
        package = self.folder / "site" / "jca_fast"
        shutil.rmtree(package, ignore_errors=True)
        ignore = shutil.ignore_patterns("__pycache__", "lib")
        shutil.copytree(ROOT / "jca_fast", package, ignore=ignore)
        shutil.copytree(ROOT / "kernels", package / "kernels", ignore=ignore)

    def environment(self, **changes: str) -> dict[str, str]:
        """The environment of every process: the copy, the caches of this run, the assembler, and in
        a dry run the interpreter.
        """
        paths = [
            str(self.folder / "site"),
            str(ROOT),
            *filter(None, [os.environ.get("PYTHONPATH")]),
        ]
        ours = ("JCA_FAST", "TRITON")
        kept = {k: v for k, v in os.environ.items() if k == VARIABLE or not k.startswith(ours)}
        return {
            **kept,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONSAFEPATH": "1",
            "PYTHONUNBUFFERED": "1",
            "TRITON_CACHE_DIR": str(self.folder / "triton"),
            "TORCHINDUCTOR_CACHE_DIR": str(self.folder / "inductor"),
            "TORCHINDUCTOR_COMPILE_THREADS": str(COMPILE_THREADS),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            **({"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"} if self.dry else {}),
            **changes,
        }

    def module(self, name: str, *arguments: str) -> list[str]:
        """The command that runs a module."""
        return [sys.executable, "-m", name, *arguments]

    def run(
        self, name: str, command: list[str], reserve: float = 0, **environment: str
    ) -> tuple[int | None, str]:
        """Exit status and output of a command; status None if it was stopped or could not start.

        It is stopped ``reserve`` seconds before the deadline, to leave time for later steps.
        """
        begin, timeout = time.monotonic(), self.deadline - reserve - time.monotonic()
        if timeout <= 0:
            return None, f"{ABSENT}: its phase had no time left"
        code, output = self._finished(command, self.environment(**environment), min(timeout, 1e6))
        outcome = {0: "done", None: "ENDED"}.get(code, f"exit status {code}")
        print(f"{time.monotonic() - begin:6.1f} s  {outcome}: {name}", flush=True)
        self.log.append(f"== {name}: {outcome}\n$ {' '.join(command)}\n{output}")
        return code, output

    def _finished(
        self, command: list[str], environment: dict[str, str], timeout: float
    ) -> tuple[int | None, str]:
        """Run a command and everything it starts until the timeout."""
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=pipe,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            return None, f"{ABSENT}: {error}"
        self.running.add(process)
        try:
            output = process.communicate(timeout=timeout)[0]
            return process.returncode, output
        except subprocess.TimeoutExpired:
            _end(process)
            return None, f"{process.communicate()[0]}\n{ABSENT}: ended after {timeout:.0f} s"
        finally:
            self.running.discard(process)

    def end(self) -> None:
        """End all processes and start no more: none outlives the script."""
        self.deadline = float("-inf")
        for process in list(self.running):
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and everything it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
