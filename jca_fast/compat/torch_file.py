"""Reads files of ``torch.save`` and ``pickle`` without their classes and without running code.

A pickle is a program that may call any function that it names; :mod:`.unpickle` restricts it to
harmless calls. Tensors stay references until the program ends; then the numbers of each storage are
read once.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from . import bounds
from .inert_names import Array, Inert, Storage, TensorRef
from .unpickle import MAGIC, old_layout, unpickle

FORMAT = "jca_fast checkpoint 1"
"""The entry ``format`` of the checkpoints of ``jca-fast train``."""


@dataclass
class InertObject:
    """An object whose class is not imported, with its tensors read.

    ``class_path`` is the name of the class in the file, ``state`` the state of the object.
    """

    class_path: str
    state: Any

    @property
    def is_module(self) -> bool:
        return isinstance(self.state, dict) and "_parameters" in self.state

    def state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        """Parameters and persistent buffers of a module and its submodules, in file order."""
        if not self.is_module:
            raise ValueError(f"{self.class_path} is not a module")
        transient = self.state.get("_non_persistent_buffers_set", ())
        own = {**self.state["_parameters"], **self.state.get("_buffers", {})}
        kept = {k: v for k, v in own.items() if isinstance(v, Tensor) and k not in transient}
        out = {prefix + k: v for k, v in kept.items()}
        for name, module in self.state.get("_modules", {}).items():
            if isinstance(module, InertObject):
                out |= module.state_dict(f"{prefix}{name}.")
        return out

    def modules(self, prefix: str = "") -> dict[str, InertObject]:
        """A module and its submodules by their names, each followed by a dot; "" is this one."""
        out = {prefix: self}
        for name, module in self.state.get("_modules", {}).items():
            if isinstance(module, InertObject) and module.is_module:
                out |= module.modules(f"{prefix}{name}.")
        return out


def read(path: Path) -> Any:
    """The content of a file of torch.save or pickle.

    It consists of tensors on the CPU, plain values, dicts, lists, tuples and :class:`InertObject`.
    The limits of :mod:`.bounds` are checked first.

    Raises:
        ValueError: the file is damaged, of another kind, exceeds a limit, or contains a call that
            no model needs.
    """
    bounds.check_archive(path)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _read_archive(archive)
        with path.open("rb") as file:
            return _read_stream(file)
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        reason = str(error).split("\n")[0] or type(error).__name__
        raise ValueError(
            f"expected a checkpoint written by torch.save or safetensors, but {reason}"
        ) from error


def _read_archive(archive: zipfile.ZipFile) -> Any:
    names = archive.namelist()
    program = next((name for name in names if name.endswith("/data.pkl")), None)
    if program is None or any("/code/" in name for name in names):
        raise ValueError(f"a zip file, but not of torch.save: it holds {', '.join(names[:3])}")
    folder = program.removesuffix("data.pkl")
    if folder + "byteorder" in names and archive.read(folder + "byteorder") != b"little":
        raise ValueError("it holds big-endian numbers")
    with archive.open(program) as file:
        content = unpickle(io.BytesIO(file.read()))
    return _Tensors(lambda storage: archive.read(f"{folder}data/{storage.key}")).value(content)


def _read_stream(file: IO[bytes]) -> Any:
    """A plain pickle, or the old layout of torch.save: three pickles before the content."""
    if file.read(1) != b"\x80":
        raise ValueError("not a file of torch.save")
    file.seek(0)
    first = unpickle(file)
    if first != MAGIC:
        return _Tensors(_missing).value(first)
    return _read_old(file)


def _read_old(file: IO[bytes]) -> Any:
    """The old layout after its magic number."""
    content, data = old_layout(file)
    return _Tensors(lambda storage: data[storage.key]).value(content)


def _missing(storage: Storage) -> bytes:
    raise ValueError(f"the numbers of its storage {storage.key} are missing")


class _Tensors:
    """Replaces references by tensors and :class:`Inert` by :class:`InertObject`; each object once.

    Tensors of one storage share its memory, so that no file needs more memory than its size.
    """

    def __init__(self, read_storage: Callable[[Storage], bytes]) -> None:
        self._read = read_storage
        self._done: dict[int, Any] = {}
        self._raw: dict[int | str, bytearray] = {}
        self._tensors = 0

    def value(self, content: Any, depth: int = 0) -> Any:
        if depth > bounds.DEEPEST:
            raise ValueError(f"it is nested more than {bounds.DEEPEST} deep")
        if id(content) not in self._done:
            self._convert(content, depth + 1)
        return self._done[id(content)]

    def _convert(self, content: Any, depth: int) -> None:
        """Convert into ``_done``. A container is stored before its parts, which may contain it."""
        key = id(content)
        if isinstance(content, TensorRef):
            self._done[key] = self._tensor(content)
        elif isinstance(content, Inert):
            self._done[key] = made = InertObject(type(content).__qualname__, None)
            made.state = self.value(content.state, depth)
        elif isinstance(content, Array):
            self._done[key] = content.value
        elif isinstance(content, Mapping):
            self._done[key] = filled = {}
            for name, item in content.items():
                filled[name] = self.value(item, depth)
        elif isinstance(content, list):
            items: list[Any] = []
            self._done[key] = items
            items.extend(self.value(item, depth) for item in content)
        elif type(content) is tuple:
            self._done[key] = tuple(self.value(item, depth) for item in content)
        else:
            self._done[key] = content

    def _tensor(self, ref: TensorRef) -> Tensor:
        storage = ref.storage
        if ref.dtype not in bounds.DTYPES.values():
            raise ValueError(f"it holds numbers of type {ref.dtype}")
        self._tensors += 1
        bounds.check_count(self._tensors)
        key = storage.key if storage.raw is None else id(storage.raw)
        if key not in self._raw:
            raw = self._read(storage) if storage.raw is None else storage.raw
            self._raw[key] = bytearray(raw)
        numbers = self._raw[key]
        needed = prod(ref.size) * ref.dtype.itemsize
        if len(numbers) != storage.count * storage.dtype.itemsize:
            raise ValueError(
                f"its storage {storage.key} of {storage.count} has {len(numbers)} bytes"
            )
        if 0 in ref.stride or needed > len(numbers):
            self._refuse_repeats(ref, needed, len(numbers))
        if not needed:
            return torch.empty(ref.size, dtype=ref.dtype)
        flat = torch.frombuffer(numbers, dtype=ref.dtype)
        return flat.as_strided(ref.size, ref.stride, ref.offset)

    def _refuse_repeats(self, ref: TensorRef, needed: int, available: int) -> None:
        if needed > available and 0 not in ref.stride:
            raise ValueError(
                f"a tensor {ref.size} needs {needed} bytes, "
                f"its storage of {ref.storage.count} has {available}"
            )
