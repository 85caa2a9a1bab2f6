"""Compares two results of `jca-fast bench` and finds cases that became slower or larger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jca_fast.reading import read_json, require_number

LEAST = 0.05
"""The smallest relative fall of a speed-up, or growth of the memory, that is a regression."""
LEAST_MIB = 1.0


def read(path: Path) -> dict[str, Any]:
    """The result in a file; an error names the file and the value that does not fit."""
    result = read_json(path)
    if not isinstance(result, dict) or not isinstance(result.get("cases"), dict):
        raise ValueError(f"{path}: holds no cases; needed: the bench.json of `jca-fast bench`")
    for key, kind in (("machine", dict), ("memory", dict), ("disturbances", list)):
        if not isinstance(result.setdefault(key, kind()), kind):
            found = type(result[key]).__name__
            raise ValueError(f"{path}: {key} holds a {found}; needed: a {kind.__name__}")
    for name in result["cases"]:
        for key in ("ratio", "low", "high"):
            require_number(path, result, "cases", name, "times", "eager", key)
    for name in result["memory"]:
        require_number(path, result, "memory", name, "jca_fast")
    return result


def compare(before: dict[str, Any], after: dict[str, Any]) -> tuple[list[str], bool]:
    """Lines on all cases of two results of `read`, and whether any case of both regressed.

    A case is slower if its speed-up over the baseline fell by more than 5 % and the ranges of the
    rounds (20th to 80th percentile) do not overlap. Speed-ups are compared because both providers
    of a round run at the same clock rate. Memory is larger if it grew by more than 5 % and 1 MiB.
    Notes name other machines, disturbed runs, and the cases that only one result has.
    """
    shared = [name for name in before["cases"] if name in after["cases"]]
    if not shared:
        raise ValueError("the two files have no case in common; needed: both quick, or neither")
    lines, slower = [*_machines(before, after), *_notes(before, after)], False
    width = max(map(len, [*shared, *before["memory"]]))
    for name in shared:
        verdict = _verdict(before["cases"][name], after["cases"][name])
        slower |= verdict.startswith("SLOWER")
        lines.append(f"{name:<{width}} {verdict}")
    for name, old in before["memory"].items():
        new = after["memory"].get(name)
        if new and new["jca_fast"] > max(
            old["jca_fast"] * (1 + LEAST), old["jca_fast"] + LEAST_MIB
        ):
            slower = True
            change = f"{old['jca_fast']:.1f} to {new['jca_fast']:.1f} MiB"
            lines.append(f"{name:<{width}} LARGER: {change}")
    lines.append("regressions found" if slower else "no regression beyond the noise")
    return lines, slower


def _machines(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """A line for each fact in which the machines differ."""
    names = ("processor", "threads", "torch", "kernels")
    pairs = ((n, before["machine"].get(n), after["machine"].get(n)) for n in names)
    return [f"note: {name} was {old}, is {new}" for name, old, new in pairs if old != new]


def _notes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """A line for each disturbance of a run, and for each case that only one result has."""
    notes = []
    for this, other, place in ((before, after, "first"), (after, before, "second")):
        notes += [f"the {place} run was disturbed: {reason}" for reason in this["disturbances"]]
        for part in ("cases", "memory"):
            missing = [name for name in this[part] if name not in other[part]]
            notes += [f"{name} is in the {place} file only" for name in missing]
    return [f"note: {text}" for text in notes]


def _verdict(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The change of the speed-up over eager PyTorch."""
    old, new = before["times"]["eager"], after["times"]["eager"]
    ranges = f"{_range(old)} to {_range(new)}"
    if new["ratio"] < (1 - LEAST) * old["ratio"] and new["high"] < old["low"]:
        return f"SLOWER: speed-up {ranges}"
    if old["ratio"] < (1 - LEAST) * new["ratio"] and old["high"] < new["low"]:
        return f"faster: speed-up {ranges}"
    return f"same: speed-up {ranges}"


def _range(times: dict[str, float]) -> str:
    return f"{times['ratio']:.2f} ({times['low']:.2f}-{times['high']:.2f})"
