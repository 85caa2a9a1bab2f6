"""Loading libjca_cuda, which registers its launchers as ops of PyTorch."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch

from jca_fast.ops.tiers import float32_tier

ABI_VERSION = 5
"""The ``JCA_CUDA_ABI_VERSION`` of plan.h that the loaded library must have."""
_BUILD = "pip install -e . with nvcc builds it"


def library_path() -> Path:
    """Where the build puts the library: jca_fast/lib of the imported package."""
    import jca_fast

    return Path(jca_fast.__file__).parent / "lib" / "libjca_cuda.so"


@functools.cache
def load() -> tuple[ctypes.CDLL | None, str]:
    """The library and "", or None and why it cannot be used. It needs neither a driver nor
    PyTorch.
    """
    path = library_path()
    if not path.is_file():
        return None, f"the library {path.name} is not built ({_BUILD})"
    try:
        found = ctypes.CDLL(str(path))
        reason = _prepare(found)
    except (OSError, AttributeError) as error:
        return None, f"the library {path.name} cannot be loaded: {error}"
    return (None, f"the library {path.name} {reason}") if reason else (found, "")


def _prepare(found: ctypes.CDLL) -> str:
    """Check the version and set the types of results; "" or what is wrong with the library."""
    # The first libraries had no version.
    version = found.jca_cuda_abi_version() if hasattr(found, "jca_cuda_abi_version") else 0
    if version != ABI_VERSION:
        return f"has ABI version {version}, this package needs {ABI_VERSION} ({_BUILD} again)"
    for name in ("problem", "build", "register_ops", "status_string", "kernel_name"):
        getattr(found, f"jca_cuda_{name}").restype = ctypes.c_char_p
    return ""


def library() -> ctypes.CDLL:
    """The loaded library; RuntimeError says why there is none."""
    loaded, reason = load()
    if loaded is None:
        raise RuntimeError(reason)
    return loaded


@functools.cache
def problem() -> str:
    """Why the kernels cannot run on this machine; "" where they can, which registers the ops."""
    loaded, reason = load()
    if loaded is None:
        return reason
    if torch.version.cuda is None:
        return f"this PyTorch, {torch.__version__}, is not built for CUDA"
    return loaded.jca_cuda_problem().decode() or register()


def register() -> str:
    """Put the kernels behind the registered ops; "", or why PyTorch refuses."""
    return register_with(Path(torch.__file__).parent / "lib" / "libtorch_cuda.so", "CUDA")


def register_with(libtorch_cuda: Path, key: str) -> str:
    """The same with the library that has PyTorch's functions for CUDA, and a dispatch key."""
    import jca_fast.ops.library  # noqa: F401  (the schemas must be there first)

    cpu = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    paths = str(cpu).encode(), str(libtorch_cuda).encode()
    missing = library().jca_cuda_register_ops(*paths, key.encode(), _is_tf32)
    return f"this is {torch.__version__}: {missing.decode()}" if missing else ""


@ctypes.CFUNCTYPE(ctypes.c_int)
def _is_tf32() -> bool:
    """What the kernels ask at each call with float32 numbers."""
    return float32_tier() == "tf32"


def describe() -> str:
    """One line for reports: what compiled the kernels and for which chips, or the problem."""
    loaded, reason = load()
    return reason if loaded is None else loaded.jca_cuda_build().decode()
