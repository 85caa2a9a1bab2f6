"""The tables of architectures on which "auto" trusts the kernels, and of the fastest backends, from
recorded runs.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from benchmarks.gpu import store

TARGET = store.ROOT / "jca_fast" / "ops" / "backends" / "verified.py"
MEASURED = {"layers": ("joint_coattention", 10 * 512), "visual": ("visual_reduction", 512)}
"""The op that a phase measures, and the elements of its first tensor for each sample."""
Fastest = dict[tuple[str, str, str], dict[int, str]]
"""By (op, architecture class, tier) and elements, the name of the fastest backend."""


def write_table(results: Path, target: Path | None = None) -> int:
    """Rewrite ``jca_fast/ops/backends/verified.py``: only whole runs on a device that passed
    everything are trusted; any run may show which backend is faster.
    """
    target = target or TARGET
    records = [store.read(path) for path in sorted(results.glob("gpu_*.json"))]
    rows = set().union(*map(proven, records))
    lines = "".join(f'        ("{b}", "{a}", "{t}"),\n' for b, a, t in sorted(rows))
    verified = f"frozenset(\n    {{\n{lines}    }}\n)" if rows else "frozenset()"
    times = compared(records)
    lines = "".join(f"    {key}: {tuple(sizes.items())},\n" for key, sizes in times.items())
    fastest = f"{{\n{lines}}}" if times else "{}"
    text = target.read_text()
    for name, body in {"VERIFIED": verified, "FASTEST": fastest}.items():
        value = rf'(\n{name}: [^=]*= ).*?(?=\n""")'
        text = re.sub(value, rf"\g<1>{body}", text, flags=re.DOTALL)
    target.write_text(text)
    print(f"{target}: {len(rows)} rows, {len(times)} of compared backends")
    return 0


def compared(records: list[dict[str, Any]]) -> Fastest:
    """The fastest backend of each case that several backends have run on one device; a later record
    replaces an earlier one.
    """
    times: dict[tuple[Any, ...], dict[str, float]] = {}
    for record in records:
        if record.get("dry run") or "backend" not in record:
            continue
        machine = record["machine"]
        for phase, (op, elements) in MEASURED.items():
            for row in record["phases"].get(phase, {}).get("rows", []):
                if "failed" in row or row["layers"] != 1:
                    continue
                case = op, machine["architecture"], row["tier"], row["batch"] * elements
                found = times.setdefault((*case, machine["device"]), {})
                found[record["backend"]] = microseconds(row)
    fastest: Fastest = {}
    for (*key, size, _), found in sorted(times.items()):
        if len(found) > 1:
            fastest.setdefault(tuple(key), {})[size] = min(found, key=found.__getitem__)
    return fastest


def microseconds(row: dict[str, Any]) -> float:
    """The time of a call and its backward, with the host's part of it where that was measured."""
    way = row.get("forward+backward", row["forward"])
    return float(way.get("eager", way["graph"])["fused"]["median"])


def proven(record: dict[str, Any]) -> set[tuple[str, str, str]]:
    """The (backend, architecture class, tier) that one record proves."""
    if not record.get("passed") or not record.get("complete") or record.get("dry run"):
        return set()
    checks = record["phases"]["checks"]["checks"]
    names = (name.split() for name in checks if name.startswith("verify "))
    return {(backend, record["machine"]["architecture"], tier) for _, backend, tier in names}
