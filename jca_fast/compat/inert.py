"""Reading a pickled model without its classes and without running anything it says.

A pickle is a program that may call whatever it names. Here every name becomes either one of a few constructors written
below, none of which imports, opens or calls anything, or an inert class that holds what the file says about an object
and refuses to be called. Tensors stay references until the program is over; only then their bytes are read.
"""

from __future__ import annotations

import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import torch

_DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)} | {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}  # fmt: skip
_LARGEST_MEMO = 10_000_000


@dataclass(frozen=True, slots=True)
class Storage:
    """Announced numbers: ``count`` of ``dtype`` under ``key``."""

    dtype: torch.dtype
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A tensor before its storage is read."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


class _NumpyDtype:
    """A numpy dtype by its code; what the file adds about byte order is what the code already says or the default."""

    __slots__ = ("code",)

    def __init__(self, code: str) -> None:
        if not re.fullmatch(r"[<|=]?[fiub][1248]", code):
            raise pickle.UnpicklingError(f"it holds a number of the type {code!r}")
        self.code = code

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and ">" in state:
            raise pickle.UnpicklingError("it holds big-endian numbers")


class _Refusing(type):
    def __call__(cls, *args: object, **kwargs: object) -> Any:
        raise pickle.UnpicklingError(f"it calls {cls.__qualname__}, which is not a part of a model")


class Inert(metaclass=_Refusing):
    """An object of a class that is not here; ``state`` is what the file says about it."""

    __slots__ = ("state",)
    state: Any

    def __new__(cls, *args: object) -> Inert:
        self = object.__new__(cls)
        object.__setattr__(self, "state", None)
        return self

    def __setstate__(self, state: object) -> None:
        object.__setattr__(self, "state", state)


class _Constructor:
    """A function that a pickle may call and nothing else: it cannot be given attributes."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __setattr__(self, name: str, value: object) -> None:
        raise pickle.UnpicklingError("it changes a constructor")

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)


def _tensor(storage: Storage, offset: int, size: tuple, stride: tuple, *rest: Any) -> TensorRef:
    return TensorRef(
        storage, int(offset), tuple(map(int, size)), tuple(map(int, stride)), storage.dtype
    )


def _tensor_v3(
    storage: Storage,
    offset: int,
    size: tuple,
    stride: tuple,
    grad: Any,
    hooks: Any,
    dtype: Any,
    *rest: Any,
) -> TensorRef:
    return TensorRef(storage, int(offset), tuple(map(int, size)), tuple(map(int, stride)), dtype)


def _number(dtype: _NumpyDtype, raw: bytes) -> Any:
    import numpy as np

    return np.frombuffer(raw, dtype=dtype.code)[0].item()


def _instance(cls: Any, base: Any, state: Any) -> Inert:
    if not (isinstance(cls, type) and issubclass(cls, Inert)):
        raise pickle.UnpicklingError("it makes an object of a class it may not make")
    return cls.__new__(cls)


_CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": lambda data, *rest: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *rest: data,
    "torch.Size": lambda sizes=(): tuple(sizes),
    "torch.device": lambda *name: str(name),
    "numpy.core.multiarray.scalar": _number,
    "numpy._core.multiarray.scalar": _number,
    "numpy.dtype": lambda code, *rest: _NumpyDtype(code),
    "_codecs.encode": lambda text, encoding="latin1": text.encode("latin1"),
    "copyreg._reconstructor": _instance,
    "copy_reg._reconstructor": _instance,
}
_BUILTINS = {"set": set, "frozenset": frozenset, "dict": dict, "list": list, "object": object}


class _Unpickler(pickle.Unpickler):
    """find_class and persistent_load are the only ways out of a pickle; neither leads anywhere."""

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module}.{name}"
        if path in _CONSTRUCTORS:
            return _Constructor(_CONSTRUCTORS[path])
        if module in ("builtins", "__builtin__") and name in _BUILTINS:
            return _BUILTINS[name]
        if path == "collections.OrderedDict":
            return OrderedDict
        if module in ("torch", "torch.storage") and name in _DTYPES:
            return _DTYPES[name]
        return _Refusing(
            name, (Inert,), {"__slots__": (), "__qualname__": path, "__module__": __name__}
        )

    def persistent_load(self, pid: Any) -> Any:
        kind, *rest = pid if isinstance(pid, tuple) and pid else (None,)
        if kind == "module" and rest:  # old files keep a class together with its source text
            return rest[0]
        if kind != "storage" or len(rest) < 4 or not isinstance(rest[0], torch.dtype):
            raise pickle.UnpicklingError(f"it refers to {pid!r}")
        if len(rest) > 4 and rest[4] is not None:
            raise pickle.UnpicklingError("it holds storages that are views of others")
        return Storage(rest[0], str(rest[1]), int(rest[3]))


def load_pickle(file: IO[bytes]) -> Any:
    """One pickle from where the file stands. Checked first: no index so large that remembering it fills the memory."""
    start = file.tell()
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name.startswith("EXT") or (
            opcode.name.endswith("PUT") and int(argument or 0) > _LARGEST_MEMO
        ):
            raise pickle.UnpicklingError(f"it uses {opcode.name} {argument}")
    file.seek(start)
    return _Unpickler(file).load()
