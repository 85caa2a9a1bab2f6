"""Casts feature files block by block and reports the changes of their values."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jca_fast.atomic import naming

from . import cache, files

BLOCK_BYTES = 2**24
"""The bytes of source rows in memory at once."""


@dataclass(frozen=True)
class CastReport:
    """The changes of values by the cast of one feature file; `str()` gives one sentence."""

    name: str
    dtype: str
    values: int
    inexact: int  # values that the cast changed
    vanished: int  # those of them that became 0
    largest_error: float  # absolute
    not_finite: int  # NaN and infinite values of the source, which do not change

    def __str__(self) -> str:
        text = f"{self.name} to {self.dtype}: "
        if self.inexact:
            text += f"{self.inexact / self.values:.2%} of the values rounded, "
            text += f"by at most {self.largest_error:.2g}"
            text += f"; {self.vanished:,} became 0" if self.vanished else ""
        else:
            text += "lossless"
        return text + (
            f"; {self.not_finite:,} values are NaN or infinite" if self.not_finite else ""
        )


def cast_block(
    source: np.ndarray, dtype: np.dtype, where: str
) -> tuple[np.ndarray, dict[str, Any]]:
    """The block in `dtype`, and the counts of a :class:`CastReport` for it."""
    with np.errstate(over="ignore"):
        values = source.astype(dtype)
    back = values.astype(source.dtype)
    facts: dict[str, Any] = {"inexact": 0, "vanished": 0, "error": 0.0, "not_finite": 0}
    if np.array_equal(back, source) and np.isfinite(source).all():
        return values, facts
    finite = np.isfinite(source)
    beyond = finite & ~np.isfinite(values)
    if beyond.any():
        raise ValueError(
            f"{where}: found the value {source[beyond][0]:.6g}; "
            f"needed: at most {np.finfo(dtype).max:.6g}, the range of {dtype}"
            + ("; use float32" if dtype == np.float16 else "")
        )
    changed = finite & (back != source)
    facts["inexact"], facts["vanished"] = int(changed.sum()), int((changed & (back == 0)).sum())
    facts["not_finite"] = int((~finite).sum())
    facts["error"] = float(np.max(np.abs(back[changed] - source[changed]), initial=0))
    return values, facts


def cast_reports(manifest: dict[str, Any]) -> list[CastReport]:
    """One report for each feature file of a manifest."""
    reports = []
    for name, entry in manifest["files"].items():
        if "blocks" in entry:
            total = {
                key: sum(block[key] for block in entry["blocks"])
                for key in ("inexact", "vanished", "not_finite")
            }
            error = max(block["error"] for block in entry["blocks"])
            values = int(np.prod(entry["shape"]))
            reports.append(
                CastReport(name, manifest["dtype"], values, largest_error=error, **total)
            )
    return reports


def cast_table(
    table: files.Table,
    staging: Path,
    manifest: cache.Manifest,
    entry: dict[str, Any],
    progress: bool,
) -> None:
    """Cast the blocks of `table` that are not yet in its `.npy` file."""
    from tqdm import tqdm

    dtype, blocks = np.dtype(manifest["dtype"]), entry["blocks"]
    ranges = list(cache.block_ranges(len(table), entry["rows"]))
    path = staging / f"{table.path.stem}.npy"
    path.touch()
    with (
        naming(path),
        path.open("r+b") as file,
        tqdm(total=len(table), desc=table.path.stem, disable=not progress) as bar,
    ):
        header = {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": table.shape,
        }
        np.lib.format.write_array_header_1_0(file, header)
        del blocks[_intact(file, blocks, ranges, table, dtype) :]
        bar.update(sum(rows.stop - rows.start for rows in ranges[: len(blocks)]))
        for rows in ranges[len(blocks) :]:
            source = table[rows]
            values, facts = cast_block(
                source, dtype, f"{table}, rows {rows.start} to {rows.stop - 1}"
            )
            file.write(values.data)
            file.flush()
            blocks.append({"source": cache.crc(source), "cache": cache.crc(values), **facts})
            cache.write_manifest(staging / cache.JOURNAL, manifest)
            bar.update(len(source))


def _intact(
    file: BinaryIO, blocks: list[Any], ranges: list[slice], table: files.Table, dtype: np.dtype
) -> int:
    """Number of leading blocks with matching checksums; the file position ends after them."""
    row_bytes = table.row_bytes() // table.dtype.itemsize * dtype.itemsize
    for i, (block, rows) in enumerate(zip(blocks, ranges, strict=False)):
        start = file.tell()
        if zlib.crc32(file.read((rows.stop - rows.start) * row_bytes)) != block["cache"]:
            file.seek(start)
            return i
    return len(blocks)
