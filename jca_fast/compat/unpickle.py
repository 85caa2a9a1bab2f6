"""Unpickling without classes: a pickle can call only harmless replacements.

Every name becomes one of the constructors of :mod:`.inert_names`, none of which imports, opens or
calls anything, or an inert class that keeps the state of an object and refuses to be called.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable, Mapping
from typing import IO, Any, ClassVar

import torch

from . import bounds
from .inert_names import (
    CONSTRUCTORS,
    Array,
    Constructor,
    Dtype,
    Inert,
    InertDict,
    Refusing,
    Storage,
    TensorRef,
)

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the old layout
_LOAD_FROM_BYTES = "torch.storage._load_from_bytes"


class InertUnpickler(pickle._Unpickler):
    """An unpickler whose find_class and persistent_load give a pickle access to harmless names.

    It extends the Python version of Unpickler, which can check each tuple before it is hashed.
    """

    dispatch: ClassVar[dict] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: IO[bytes], nested: bool) -> None:
        super().__init__(file)
        self._nested = nested
        self._storages: dict[int, tuple[bytes, Storage]] = {}
        self.sizes = bounds.TupleSizes(bounds.length(file))

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module}.{name}"
        if path == _LOAD_FROM_BYTES and not self._nested:
            return Constructor(self._nested_storage)
        if path in CONSTRUCTORS:
            return Constructor(CONSTRUCTORS[path])
        if module in ("torch", "torch.storage") and name in bounds.DTYPES:
            return bounds.DTYPES[name]
        names = {"__slots__": (), "__qualname__": path, "__module__": __name__}
        return Refusing(name, (Inert,), names)

    def _nested_storage(self, raw: bytes) -> Storage:
        """The storage in the bytes of a tensor inside a plain pickle."""
        if id(raw) not in self._storages:
            file = io.BytesIO(raw)
            if unpickle(file, nested=True) != MAGIC:
                raise pickle.UnpicklingError("it holds a tensor that torch.save did not write")
            self._storages[id(raw)] = (raw, _storage(file))
        return self._storages[id(raw)][1]

    def load_build(self) -> None:
        made = self.stack[-2]  # type: ignore[attr-defined]
        if not isinstance(made, (Inert, InertDict, Dtype, Array)):
            raise pickle.UnpicklingError(f"it gives a state to a {type(made).__name__}")
        super().load_build()  # type: ignore[misc]

    dispatch[pickle.BUILD[0]] = load_build

    def persistent_load(self, pid: Any) -> Any:
        kind, *rest = pid if isinstance(pid, tuple) and pid else (None,)
        if kind == "module" and rest:  # old files keep a class together with its source text
            return rest[0]
        if kind != "storage" or len(rest) < 4 or not isinstance(rest[0], torch.dtype):
            target = rest[0].__qualname__ if rest and isinstance(rest[0], type) else kind
            raise pickle.UnpicklingError(f"it refers to {str(target)[:80]!r}")
        if len(rest) > 4 and rest[4] is not None:
            raise pickle.UnpicklingError("it holds storages that are views of others")
        return Storage(rest[0], str(rest[1]), int(rest[3]))


def _sized(load: Callable[[Any], None]) -> Callable[[Any], None]:
    """The handler of an opcode, followed by a check of the tuple on top of the stack."""

    def load_and_check(unpickler: Any) -> None:
        load(unpickler)
        unpickler.sizes.check(unpickler.stack[-1])

    return load_and_check


def _made(load: Callable[[Any], None]) -> Callable[[Any], None]:
    """The handler of an opcode that calls a constructor, followed by a count of its result."""

    def load_and_count(unpickler: Any) -> None:
        load(unpickler)
        unpickler.sizes.check(unpickler.stack[-1])
        unpickler.sizes.count(unpickler.stack[-1])

    return load_and_count


for _opcode in (
    pickle.TUPLE,
    pickle.TUPLE1,
    pickle.TUPLE2,
    pickle.TUPLE3,
    pickle.FROZENSET,
):
    InertUnpickler.dispatch[_opcode[0]] = _sized(InertUnpickler.dispatch[_opcode[0]])
for _opcode in (pickle.REDUCE, pickle.INST, pickle.OBJ):
    InertUnpickler.dispatch[_opcode[0]] = _made(InertUnpickler.dispatch[_opcode[0]])


def unpickle(file: IO[bytes], nested: bool = False) -> Any:
    """One pickle at the position of the file."""
    bounds.check_program(file)
    return InertUnpickler(file, nested).load()


def old_layout(file: IO[bytes], nested: bool = False) -> tuple[Any, dict[str, bytes]]:
    """The content and the storages, by key, of the old layout of torch.save after its magic."""
    _protocol, system, content = (unpickle(file, nested) for _ in range(3))
    if not system.get("little_endian", True):
        raise ValueError("it holds big-endian numbers")
    keys, storages = unpickle(file, nested), _storages(content)
    data: dict[str, bytes] = {}
    for key in map(str, keys):
        (count,) = struct.unpack("<q", file.read(8))
        if key not in storages or count != storages[key].count or count < 0:
            raise ValueError(f"its storage {key} differs from its reference")
        data[key] = file.read(count * storages[key].dtype.itemsize)
    return content, data


def _storage(file: IO[bytes]) -> Storage:
    """The only storage of a nested file, with its bytes."""
    content, data = old_layout(file, nested=True)
    if not isinstance(content, Storage) or content.key not in data:
        raise pickle.UnpicklingError("it holds a tensor without a storage")
    return Storage(content.dtype, content.key, content.count, data[content.key])


def _storages(content: Any) -> dict[str, Storage]:
    """Every storage that a tensor in ``content`` refers to, by its key."""
    found = {}
    pending = [content]
    seen = set()
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Storage):
            found[value.key] = value
        elif isinstance(value, TensorRef):
            pending.append(value.storage)
        elif isinstance(value, Inert):
            pending.append(value.state)
        elif isinstance(value, Mapping):
            pending += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            pending += value
    return found
