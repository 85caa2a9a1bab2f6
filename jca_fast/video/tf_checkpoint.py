"""Reads TensorFlow checkpoints of the first version (one file), without TensorFlow.

Such a file is a sorted table of LevelDB: blocks of entries whose keys share prefixes, an index
block, and a footer of 48 bytes. Every value except that of the empty key is a protocol buffer
`SavedTensorSlices { SavedSlice data = 2 }` with `SavedSlice { string name = 1; TensorProto data
= 3 }` and `TensorProto { dtype = 1; tensor_shape = 2; tensor_content = 4; float_val = 5 }`. The
shape of a whole tensor is in the metadata, `SavedTensorSlices { SavedTensorSliceMeta meta = 1 }`,
under the empty key. Only float32 tensors that are stored as one slice are read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
_FOOTER = 48
_FLOAT = 1  # DT_FLOAT


def is_table(path: Path) -> bool:
    """Whether the file ends like a table of LevelDB."""
    with path.open("rb") as file:
        file.seek(0, 2)
        if file.tell() < _FOOTER:
            return False
        file.seek(-8, 2)
        return file.read(8) == MAGIC


def read(path: Path) -> dict[str, np.ndarray]:
    """The float32 tensors of a checkpoint by name; ValueError if it is damaged or compressed."""
    content = path.read_bytes()
    try:
        return _tensors(content)
    except (ValueError, IndexError, struct.error) as error:
        raise ValueError(f"{path}: not a whole TensorFlow checkpoint ({error})") from None


def _tensors(content: bytes) -> dict[str, np.ndarray]:
    footer = content[-_FOOTER:]
    _, at = _varint(footer, 0)
    _, at = _varint(footer, at)  # skips the handle of the meta index
    shapes: dict[str, tuple[int, ...]] = {}
    tensors: dict[str, np.ndarray] = {}
    for _, handle in _entries(_block(content, footer, at)):
        for key, value in _entries(_block(content, handle, 0)):
            fields = _fields(value)
            if not key:
                shapes = _shapes(fields[1][0])
            else:
                name, values = _slice(fields[2][0])
                tensors[name] = values
    missing = [name for name in tensors if tensors[name].size != np.prod(shapes.get(name, (-1,)))]
    if missing:
        raise ValueError(f"{missing[0]} is not stored as one slice of float32")
    return {name: values.reshape(shapes[name]) for name, values in tensors.items()}


def _block(content: bytes, handle: bytes, at: int) -> bytes:
    offset, at = _varint(handle, at)
    size, _ = _varint(handle, at)
    if offset + size >= len(content):
        raise ValueError(f"a block of {size} bytes at {offset} ends beyond the file")
    if content[offset + size]:
        raise ValueError("its blocks are compressed")
    return content[offset : offset + size]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of every entry; a key shares a prefix with the key before it."""
    (restarts,) = struct.unpack("<I", block[-4:])
    end = len(block) - 4 * (restarts + 1)
    at = 0
    key = b""
    while at < end:
        shared, at = _varint(block, at)
        fresh, at = _varint(block, at)
        size, at = _varint(block, at)
        key = key[:shared] + block[at : at + fresh]
        at += fresh
        yield key, block[at : at + size]
        at += size


def _shapes(meta: bytes) -> dict[str, tuple[int, ...]]:
    """The shapes in `SavedTensorSliceMeta { SavedSliceMeta { name = 1; shape = 2 } = 1 }`."""
    shapes = {}
    for tensor in _fields(meta).get(1, []):
        fields = _fields(tensor)
        dims = _fields(fields[2][0]).get(2, []) if 2 in fields else []
        shapes[fields[1][0].decode()] = tuple(_fields(dim)[1][0] for dim in dims)
    return shapes


def _slice(saved: bytes) -> tuple[str, np.ndarray]:
    fields = _fields(saved)
    tensor = _fields(fields[3][0])
    if tensor.get(1, [_FLOAT])[0] != _FLOAT:
        return fields[1][0].decode(), np.empty(0, np.float32)
    parts = tensor.get(4) or tensor.get(5, [])
    return fields[1][0].decode(), np.frombuffer(b"".join(parts), "<f4")


def _fields(message: bytes) -> dict[int, list[Any]]:
    """The fields of a protocol buffer by number: bytes, or whole numbers."""
    fields: dict[int, list[Any]] = {}
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        value: Any
        if kind == 0:
            value, at = _varint(message, at)
        elif kind == 2:
            size, at = _varint(message, at)
            value, at = message[at : at + size], at + size
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = message[at : at + size], at + size
        else:
            raise ValueError(f"unknown wire type {kind}")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
