"""The prepared cache: its folder, the manifest of its sources, and checks of both."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jca_fast import atomic
from jca_fast.reading import naming_unreadable, read_text, user_path

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
    with naming_unreadable(path):
        return zlib.crc32(path.read_bytes())


def read_manifest(path: Path) -> Manifest:
    """The manifest in the file `path`; ValueError if it is damaged or has other content.

    Manifests of earlier versions have no checksum.
    """
    text = read_text(path)
    try:
        manifest = json.loads(text)
        stated = manifest.pop("checksum", None)
        _check_manifest(manifest)
        _require(stated in (None, _checksum_of(manifest)), "checksum")
        return manifest
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path}: not a whole manifest of format 1 ({type(error).__name__}: {error}); "
            f"delete {path.parent} and prepare it again"
        ) from None


def _checksum_of(manifest: Manifest) -> int:
    """CRC-32 of a manifest, without the entry of this number."""
    return zlib.crc32(json.dumps(manifest).encode())


def _check_manifest(manifest: Any) -> None:
    _require(set(manifest) == {"format", "dtype", "source", "files"}, "entries")
    if manifest["format"] != 1:
        raise ValueError(f"format {manifest['format']}")
    _require(manifest["dtype"] in ("float32", "float16"), "dtype")
    _require(isinstance(manifest["source"], str) and "\0" not in manifest["source"], "source")
    os.fsencode(manifest["source"])  # raises for a text that no path has
    for name, entry in manifest["files"].items():
        _require(Path(name).name == name and "\0" not in name, f"file name {name!r}")
        numbers = [entry["fingerprint"]["size"], entry["fingerprint"]["mtime_ns"]]
        if "blocks" in entry:
            numbers += [entry["rows"], *entry["shape"]]
            for block in entry["blocks"]:
                keys = ("source", "cache", "inexact", "vanished", "not_finite")
                numbers += [block[key] for key in keys]
                _require(isinstance(block["error"], int | float), f"error of a block of {name}")
            _require(min([entry["rows"], *entry["shape"]], default=0) > 0, f"shape of {name}")
            _require(Path(name).stem in files.LAYOUT, f"feature file {name!r}")
        elif entry["checksum"] is not None:  # not copied yet, in a journal
            numbers.append(entry["checksum"])
        _require(all(type(number) is int for number in numbers), f"numbers of {name}")


def _require(valid: bool, field: str) -> None:
    if not valid:
        raise ValueError(f"wrong {field}")


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Replace the manifest in one step, without waiting for the disk.

    After a crash its checksums identify the blocks that reached the disk.
    """
    with atomic.replacing(path, durable=False) as temporary:
        text = json.dumps({**manifest, "checksum": _checksum_of(manifest)})
        temporary.write_text(text, encoding="utf-8")


def block_ranges(num_rows: int, rows: int) -> Iterator[slice]:
    """Slices of `rows` rows that cover `num_rows`."""
    return (slice(start, min(start + rows, num_rows)) for start in range(0, num_rows, rows))


def changes(manifest: Manifest, source: Path) -> dict[str, str]:
    """One sentence, by file name, for each file in the folder `source` that has changed.

    Missing files are ignored, because a cache may be used without its source.
    """
    found = {}
    for name, entry in manifest["files"].items():
        path = source / name
        if not path.is_file():
            continue
        now, then = fingerprint(path), entry["fingerprint"]
        if now["size"] != then["size"]:
            found[name] = f"{path} has {now['size']:,} bytes and had {then['size']:,}"
        elif now != then:
            found[name] = f"{path} has been written since"
    return found


def same_contents(manifest: Manifest, source: Path, name: str) -> bool:
    """Whether a source file still has the checksums it was prepared with, block by block."""
    entry = manifest["files"][name]
    if "blocks" not in entry:
        return checksum(source / name) == entry["checksum"]
    table = files.Table(source, Path(name).stem)
    if list(table.shape) != entry["shape"]:
        return False
    return _same_blocks(table, entry, "source")


