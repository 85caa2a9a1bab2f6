"""The prepared cache: where it lies, what it was made from, and whether that is still so."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from . import files

MANIFEST = "prepared.json"
JOURNAL = "journal.json"
"""The manifest while the cache is being made."""
FOLDER = "prepared"

Manifest = dict[str, Any]


def fingerprint(path: Path) -> dict[str, int]:
    """Size in bytes and time of the last change of a file."""
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def crc(values: np.ndarray) -> int:
    """CRC-32 of the bytes of a contiguous array."""
    return zlib.crc32(values.data)


def checksum(path: Path) -> int:
    """CRC-32 of a small file."""
    return zlib.crc32(path.read_bytes())


def read_manifest(path: Path) -> Manifest:
    """The manifest in the file `path`; ValueError when it is damaged."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != 1:
            raise ValueError(f"format {manifest['format']}")
        return manifest
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: not a whole manifest of format 1 ({error}); delete {path.parent} and prepare it anew"
        ) from None


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Replace the manifest in one step, without waiting for the disk: its checksums tell what really got there."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(manifest), encoding="utf-8")
    temporary.replace(path)


def block_ranges(num_rows: int, rows: int) -> Iterator[slice]:
    """Slices of `rows` rows that cover `num_rows`."""
    return (slice(start, min(start + rows, num_rows)) for start in range(0, num_rows, rows))


def changes(manifest: Manifest, source: Path) -> dict[str, str]:
    """In words, by file name: what in the folder `source` is not as the manifest has it. Missing files do no harm."""
    found = {}
    for name, entry in manifest["files"].items():
        path = source / name
        if not path.is_file():
            continue
        now, then = fingerprint(path), entry["fingerprint"]
        if now["size"] != then["size"]:
            found[name] = f"{path} has {now['size']:,} bytes and had {then['size']:,}"
        elif now != then:
            found[name] = f"{path} was written to since"
    return found


def same_contents(manifest: Manifest, source: Path, name: str) -> bool:
    """Whether a source file still has the checksums it was prepared with, block by block."""
    entry = manifest["files"][name]
    if "blocks" not in entry:
        return checksum(source / name) == entry["checksum"]
    table = files.Table(source, Path(name).stem)
    if list(table.shape) != entry["shape"]:
        return False
    ranges = block_ranges(len(table), entry["rows"])
    return all(
        crc(table[rows]) == block["source"]
        for rows, block in zip(ranges, entry["blocks"], strict=True)
    )


def is_whole(folder: Path, manifest: Manifest, name: str) -> bool:
    """Whether what the cache holds of a source file still has the checksums it was written with."""
    entry = manifest["files"][name]
    if "blocks" not in entry:
        return (folder / name).is_file() and checksum(folder / name) == entry["checksum"]
    table = files.Table(folder, Path(name).stem)
    ranges = block_ranges(len(table), entry["rows"])
    return all(
        crc(table[rows]) == block["cache"]
        for rows, block in zip(ranges, entry["blocks"], strict=True)
    )


def find_cache(root: str | Path) -> Path:
    """`root/prepared` when a cache lies there, else `root`; ValueError when the cache is stale."""
    root = Path(root)
    folder = root / FOLDER if (root / FOLDER / MANIFEST).is_file() else root
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder / MANIFEST)
        stale = changes(manifest, (folder.resolve() / manifest["source"]).resolve())
        if stale:
            raise ValueError(
                f"{folder}: this cache is stale: {'; '.join(stale.values())}. Needed: `jca-fast data prepare` "
                "once more (it compares the contents), or delete the cache"
            )
    return folder
