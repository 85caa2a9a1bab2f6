"""Published checkpoints as safetensors files: tensors, facts about their file, and a checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..reading import naming_unreadable
from .bounds import check_count

FORMAT = "jca_fast published 1"


def is_safetensors(path: Path) -> bool:
    """Whether a file ends in .safetensors, or starts with the eight-byte length of a header."""
    with naming_unreadable(path), path.open("rb") as file:
        start = file.read(9)
    return path.suffix == ".safetensors" or (start[5:8] == b"\0\0\0" and start[8:] == b"{")


def write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write ``tensors`` under their names, and ``facts`` and a checksum of both as metadata.

    ``facts`` has "names", a list of (name, name in the published file) in the order of that file,
    "entry", "extra" and "model"; see :func:`read`.
    """
    from safetensors.torch import save

    plain = {key: value.detach().clone() for key, value in tensors.items()}
    published = json.dumps(facts)
    metadata = {"format": FORMAT, "published": published, "sha256": _checksum(plain, published)}
    path.write_bytes(save(plain, metadata))  # save_file would leave its own temporary file


def read(path: Path) -> tuple[dict[str, Tensor], str, dict[str, Any]]:
    """The state_dict as the published file had it, its entry, and the other entries.

    Raises ValueError for a damaged file, damaged metadata or a checksum that does not match.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            check_count(len(names))
            tensors = {key: file.get_tensor(key) for key in names}
    except SafetensorError as error:
        raise ValueError(f"not a whole safetensors file: {error}") from error
    if not _is_published(metadata):
        return tensors, "", {}
    expected = metadata.get("sha256")
    if expected and expected != _checksum(tensors, metadata.get("published", "")):
        raise ValueError("damaged: the checksum in its metadata does not match")
    try:
        facts = json.loads(metadata["published"])
        pairs = facts.get("names") or [(key, str(facts["prefix"]) + key) for key in tensors]
        named = {str(published): tensors[key] for key, published in pairs}
        return named, str(facts["entry"]), dict(facts["extra"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"its metadata 'published' is not what jca-fast convert writes: {error}"
        ) from error


def _is_published(metadata: Mapping[str, str]) -> bool:
    """Whether :func:`write` made the metadata; ValueError if one of its keys is damaged.

    Files of earlier versions have no checksum.
    """
    named = metadata.get("format") == FORMAT
    if not named and not metadata.keys() >= {"published", "sha256"}:
        return False
    if not named or not ("sha256" in metadata or metadata.keys() == {"format", "published"}):
        raise ValueError(f"damaged: its metadata are not whole, found {', '.join(metadata)}")
    return True


def _checksum(tensors: Mapping[str, Tensor], published: str) -> str:
    """SHA-256 of the names, types, shapes and values of the tensors, and of the published facts."""
    digest = hashlib.sha256(published.encode())
    for key in sorted(tensors):
        value = tensors[key]
        digest.update(f"\n{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
