"""Compares two results of `jca-fast bench` and finds cases that became slower or larger."""

from __future__ import annotations

from typing import Any

LEAST = 0.05
"""The smallest relative fall of a speed-up, or growth of the memory, that is a regression."""
LEAST_MIB = 1.0


def compare(before: dict[str, Any], after: dict[str, Any]) -> tuple[list[str], bool]:
    """Lines on all cases that both results have, and whether any of them regressed.

    A case is slower if its speed-up over the baseline fell by more than 5 % and the ranges of the
    rounds (20th to 80th percentile) do not overlap. Speed-ups are compared because both providers
    of a round run at the same clock rate. Memory is larger if it grew by more than 5 % and 1 MiB.
    """
    shared = [name for name in before["cases"] if name in after["cases"]]
    if not shared:
        raise ValueError("the two files have no case in common; needed: both quick, or neither")
    lines, slower = list(_machines(before, after)), False
    for name in shared:
        verdict = _verdict(before["cases"][name], after["cases"][name])
        slower |= verdict.startswith("SLOWER")
        lines.append(f"{name:<44} {verdict}")
    for name, old in before.get("memory", {}).items():
        new = after.get("memory", {}).get(name)
        if new and new["jca_fast"] > max(
            old["jca_fast"] * (1 + LEAST), old["jca_fast"] + LEAST_MIB
        ):
            slower = True
            lines.append(f"{name:<44} LARGER: {old['jca_fast']:.1f} to {new['jca_fast']:.1f} MiB")
    lines.append("regressions found" if slower else "no regression beyond the noise")
    return lines, slower


def _machines(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """A line for each fact in which the machines differ."""
    names = ("processor", "threads", "torch", "kernels")
    pairs = ((n, before["machine"].get(n), after["machine"].get(n)) for n in names)
    return [f"note: {name} was {old}, is {new}" for name, old, new in pairs if old != new]


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
