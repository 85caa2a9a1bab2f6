"""Loading libjca_cuda, which registers its launchers as ops of PyTorch."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch

from jca_fast.ops.tiers import float32_tier


def library_path() -> Path:
    """Where the build puts the library: jca_fast/lib of the imported package."""
    import jca_fast

    return Path(jca_fast.__file__).parent / "lib" / "libjca_cuda.so"


@functools.cache
def library() -> ctypes.CDLL:
    """The library, which needs neither a driver nor PyTorch to load."""
    found = ctypes.CDLL(str(library_path()))
    for name in ("problem", "build", "register_ops", "status_string", "kernel_name"):
        getattr(found, f"jca_cuda_{name}").restype = ctypes.c_char_p
    return found


@functools.cache
def problem() -> str:
    """Why the kernels cannot run on this machine; "" where they can, which registers the ops."""
    path = library_path()
    if not path.is_file():
        return f"the library {path.name} is not built (pip install -e . with nvcc builds it)"
    if torch.version.cuda is None:
        return f"this PyTorch, {torch.__version__}, is not built for CUDA"
    try:
        return library().jca_cuda_problem().decode() or register()
    except (OSError, AttributeError) as error:
        return f"the library {path.name} cannot be loaded: {error}"


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
    return library().jca_cuda_build().decode() if library_path().is_file() else problem()
