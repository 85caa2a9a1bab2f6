"""The interface between a folder of kernels and the table of backends.

The module of a backend has, for each op of :mod:`jca_fast.ops.library` that it implements, a
launcher named and typed like the op and one named ``<op>_backward``; and

* ``problem()``: why the kernels cannot run on this machine at all; "" where they can;
* ``describe()``: one line for reports, with the versions on which the kernels' results depend;
* ``DEVICES``: the types of devices whose tensors the launchers take, if these are more than the
  device of the row: Triton's interpreter takes CPU tensors.

The table imports the module when it first judges tensors on its device.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from pathlib import Path
from types import ModuleType

from ..constant import assume_constant_result


def load(module: str | None) -> ModuleType:
    """The module of a backend; None, for plain PyTorch, is the reference."""
    return importlib.import_module(module or "jca_fast.ops.reference")


@assume_constant_result
def problem(module: str, op: str = "") -> str:
    """Why ``module`` cannot run ``op`` (or any op at all) on this machine; "" where it can."""
    return _problem(module, op)


def missing(kernels: ModuleType, op: str) -> str:
    """The launcher of ``op`` or of its backward that ``kernels`` lacks; "" where it has both."""
    names = (op, f"{op}_backward")
    return next((name for name in names if not callable(getattr(kernels, name, None))), "")


def description(module: str) -> str:
    """One line on the kernels of a backend, or why there are none."""
    try:
        return load(module).describe()
    except Exception as error:
        return _failure(module, error)


@functools.cache
def _problem(module: str, op: str) -> str:
    try:
        kernels = load(module)
        why = kernels.problem()
    except Exception as error:  # a broken backend must not stop the others
        return _failure(module, error)
    if why:
        return why
    lacks = missing(kernels, op) if op else ""
    return f"it has no kernel for {lacks}" if lacks else ""


def _failure(module: str, error: Exception) -> str:
    """One line on a module that does not import, or whose report raises; MemoryError passes."""
    if isinstance(error, MemoryError):
        raise error
    if isinstance(error, ImportError):
        if error.name == "jca_fast.kernels":
            _warn_of_missing_kernels()
        return f"{module} cannot be imported: {error}"
    reason = str(error).split("\n")[0]
    return f"{module} cannot be used: {type(error).__name__}: {reason}"


@functools.cache
def _warn_of_missing_kernels() -> None:
    """Warn once that this is a source folder, which hides the kernels of an installed package."""
    folder = Path(__file__).parents[3]
    warnings.warn(
        f"jca_fast was imported from the source folder {folder}, which hides the kernels of the "
        "installed package, so that every op runs on plain PyTorch. Start Python in another "
        "folder, or install this one with pip install -e .",
        RuntimeWarning,
        stacklevel=2,
    )
