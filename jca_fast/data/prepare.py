"""Makes a memory-mapped cache of the published float64 features.

It needs little memory and resumes after a kill. The cache appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import os.path
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from jca_fast import atomic

from . import cache, cast, files, record
from .cast import CastReport, cast_reports, cast_table
from .hdf5 import open_h5


def prepare(
    root: str | Path,
    out: str | Path | None = None,
    *,
    dtype: str = "float32",
    overwrite: bool = False,
    progress: bool = False,
) -> list[CastReport]:
    """Write the cache of the set in the folder `root` to the folder `out` (default
    `root/prepared`).

    Features become `.npy` files of `dtype` float32 or float16 with the same rows, which
    `AVEDataset` maps into memory; labels, splits and companions are copied, so that
    `AVEDataset(out)` needs no other file. `out` appears when all of it is complete. A run that was
    killed is resumed where it stopped and ends with the same bytes. It takes about 100 MB of
    memory.

    Returns a report for each feature file, which says whether the cast is lossless. A finished
    cache is kept if its source is unchanged, by size and time or else by the checksums of the
    contents.

    Raises FileNotFoundError or ValueError for a bad source, for a cache of another source or dtype
    (unless `overwrite`) and for a value beyond the range of float16; OSError if the disk is too
    small.
    """
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype is {dtype!r}; needed: 'float32' or 'float16'")
    root = Path(root)
    out = root / cache.FOLDER if out is None else Path(out)
    tables = [
        files.Table(root, stem)
        for stem in files.LAYOUT
        if stem in files.REQUIRED or files.exists(root, stem)
    ]
    plan = _plan(root, out, tables, dtype)
    _require_cache_or_nothing(out)
    if (out / cache.MANIFEST).is_file() and not overwrite:
        return cast_reports(_finished(root, out, plan))
    staging = out.with_name(out.name + ".partial")
    taken = f"{staging}: another run is preparing this cache; needed: wait for it"
    with atomic.exclusive(staging, ValueError(taken)):
        manifest = _resume(staging, plan, overwrite)
        try:
            _require_space(staging, manifest)
            _fill(root, staging, tables, manifest, progress)
        except (ValueError, OSError):  # a bad source or disk; only a killed run can be resumed
            shutil.rmtree(staging, ignore_errors=True)
            raise
        _publish(staging, out, manifest)
    return cast_reports(manifest)


def _plan(root: Path, out: Path, tables: list[files.Table], dtype: str) -> cache.Manifest:
    """The manifest at the start, without blocks and checksums."""
    entries: dict[str, dict[str, Any]] = {}
    for table in tables:
        if "feature" in table.path.stem:
            rows = max(1, cast.BLOCK_BYTES // table.row_bytes())
            entries[table.path.name] = {"shape": list(table.shape), "rows": rows, "blocks": []}
        else:
            entries[table.path.name] = {"checksum": None}
    for name in (files.ANNOTATIONS, files.PLANTED, record.FILE, files.CLIPS):
        if (root / name).is_file():
            entries[name] = {"checksum": None}
    for name, entry in entries.items():
        entry["fingerprint"] = cache.fingerprint(root / name)
    return {
        "format": 1,
        "dtype": dtype,
        "source": os.path.relpath(root.resolve(), out.resolve()),
        "files": entries,
    }


def _finished(root: Path, out: Path, plan: cache.Manifest) -> cache.Manifest:
    """The manifest of the finished cache in `out`; ValueError unless `plan` would make the same."""
    manifest = cache.read_manifest(out / cache.MANIFEST)
    if manifest["dtype"] != plan["dtype"]:
        raise ValueError(
            f"{out}: holds a {manifest['dtype']} cache; "
            f"needed: another --out for {plan['dtype']}, or --overwrite"
        )
    stale = cache.changes(manifest, root)
    wrong = [text for name, text in stale.items() if not cache.same_contents(manifest, root, name)]
    wrong += [f"{root / name} is new" for name in plan["files"] if name not in manifest["files"]]
    if wrong:
        raise ValueError(
            f"{out}: this cache is stale: {'; '.join(wrong)}. Needed: --overwrite to replace it"
        )
    if stale or manifest["source"] != plan["source"]:
        for name in stale:
            manifest["files"][name]["fingerprint"] = plan["files"][name]["fingerprint"]
        cache.write_manifest(out / cache.MANIFEST, {**manifest, "source": plan["source"]})
    return manifest


def _require_cache_or_nothing(out: Path) -> None:
    if (
        out.exists()
        and not (out / cache.MANIFEST).is_file()
        and (not out.is_dir() or any(out.iterdir()))
    ):
        raise ValueError(f"{out}: exists and is not a cache; needed: a new or empty folder")


def _resume(staging: Path, plan: cache.Manifest, overwrite: bool) -> cache.Manifest:
    """The journal of a killed run of the same plan, or the plan for a new start."""
    for leftover in staging.glob(atomic.TEMPORARY):
        leftover.unlink()
    journal = staging / cache.JOURNAL
    try:
        manifest = cache.read_manifest(journal)
    except (FileNotFoundError, ValueError):
        return plan
    done = {name: entry.get("blocks") for name, entry in manifest["files"].items()}
    for name, entry in plan["files"].items():
        if "blocks" in entry and done.get(name):
            entry["blocks"] = done[name]
    if plan == manifest:
        return manifest
    if not overwrite:
        raise ValueError(
            f"{staging}: a half-made cache of another source or dtype; "
            "needed: delete it, or --overwrite"
        )
    for entry in plan["files"].values():
        if "blocks" in entry:
            entry["blocks"] = []
    return plan


def _require_space(staging: Path, manifest: cache.Manifest) -> None:
    shapes = [entry["shape"] for entry in manifest["files"].values() if "blocks" in entry]
    size = sum(int(np.prod(shape)) for shape in shapes) * np.dtype(manifest["dtype"]).itemsize
    size += sum(
        entry["fingerprint"]["size"]
        for entry in manifest["files"].values()
        if "blocks" not in entry
    )
    files.require_space(
        staging, size - sum(path.stat().st_blocks * 512 for path in staging.iterdir()), "the cache"
    )


def _fill(
    root: Path, staging: Path, tables: list[files.Table], manifest: cache.Manifest, progress: bool
) -> None:
    """Cast the features and copy everything else."""
    for table in tables:
        entry = manifest["files"][table.path.name]
        if "blocks" in entry:
            cast_table(table, staging, manifest, entry, progress)
    for name, entry in manifest["files"].items():
        if "blocks" not in entry:
            unlocked = open_h5(root / name) if name.endswith(".h5") else contextlib.nullcontext()
            with unlocked, atomic.naming(staging / name):
                shutil.copyfile(root / name, staging / name)
            entry["checksum"] = cache.checksum(staging / name)


def _publish(staging: Path, out: Path, manifest: cache.Manifest) -> None:
    """Sync all files, then rename the folder to its final name."""
    cache.write_manifest(staging / cache.MANIFEST, manifest)
    for name in (cache.JOURNAL, ".lock"):
        (staging / name).unlink(missing_ok=True)
    for path in staging.iterdir():
        atomic.sync(path)
    old = out.with_name(out.name + ".old")
    if out.exists():
        out.rename(old)
    staging.rename(out)
    atomic.sync(out)
    atomic.sync(out.parent)
    shutil.rmtree(old, ignore_errors=True)
