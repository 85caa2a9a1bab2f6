"""Loading libjca_cpu and calling its C ABI (abi.h): argument blocks in, a status code out."""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

import torch

ABI_VERSION = 1
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
FUNCTIONS = tuple(
    f"jca_{op}_{direction}"
    for op in ("tanh_attention", "affinity", "coattention", "reduction")
    for direction in ("forward", "backward")
)


_registered: list[
    bool
] = []  # whether the ops run as kernels of PyTorch's dispatcher, without ctypes


def library_path() -> Path:
    """Where the build puts the library: jca_fast/lib of the imported package."""
    import jca_fast

    return Path(jca_fast.__file__).parent / "lib" / "libjca_cpu.so"


@functools.cache
def load() -> tuple[ctypes.CDLL | None, str]:
    """The library, or None and the reason why there is none; tried once per process."""
    path = library_path()
    if not path.is_file():
        return (
            None,
            f"the native library {path.name} is not built (pip install -e . with a C++ compiler builds it)",
        )
    try:
        library = ctypes.CDLL(str(path))
        return (library, "") if (reason := _prepare(library)) is None else (None, reason)
    except (OSError, AttributeError) as error:
        return None, f"the native library {path.name} cannot be loaded: {error}"


def _prepare(library: ctypes.CDLL) -> str | None:
    """Prototypes, version, instruction set, torch's threads, registration of the ops; None or a reason."""
    for name in ("jca_status_string", "jca_isa_name", "jca_isa_available"):
        getattr(library, name).restype = ctypes.c_char_p
    library.jca_fma_yardstick.restype = ctypes.c_int64
    library.jca_fma_yardstick.argtypes = [ctypes.c_int64]
    for name in FUNCTIONS:
        getattr(library, name).argtypes = [ctypes.c_char_p]
    if (version := library.jca_abi_version()) != ABI_VERSION:
        return f"the native library has ABI version {version}, this package needs {ABI_VERSION}: build it again"
    isa = os.environ.get("JCA_FAST_ISA", "")
    if library.jca_isa_select(isa.encode()):
        available = library.jca_isa_available().decode()
        return f"JCA_FAST_ISA={isa!r} is not among the instruction sets of this machine: {available or 'none'}"
    torch_library = str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so").encode()
    library.jca_use_torch(torch_library)
    _registered.append(bool(library.jca_register_ops(torch_library)))
    return None


def library() -> ctypes.CDLL:
    """The loaded library; RuntimeError says why there is none."""
    loaded, reason = load()
    if loaded is None:
        raise RuntimeError(reason)
    return loaded


def describe() -> str:
    """One line for reports: the instruction set in use, those available, and how the ops are called."""
    loaded, reason = load()
    if loaded is None:
        return reason
    binding = "PyTorch's dispatcher" if _registered[-1] else "ctypes"
    return f"{loaded.jca_isa_name().decode()} (available: {loaded.jca_isa_available().decode()}), called by {binding}"


def call(function: str, block: bytes) -> None:
    """Run one kernel; RuntimeError carries the text of a status other than 0."""
    lib = library()
    if status := getattr(lib, function)(block):
        raise RuntimeError(f"{function}: {lib.jca_status_string(status).decode()}")
