"""Limits of a checkpoint file, checked before the work that they bound.

A small file can demand much memory or time: by numbers that unpack or repeat, by tuples that hold
each other, by an endless index. :mod:`.torch_file` enforces these limits for every command.
"""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from .inert_names import ForeignTensor

_NAMES = (
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
    "complex128",
    "complex64",
)
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in _NAMES} | {
    "double": torch.float64,
    "float": torch.float32,
    "half": torch.float16,
    "long": torch.int64,
    "int": torch.int32,
    "short": torch.int16,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "UntypedStorage": torch.uint8,
}
"""The number types that may be read, by their names in ``torch``; no quantised types."""

DEEPEST = 64  # containers inside each other
LARGEST_TUPLE = 100_000  # values in a tuple, including the tuples inside it
LARGEST_MEMO = 10_000_000  # entries of the index of a pickle
MOST_SHARED = 4  # bytes of all tensors, as a multiple of the bytes in the file
MOST_TENSORS = 50_000
LONGEST_NAME = 1000  # characters of the name of a tensor


def check_archive(path: Path) -> None:
    """Refuse a zip file that is damaged, compressed, or smaller than its contents unpacked.

    ``torch.load`` checks neither sizes nor checksums. Other files pass, because they have neither.
    A compressed part may state a false size, and bzip2 unpacks any size in one step.
    """
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(part.file_size for part in archive.infolist())
            size = path.stat().st_size
            stored = all(part.compress_type == zipfile.ZIP_STORED for part in archive.infolist())
            damaged = archive.testzip() if stored and unpacked <= size else None
    except Exception as error:  # zipfile raises a dozen types on damaged input
        raise ValueError(f"damaged: not a whole zip file ({error})") from error
    if unpacked > size:  # torch.save never compresses
        raise ValueError(
            f"its {size} bytes would unpack to {unpacked}; expected a file that is not compressed"
        )
    if not stored:
        raise ValueError("its parts are compressed; expected a file that is not compressed")
    if damaged:
        raise ValueError(f"damaged: the checksum of {damaged} does not match")


def check_program(file: IO[bytes]) -> None:
    """Refuse a pickle, at the position of ``file``, whose index would fill the memory."""
    start = file.tell()
    for opcode, argument, _ in pickletools.genops(file):
        large = opcode.name.endswith("PUT") and int(argument or 0) > LARGEST_MEMO
        if opcode.name.startswith("EXT") or large:
            raise pickle.UnpicklingError(f"it uses {opcode.name} {argument}")
    file.seek(start)


def length(file: IO[bytes]) -> int:
    """Number of bytes of ``file`` after its position."""
    start = file.tell()
    end = file.seek(0, 2)
    file.seek(start)
    return end - start


class TupleSizes:
    """Counts the values that a pickle makes.

    Python hashes and compares tuples and frozen sets in full. The size of tuples that hold each
    other can double with every line of a file, and so can the time to hash them. Values made by
    constructors are counted together, because a file may make the same long value many times.
    """

    def __init__(self, num_bytes: int) -> None:
        self._known: dict[int, tuple[Any, int]] = {}  # keeps each tuple, so that no id is reused
        self._left = num_bytes + 2**16

    def count(self, value: object) -> None:
        """Refuse more values from constructors than the file has bytes."""
        sized = isinstance(value, (str, bytes, list, tuple, dict, set, frozenset))
        self._left -= len(value) if sized else 1  # type: ignore[arg-type]
        if self._left < 0:
            raise pickle.UnpicklingError("it makes more values than it has bytes")

    def check(self, value: object) -> None:
        """Refuse ``value`` if it is a tuple of more than :data:`LARGEST_TUPLE` values."""
        if isinstance(value, (tuple, frozenset)) and self._count(value, 0) > LARGEST_TUPLE:
            raise pickle.UnpicklingError(f"it holds a tuple of more than {LARGEST_TUPLE} values")

    def _count(self, value: object, depth: int) -> int:
        if not isinstance(value, (tuple, frozenset)):
            return 1
        if depth > DEEPEST:
            raise pickle.UnpicklingError(f"it is nested more than {DEEPEST} deep")
        if id(value) not in self._known:
            total = 1 + sum(self._count(item, depth + 1) for item in value)
            self._known[id(value)] = (value, total)
        return self._known[id(value)][1]


def check_config(config: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
    """Refuse a configuration with more layers than ``weights`` has tensors, before it is built."""
    layers = config.get("num_layers")
    if isinstance(layers, int) and layers > len(weights):
        raise ValueError(f"num_layers={layers}, but the file has {len(weights)} tensors")


def check_count(number: int) -> None:
    """Refuse more tensors than any model has, before they are read."""
    if number > MOST_TENSORS:
        raise ValueError(f"it holds {number} tensors; expected at most {MOST_TENSORS}")


def check_tensors(weights: Mapping[str, Any]) -> None:
    """Refuse tensors that are not plain numbers in memory, or that repeat the file's numbers."""
    storages: dict[int, int] = {}
    total = 0
    for key, value in weights.items():
        if isinstance(value, ForeignTensor):
            raise ValueError(f"{key} is {value.kind}; expected plain numbers")
        if not isinstance(value, Tensor):
            continue
        plain = value.layout == torch.strided and value.device.type == "cpu"
        if not plain or value.is_quantized or value.dtype not in DTYPES.values():
            kind = value.layout if not plain else value.dtype
            raise ValueError(f"{key} is {kind} on {value.device}; expected plain numbers")
        storage = value.untyped_storage()
        if value.nbytes > storage.nbytes():
            raise ValueError(
                f"{key} {tuple(value.shape)} has fewer numbers in the file than its shape needs"
            )
        storages[storage.data_ptr()] = storage.nbytes()
        total += value.nbytes
    if total > MOST_SHARED * sum(storages.values()) + 2**20:
        raise ValueError(
            f"its tensors share their numbers: {sum(storages.values())} bytes in the file stand "
            f"for {total}; expected at most {MOST_SHARED} times as many"
        )
