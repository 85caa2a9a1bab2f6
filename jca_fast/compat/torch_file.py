"""The files of ``torch.save``, current (zip) and old layout, read through :mod:`.inert`: nothing in them is run."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from .inert import Inert, Storage, TensorRef, load_pickle

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
