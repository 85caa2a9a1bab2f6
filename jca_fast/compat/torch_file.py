"""The files of ``torch.save`` read without their classes: nothing in them is run.

A pickle is a program that may call whatever it names. The reader maps every name to one of the
constructors below, none of which imports, opens or calls anything, or to an inert class that keeps
the state of an object and refuses to be called. Tensors stay references until the program is over;
only then their bytes are read.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

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


_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the old layout
_DEEPEST = 64


@dataclass(frozen=True)
class InertModule:
    """An object of a class that is not here, its tensors read; ``class_path`` is the name its file gives it."""

    class_path: str
    state: Any

    def state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        """The parameters and persistent buffers of a module and its submodules, in the order of the file."""
        if not isinstance(self.state, dict) or "_parameters" not in self.state:
            raise ValueError(f"{self.class_path} is not a module")
        transient = self.state.get("_non_persistent_buffers_set", ())
        own = {**self.state["_parameters"], **self.state.get("_buffers", {})}
        out = {
            prefix + k: v for k, v in own.items() if isinstance(v, Tensor) and k not in transient
        }
        for name, module in self.state.get("_modules", {}).items():
            if isinstance(module, InertModule):
                out |= module.state_dict(f"{prefix}{name}.")
        return out


def load_inert(path: Path) -> Any:
    """What a torch.save file holds: tensors, plain values, dicts, lists and :class:`InertModule` objects.

    Raises ValueError if the file is damaged, of another kind, or asks for a call that no model needs.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _load_archive(archive)
        with path.open("rb") as file:
            return _load_old(file)
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(str(error).split("\n")[0] or type(error).__name__) from error


def _load_archive(archive: zipfile.ZipFile) -> Any:
    names = archive.namelist()
    program = next((name for name in names if name.endswith("/data.pkl")), None)
    if program is None or any("/code/" in name for name in names):
        raise ValueError(f"a zip file, but not of torch.save: it holds {', '.join(names[:3])}")
    folder = program.removesuffix("data.pkl")
    if folder + "byteorder" in names and archive.read(folder + "byteorder") != b"little":
        raise ValueError("it holds big-endian numbers")
    with archive.open(program) as file:
        content = load_pickle(file)
    return _Reader(lambda storage: archive.read(f"{folder}data/{storage.key}")).value(content)


def _load_old(file: IO[bytes]) -> Any:
    if file.read(2) != b"\x80\x02":
        raise ValueError("not a file of torch.save")
    file.seek(0)
    if load_pickle(file) != _MAGIC:
        raise ValueError("a pickle, but not of torch.save")
    _protocol, system, content = load_pickle(file), load_pickle(file), load_pickle(file)
    if not system.get("little_endian", True):
        raise ValueError("it holds big-endian numbers")
    keys, storages = load_pickle(file), _storages(content)
    data: dict[str, bytes] = {}
    for key in map(str, keys):
        (count,) = struct.unpack("<q", file.read(8))
        if key not in storages or count != storages[key].count:
            raise ValueError(f"its storage {key} is not the one announced")
        data[key] = file.read(count * storages[key].dtype.itemsize)
    return _Reader(lambda storage: data[storage.key]).value(content)


def _storages(content: Any) -> dict[str, Storage]:
    """Every storage that some tensor in ``content`` refers to, by its key."""
    found, pending, seen = {}, [content], set()
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, TensorRef):
            found[value.storage.key] = value.storage
        elif isinstance(value, Inert):
            pending.append(value.state)
        elif isinstance(value, (Mapping, list, tuple)):
            pending += value.values() if isinstance(value, Mapping) else value
    return found


class _Reader:
    """Replaces references by their tensors and :class:`Inert` by :class:`InertModule`; each object once."""

    def __init__(self, read: Callable[[Storage], bytes]) -> None:
        self.read, self.done = read, dict[int, Any]()

    def value(self, content: Any, depth: int = 0) -> Any:
        if depth > _DEEPEST:
            raise ValueError(f"it is nested more than {_DEEPEST} deep")
        if id(content) not in self.done:
            self.done[id(content)] = self._value(content, depth + 1)
        return self.done[id(content)]

    def _value(self, content: Any, depth: int) -> Any:
        if isinstance(content, TensorRef):
            return self._tensor(content)
        if isinstance(content, Inert):
            return InertModule(type(content).__qualname__, self.value(content.state, depth))
        if isinstance(content, Mapping):
            return {key: self.value(item, depth) for key, item in content.items()}
        if isinstance(content, (list, tuple)):
            return [self.value(item, depth) for item in content]
        return content

    def _tensor(self, ref: TensorRef) -> Tensor:
        storage, raw = ref.storage, self.read(ref.storage)
        needed = prod(ref.size) * ref.dtype.itemsize
        if len(raw) != storage.count * storage.dtype.itemsize or needed > len(raw):
            raise ValueError(
                f"a tensor {ref.size} needs {needed} bytes, its storage of {storage.count} has {len(raw)}"
            )
        if not needed:
            return torch.empty(ref.size, dtype=ref.dtype)
        flat = torch.frombuffer(bytearray(raw), dtype=ref.dtype)
        return flat.as_strided(ref.size, ref.stride, ref.offset).clone(
            memory_format=torch.contiguous_format
        )
