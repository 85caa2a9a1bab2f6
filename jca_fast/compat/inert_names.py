"""The names that a pickled model may call, each with a harmless replacement.

This module never imports, opens or calls anything that a file names.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """A reference to ``count`` numbers of ``dtype``: under ``key``, or in ``raw`` if given."""

    dtype: torch.dtype
    key: str
    count: int
    raw: bytes | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TensorRef:
    """A tensor before its storage is read."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, slots=True, eq=False)
class ForeignTensor:
    """A tensor that is not plain numbers in memory; ``kind`` describes it."""

    kind: str


class Refusing(type):
    """The metaclass of classes that refuse to be called.

    A call without arguments begins a subclass of OrderedDict; it gives an inert dict.
    """

    def __call__(cls, *args: object, **kwargs: object) -> Any:
        if not args and not kwargs:
            return InertDict()
        raise pickle.UnpicklingError(f"it calls {cls.__qualname__}, which is not a part of a model")


class Inert(metaclass=Refusing):
    """An object whose class is not imported; ``state`` is its state in the file."""

    __slots__ = ("state",)
    state: Any

    def __new__(cls, *args: object, **kwargs: object) -> Inert:
        self = object.__new__(cls)
        object.__setattr__(self, "state", None)
        return self

    def __setstate__(self, state: object) -> None:
        object.__setattr__(self, "state", state)


class Constructor:
    """A function that a pickle may call; the pickle cannot set its attributes."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __setattr__(self, name: str, value: object) -> None:
        raise pickle.UnpicklingError("it changes a constructor")

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)


class InertDict(dict):
    """The items of an OrderedDict, defaultdict or Counter, without factory or attributes."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        pass


_CODES = r"[<|=]?([fiub][1248]|f16|c8|c16|[mM]8|[SUV]\d{1,6})"


class Dtype:
    """A numpy dtype by its code. The file also states the byte order, which must be little."""

    __slots__ = ("code",)

    def __init__(self, code: object) -> None:
        if not isinstance(code, str) or not re.fullmatch(_CODES, code):
            raise pickle.UnpicklingError(f"it holds numbers of type {str(code)[:40]!r}")
        self.code = code

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and ">" in state:
            raise pickle.UnpicklingError("it holds big-endian numbers")


