"""What a cast to a smaller dtype does to values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class CastReport:
    """What the cast of one feature file did to its values; `str()` says it in words."""

    name: str
    dtype: str
    values: int
    inexact: int  # values that are not the same after the cast
    vanished: int  # of these, values that became 0
    largest_error: float  # absolute
    not_finite: int  # NaN and infinite values in the source, which stay as they are

    def __str__(self) -> str:
        text = f"{self.name} to {self.dtype}: "
        if self.inexact:
            text += f"{self.inexact / self.values:.2%} of the values rounded, by at most {self.largest_error:.2g}"
            text += f"; {self.vanished:,} became 0" if self.vanished else ""
        else:
            text += "lossless"
        return text + (
            f"; {self.not_finite:,} values are NaN or infinite" if self.not_finite else ""
        )


def cast_block(
    source: np.ndarray, dtype: np.dtype, where: str
) -> tuple[np.ndarray, dict[str, Any]]:
    """The block in `dtype`, and what that did to its values."""
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
            f"{where}: found the value {source[beyond][0]:.6g}; needed: at most {np.finfo(dtype).max:.6g}, "
            f"the range of {dtype}" + ("; use float32" if dtype == np.float16 else "")
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