def is_whole(folder: Path, manifest: Manifest, name: str) -> bool:
    """Whether the cache's copy of a source file has the checksums it was written with."""
    entry = manifest["files"][name]
    if "blocks" not in entry:
        return (folder / name).is_file() and checksum(folder / name) == entry["checksum"]
    return _same_blocks(files.Table(folder, Path(name).stem), entry, "cache")


def _same_blocks(table: files.Table, entry: dict[str, Any], key: str) -> bool:
    ranges = list(block_ranges(len(table), entry["rows"]))
    return len(ranges) == len(entry["blocks"]) and all(
        crc(table[rows]) == block[key] for rows, block in zip(ranges, entry["blocks"], strict=True)
    )


def find_cache(root: str | Path) -> Path:
    """`root/prepared` if it holds a cache, else `root`; ValueError if the cache is stale."""
    root = user_path(root)
    folder = root / FOLDER if (root / FOLDER / MANIFEST).is_file() else root
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder / MANIFEST)
        stale = changes(manifest, (folder.resolve() / manifest["source"]).resolve())
        if stale:
            raise ValueError(
                f"{folder}: this cache is stale: {'; '.join(stale.values())}. Needed: "
                "`jca-fast data prepare` again (it compares the contents), or delete the cache"
            )
    return folder


def open_table(root: Path, stem: str) -> files.Table:
    """The table `stem` in the folder `root`; features of a prepared cache check their blocks."""
    if not (root / MANIFEST).is_file():
        return files.Table(root, stem)
    entries = read_manifest(root / MANIFEST)["files"]
    entry = entries.get(f"{stem}.h5") or entries.get(f"{stem}.npy")
    path = files.find(root, stem)
    if not entry:
        raise _damaged(path, f": not a file in {MANIFEST}")
    return CheckedTable(root, stem, entry) if "blocks" in entry else files.Table(root, stem)


def verify_small_files(folder: Path) -> None:
    """ValueError if `folder` is a cache in which a file other than the features is damaged."""
    if not (folder / MANIFEST).is_file():
        return
    for name, entry in read_manifest(folder / MANIFEST)["files"].items():
        if "blocks" not in entry and checksum(folder / name) != entry["checksum"]:
            raise _damaged(folder / name, "")


class CheckedTable(files.Table):
    """A feature file of a cache; the checksum of each block is verified when it is first read.

    Raises ValueError naming the file and the damaged rows. DataLoader workers share the record of
    the verified blocks.
    """

    def __init__(self, root: Path, stem: str, entry: dict[str, Any]):
        import torch

        super().__init__(root, stem)
        self._rows = entry["rows"]
        self._checksums = [block["cache"] for block in entry["blocks"]]
        if list(self.shape) != entry["shape"] or len(self) > self._rows * len(self._checksums):
            raise _damaged(self.path, f": found shape {self.shape}; needed: {entry['shape']}")
        self._verified = torch.zeros(len(self._checksums), dtype=torch.bool).share_memory_()

    def __getitem__(self, rows: int | slice) -> np.ndarray:
        first, last = (rows, rows + 1) if isinstance(rows, int) else rows.indices(len(self))[:2]
        for block in range(first // self._rows, -(-last // self._rows)):
            if not self._verified[block]:
                self._verify(block)
        return super().__getitem__(rows)

    def _verify(self, block: int) -> None:
        rows = slice(block * self._rows, min((block + 1) * self._rows, len(self)))
        if crc(super().__getitem__(rows)) != self._checksums[block]:
            raise _damaged(self.path, f", rows {rows.start} to {rows.stop - 1}")
        self._verified[block] = True


def _damaged(path: Path, where: str) -> ValueError:
    return ValueError(
        f"{path}{where}: damaged since the cache was made; "
        "needed: `jca-fast data prepare --overwrite`"
    )