class Array:
    """A numpy array, empty until the file states its shape, type and bytes."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Any = None

    def __setstate__(self, state: Any) -> None:
        _version, shape, dtype, by_columns, raw = state
        self.value = _array(raw, dtype, shape, "F" if by_columns else "C")


def _array(raw: Any, dtype: Any, shape: Any, order: Any = "C") -> Any:
    import numpy as np

    if not isinstance(dtype, Dtype) or not isinstance(raw, (bytes, bytearray)):
        raise pickle.UnpicklingError("it holds an array of objects")
    flat = np.frombuffer(raw, dtype=dtype.code)
    return flat.reshape([int(n) for n in shape], order=order)


def _number(dtype: Dtype, raw: bytes) -> Any:
    return _array(raw, dtype, (1,))[0].item()


def _tensor(storage: Storage, offset: int, size: tuple, stride: tuple, *rest: Any) -> TensorRef:
    return _tensor_v3(storage, offset, size, stride, None, None, storage.dtype)


def _tensor_v3(
    storage: Storage, offset: int, size: tuple, stride: tuple, _grad: Any, _hooks: Any, dtype: Any
) -> TensorRef:
    sizes, strides = tuple(map(int, size)), tuple(map(int, stride))
    few_axes = len(sizes) == len(strides) <= 64
    if not isinstance(storage, Storage) or not few_axes or min((0, offset, *sizes, *strides)) < 0:
        raise pickle.UnpicklingError("it holds a tensor that no storage can have")
    return TensorRef(storage, int(offset), sizes, strides, dtype)


def _subclass(function: Any, cls: Any, args: Any, state: Any) -> Any:
    """The plain tensor of one with attributes or of a subclass."""
    if not isinstance(function, Constructor):
        raise pickle.UnpicklingError("it makes a tensor in an unknown way")
    return function(*args)


def _instance(cls: Any, base: Any, state: Any) -> Inert:
    if not (isinstance(cls, type) and issubclass(cls, Inert)):
        raise pickle.UnpicklingError("it makes an object of a class it may not make")
    return cls.__new__(cls)


def _described(name: str) -> Callable[..., str]:
    """A constructor of a plain value that is kept as text, such as a date."""
    return lambda *args: f"{name}({', '.join(str(a)[:200] for a in args if _is_plain(a))})"


def _is_plain(value: object) -> bool:
    return isinstance(value, (str, int, float, bytes, bool, type(None)))


def _path(*parts: object) -> str:
    return "/".join(str(part) for part in parts if isinstance(part, str)).replace("//", "/")


def _object(path: str) -> Callable[..., Inert]:
    """A constructor of an object that is kept inert, such as a namespace."""
    names = {"__slots__": (), "__qualname__": path, "__module__": __name__}
    cls: Any = Refusing(path, (Inert,), names)
    return lambda *args: cls.__new__(cls)


_PATHS = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
_TIMES = ("datetime", "date", "time", "timedelta", "timezone")

CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": lambda data, *rest: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *rest: data,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch._utils._rebuild_sparse_tensor": lambda *args: ForeignTensor("torch.sparse_coo on cpu"),
    "torch._utils._rebuild_qtensor": lambda *args: ForeignTensor("quantised"),
    "torch._utils._rebuild_meta_tensor_no_storage": lambda *args: ForeignTensor(
        "torch.strided on meta"
    ),
    "torch.serialization._get_layout": lambda *args: None,
    "torch.Size": lambda sizes=(): tuple(sizes),
    "torch.device": lambda *name: ":".join(str(n)[:40] for n in name if _is_plain(n)),
    "torch.torch_version.TorchVersion": lambda text="": str(text)[:80] if _is_plain(text) else "",
    "_codecs.encode": lambda text, encoding="latin1": text.encode("latin1"),
    "copyreg._reconstructor": _instance,
    "copy_reg._reconstructor": _instance,
    "collections.OrderedDict": lambda items=(): InertDict(items),
    "collections.defaultdict": lambda factory=None, items=(): InertDict(items),
    "collections.Counter": lambda items=(): InertDict(items),
    "collections.deque": lambda items=(), length=None: list(items),
    "numpy.dtype": lambda code, *rest: Dtype(code),
    "numpy.ndarray": Array,
    "types.SimpleNamespace": _object("types.SimpleNamespace"),
    "functools.partial": _object("functools.partial"),
    "numpy.random._pickle.__generator_ctor": _object("numpy.random.Generator"),
    "numpy.random._pickle.__bit_generator_ctor": _object("numpy.random.BitGenerator"),
    "numpy.random._pickle.__randomstate_ctor": _object("numpy.random.RandomState"),
    "numpy.random.bit_generator.__pyx_unpickle_SeedSequence": _object("numpy.random.SeedSequence"),
    **{f"pathlib.{name}": _path for name in _PATHS},
    **{f"pathlib._local.{name}": _path for name in _PATHS},
    **{f"datetime.{name}": _described(name) for name in _TIMES},
}
for _core in ("numpy.core", "numpy._core"):
    CONSTRUCTORS[f"{_core}.multiarray.scalar"] = _number
    CONSTRUCTORS[f"{_core}.multiarray._reconstruct"] = lambda *args: Array()
    CONSTRUCTORS[f"{_core}.numeric._frombuffer"] = _array
for _module in ("builtins", "__builtin__"):
    CONSTRUCTORS |= {
        f"{_module}.set": lambda items=(): set(items),
        f"{_module}.frozenset": lambda items=(): frozenset(items),
        f"{_module}.dict": lambda items=(): InertDict(items),
        f"{_module}.list": lambda items=(): list(items),
        f"{_module}.tuple": lambda items=(): tuple(items),
        f"{_module}.complex": lambda real=0.0, imaginary=0.0: complex(real, imaginary),
        f"{_module}.bytearray": lambda *args: args[0] if args and type(args[0]) is bytes else b"",
        f"{_module}.object": lambda *args: None,
        f"{_module}.range": _described("range"),
        f"{_module}.xrange": _described("range"),
        f"{_module}.slice": _described("slice"),
    }
