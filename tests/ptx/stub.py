"""Launches on a machine without a GPU: ``stub_driver.c`` in place of libcuda records them."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from jca_fast.kernels.cuda import native


class Launch(ctypes.Structure):
    """``Launch`` of stub_driver.c."""

    _fields_ = [
        ("kernel", ctypes.c_char * 64),
        ("grid", ctypes.c_uint32 * 3),
        ("threads", ctypes.c_uint32),
        ("shared_bytes", ctypes.c_uint32),
        ("argument_bytes", ctypes.c_uint32),
        ("stream", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
        ("arguments", ctypes.c_ubyte * 4096),
    ]


def problem() -> str:
    """Why the stub cannot stand in on this machine; "" where it can."""
    if torch.cuda.is_available():
        return "there is a real driver"
    if not native.library_path().is_file():
        return "the CUDA library is not built"
    return "" if shutil.which("cc") else "no C compiler"


class Driver:
    """The loaded stub, with the ops of the CUDA backend registered on it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="jca_stub")
        self.path = Path(self._folder.name) / "libcuda.so.1"
        source = Path(__file__).parent / "stub_driver.c"
        command = ["cc", "-shared", "-fPIC", "-O1", "-Wl,-soname,libcuda.so.1", str(source)]
        subprocess.run([*command, "-o", str(self.path)], check=True)
        # The library opens libcuda by this name and gets the one that is loaded already.
        self.library = ctypes.CDLL(str(self.path))
        if missing := native.register_with(self.path, "CPU"):
            raise RuntimeError(missing)

    def launches(self) -> list[Launch]:
        """The launches since the last call."""
        count = ctypes.c_int.in_dll(self.library, "stub_count")
        found = (Launch * 64).in_dll(self.library, "stub_launches")[: count.value]
        copies = [Launch.from_buffer_copy(launch) for launch in found]
        count.value = 0
        return copies

    def fail(self, code: int) -> None:
        """Let every launch return ``code``; 0 for success."""
        ctypes.c_int.in_dll(self.library, "stub_failing_call").value = code


driver = functools.cache(Driver)
