"""Published modules by name: same constructors, calls, results and state_dict keys.

Each repository has a namespace, named like it, with its constructor defaults, so that only an
import line changes. docs/migrating.md has a row and a section for each.

Their base classes take every size as an argument: ``released``, ``cam``, ``orig_cam``,
``speaker``. :func:`from_state_dict` builds any of them from its weights alone,
:func:`load_checkpoint` from a published file; :func:`to_native` and :func:`to_published` convert
between them and the modules of this library.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "Checkpoint": "checkpoint",
    "Recognized": "recognized",
    "from_state_dict": "recognize",
    "load_checkpoint": "checkpoint",
    "read_checkpoint": "checkpoint",
    "to_native": "native",
    "to_published": "native",
}
_SHARED = ("cam", "orig_cam", "released", "speaker")
_INTERNAL = (
    "bounds",
    "checkpoint",
    "convert",
    "gates",
    "inert_names",
    "layers",
    "native",
    "other_formulas",
    "pickled_settings",
    "published",
    "published_safetensors",
    "published_sizes",
    "recognize",
    "recognized",
    "released_parts",
    "torch_file",
    "unpickle",
)
_FILES = sorted(module.name for module in pkgutil.iter_modules(__path__))
REPOSITORIES = tuple(name for name in _FILES if name not in (*_SHARED, *_INTERNAL))
"""The namespaces of the repositories: every module that is neither shared nor internal."""
_MODULES = (*REPOSITORIES, *_SHARED)

if TYPE_CHECKING:
    from .checkpoint import Checkpoint, load_checkpoint, read_checkpoint
    from .native import to_native, to_published
    from .recognize import from_state_dict
    from .recognized import Recognized

__all__ = [
    "REPOSITORIES",
    "Checkpoint",
    "Recognized",
    "from_state_dict",
    "load_checkpoint",
    "read_checkpoint",
    "to_native",
    "to_published",
]
__all__ += _MODULES


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
