"""The table of architectures on which "auto" trusts the kernels, from recorded runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.gpu import store

TARGET = store.ROOT / "jca_fast" / "ops" / "backends" / "verified.py"
TAIL = (
    '"""(backend, architecture class, tier) of the recorded runs in benchmarks/results that passed '
    'every check."""\n'
)


def write_table(results: Path, target: Path | None = None) -> int:
    """Rewrite ``jca_fast/ops/backends/verified.py``: only whole runs on a device that passed
    everything count.
    """
    target = target or TARGET
    rows: set[tuple[str, str, str]] = set()
    for path in sorted(results.glob("gpu_*.json")):
        rows |= proven(store.read(path))
    head = target.read_text().split("VERIFIED:")[0]
    lines = "".join(f'        ("{b}", "{a}", "{t}"),\n' for b, a, t in sorted(rows))
    body = f"frozenset(\n    {{\n{lines}    }}\n)" if rows else "frozenset()"
    target.write_text(f"{head}VERIFIED: frozenset[tuple[str, str, str]] = {body}\n{TAIL}")
    print(f"{target}: {len(rows)} rows")
    return 0


def proven(record: dict[str, Any]) -> set[tuple[str, str, str]]:
    """The (backend, architecture class, tier) that one record proves."""
    if not record.get("passed") or not record.get("complete") or record.get("dry run"):
        return set()
    checks = record["phases"]["checks"]["checks"]
    names = (name.split() for name in checks if name.startswith("verify "))
    return {(backend, record["machine"]["architecture"], tier) for _, backend, tier in names}
