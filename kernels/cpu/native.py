"""Loading libjca_cpu, which registers its kernels and chooses an instruction set."""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

import torch

ABI_VERSION = 4
"""The ``JCA_ABI_VERSION`` of abi.h that the loaded library must have."""


def library_path() -> Path:
    """Where the build puts the library: jca_fast/lib of the imported package."""
    import jca_fast

    return Path(jca_fast.__file__).parent / "lib" / "libjca_cpu.so"


def torch_path() -> Path:
    """The library of the imported PyTorch that holds its dispatcher and its thread pool."""
    return Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"


@functools.cache
def load() -> tuple[ctypes.CDLL | None, str]:
    """The library and "", or None and the reason why it cannot be used; tried once per process."""
    path = library_path()
    if not path.is_file():
        return None, (
            f"the native library {path.name} is not built "
            "(pip install -e . with a C++ compiler builds it)"
        )
    try:
        library = ctypes.CDLL(str(path))
        reason = _prepare(library)
    except (OSError, AttributeError) as error:
        reason = f"the native library {path.name} cannot be loaded: {error}"
    return (None, reason) if reason else (library, "")


def _prepare(library: ctypes.CDLL) -> str:
    """Check the version, choose the instruction set, register the kernels; "" or why not."""
    if (version := library.jca_abi_version()) != ABI_VERSION:
        return (
            f"the native library has ABI version {version}, this package needs {ABI_VERSION}: "
            "build it again"
        )
    for name in ("status_string", "isa_name", "isa_available", "op_names", "register_ops"):
        getattr(library, f"jca_{name}").restype = ctypes.c_char_p
    library.jca_fma_yardstick.restype = ctypes.c_int64
    library.jca_fma_yardstick.argtypes = [ctypes.c_int64]
    isa = os.environ.get("JCA_FAST_ISA", "")
    if library.jca_isa_select(isa.encode()):
        available = library.jca_isa_available().decode() or "none"
        return (
            f"JCA_FAST_ISA={isa!r} is not among the instruction sets of this machine: {available}"
        )
    return _register(library)


def _register(library: ctypes.CDLL) -> str:
    """Put the kernels behind the registered ops and share PyTorch's threads."""
    import jca_fast.ops.library  # noqa: F401  (the schemas must be there first)

    path = str(torch_path()).encode()
    library.jca_use_torch(path)
    if missing := library.jca_register_ops(path):
        found = f"this is {torch.__version__}: {missing.decode()}"
        return f"the native kernels need torch >= 2.10, {found}"
    return ""


def library() -> ctypes.CDLL:
    """The loaded library; RuntimeError says why there is none."""
    loaded, reason = load()
    if loaded is None:
        raise RuntimeError(reason)
    return loaded


def op_names() -> frozenset[str]:
    """The registered ops with a native kernel, forward and backward."""
    ops = library().jca_op_names().decode().split()
    return frozenset(name for op in ops for name in (op, f"{op}_backward"))


def describe() -> str:
    """One line for reports: the instruction set in use and those available, or the problem."""
    loaded, reason = load()
    if loaded is None:
        return reason
    used, available = loaded.jca_isa_name().decode(), loaded.jca_isa_available().decode()
    return f"{used} (available: {available})"
