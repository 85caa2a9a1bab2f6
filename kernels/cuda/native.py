"""Loading libjca_cuda, which registers its launchers as ops of PyTorch."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch


def library_path() -> Path:
    """Where the build puts the library: jca_fast/lib of the imported package."""
    import jca_fast

    return Path(jca_fast.__file__).parent / "lib" / "libjca_cuda.so"


@functools.cache
def library() -> ctypes.CDLL:
    """The library, which needs neither a driver nor PyTorch to load."""
    found = ctypes.CDLL(str(library_path()))
    for name in ("problem", "build", "op_names", "register_ops", "status_string", "kernel_name"):
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
    """Make the ops ``torch.ops.jca_fast_cuda.<op>``; "", or why PyTorch lacks something."""
    folder = Path(torch.__file__).parent / "lib"
    return register_with(folder / "libtorch_cuda.so")


def register_with(libtorch_cuda: Path) -> str:
    """The same with a library that has PyTorch's functions for CUDA."""
    cpu = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    missing = library().jca_cuda_register_ops(str(cpu).encode(), str(libtorch_cuda).encode())
    return f"this is {torch.__version__}: {missing.decode()}" if missing else ""


def describe() -> str:
    """One line for reports: what compiled the kernels and for which chips, or the problem."""
    return library().jca_cuda_build().decode() if library_path().is_file() else problem()
