"""The table of architectures on which "auto" trusts the kernels, from recorded runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.gpu import store

TARGET = store.ROOT / "jca_fast" / "gpu" / "verified.py"
TAIL = '"""(architecture class, tier) pairs of the recorded runs in benchmarks/results that passed every check."""\n'


def write_table(results: Path, target: Path | None = None) -> int:
    """Rewrite ``jca_fast/gpu/verified.py``: only whole runs on a device that passed everything count."""
    target = target or TARGET
    pairs: set[tuple[str, str]] = set()
    for path in sorted(results.glob("gpu_*.json")):
        pairs |= proven(store.read(path))
    head = target.read_text().split("VERIFIED:")[0]
    rows = "".join(
        f'        ("{architecture}", "{tier}"),\n' for architecture, tier in sorted(pairs)
    )
    body = f"frozenset(\n    {{\n{rows}    }}\n)" if pairs else "frozenset()"
    target.write_text(f"{head}VERIFIED: frozenset[tuple[str, str]] = {body}\n{TAIL}")
    print(f"{target}: {len(pairs)} pairs")
    return 0


def proven(record: dict[str, Any]) -> set[tuple[str, str]]:
    """The (architecture class, tier) pairs that one record proves."""
    if not record.get("passed") or not record.get("complete") or record.get("dry run"):
        return set()
    checks = record["phases"]["checks"]["checks"]
    names = (
        name.removeprefix("verify ") for name, check in checks.items() if name.startswith("verify ")
    )
    return {(record["machine"]["architecture"], tier) for tier in names}
