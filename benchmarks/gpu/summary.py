"""The short table that a run prints last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.gpu.bars import ABSENT


def table(record: dict[str, Any]) -> str:
    """One line per measured case, the verdicts on all bars, and the failures."""
    machine, phases = record["machine"], record["phases"]
    tree = f"{machine['commit'][:12]} ({machine['tree']})"
    lines = [
        f"{machine['device']}, torch {machine['torch']}, triton {machine['triton']}, commit {tree}"
    ]
    if record["dry run"]:
        lines.append(
            f"DRY RUN by the interpreter in tiers {', '.join(record['tiers'])}: no figure "
            "means anything"
        )
    for part in (_rates, _kernels, _layers, _training, _visual, _first_call):
        lines += part(phases)
    if "layers" in phases or "visual" in phases:
        lines += _verdicts(record)
    lines += [f"FAILED  {text}" for text in record["failures"]]
    seconds = "  ".join(f"{name} {found['seconds']:.0f} s" for name, found in phases.items())
    return "\n".join(
        [
            *lines,
            seconds,
            f"{'PASSED' if record['passed'] else 'FAILED'} in {record['seconds']:.0f} s",
        ]
    )


def _rows(phases: dict[str, Any], phase: str) -> Iterator[dict[str, Any]]:
    """The cases of a phase that have figures."""
    return (row for row in phases.get(phase, {}).get("rows", []) if "failed" not in row)


def _rates(phases: dict[str, Any]) -> list[str]:
    rates = phases.get("kernels", {}).get("rates")
    if not rates:
        return []
    return [
        f"measured: copy {rates['copy'] / 1e12:.2f} TB/s, bf16 {rates['bfloat16'] / 1e12:.0f} "
        "and TF32 "
        f"{rates['tf32'] / 1e12:.0f} TFLOP/s, tanh {rates['tanh'] / 1e12:.2f} T/s, empty graph "
        f"{rates['empty graph']:.1f} us, under load {phases['kernels'].get('clocks under load')}"
    ]


def _kernels(phases: dict[str, Any]) -> list[str]:
    lines = [
        f"{row['name']:<36} {name:<13} {x['kernel']:<22} {x['us']:>8.1f} {x['floor us']:>8.1f} "
        f"{x['bound by']:<6} {x['fraction']:>5.0%}"
        for row in _rows(phases, "kernels")
        for name, launches in row["launches"].items()
        for x in launches
    ]
    head = (
        f"{'each kernel of':<36} {'call':<13} {'kernel':<22} {'us':>8} {'floor':>8} "
        f"{'bound':<6} {'share':>5}"
    )
    return [head, *lines] if lines else []


def _layers(phases: dict[str, Any]) -> list[str]:
    """Our time under replay, and our speed-up over eager PyTorch and the best torch.compile."""
    lines = []
    for row in _rows(phases, "layers"):
        line = f"{row['name']:<32}"
        for way in ("forward", "forward+backward"):
            if way in row:
                eager = row[way]["eager"]["fused"]["median"]
                line += f" {_side(row[way]['graph'], row['modes'])} {eager:>8.1f}"
        if "error" in row:
            error = row["error"]
            line += f" {error['fused']:.0e} ({error['eager']:.0e})"
        lines.append(line)
    side = f"{'us':>9} {'eager':>7} {'compile':>7} {'launched':>8}"
    head = f"{'layers: forward, then with backward':<32} {side} {side} error (eager's)"
    return [head, *lines] if lines else []


def _side(times: dict[str, Any], modes: list[str] | tuple[str, ...]) -> str:
    compiled = [times[mode]["ratio"]["median"] for mode in modes]
    best = f"{min(compiled):>6.1f}x" if compiled else f"{'':>7}"
    return f"{times['fused']['median']:>9.1f} {times['eager']['ratio']['median']:>6.1f}x {best}"


def _training(phases: dict[str, Any]) -> list[str]:
    lines = [
        f"training step {row['name']:<18} replayed {_side(row['step']['graph'], row['modes'])}   "
        f"launched {_side(row['step']['eager'], row['modes'])}"
        for row in _rows(phases, "training")
    ]
    return lines


def _visual(phases: dict[str, Any]) -> list[str]:
    return [
        f"visual {row['name']:<18} {way:<24} {_side(row[way]['graph'], row['modes'])}"
        for row in _rows(phases, "visual")
        for way in ("forward", "forward+backward", "forward+backward + dK")
    ]


def _first_call(phases: dict[str, Any]) -> list[str]:
    found = phases.get("checks", {}).get("checks", {}).get("first call", {})
    return [
        f"first call, {name}: "
        + ", ".join(f"{what} {seconds:.2f} s" for what, seconds in found[name].items())
        for name in ("cold", "warm")
        if name in found
    ]


def _verdicts(record: dict[str, Any]) -> list[str]:
    """One line for each bar; the bars are those of an H200."""
    lines = [
        f"{'figure (bars of an H200)':<36} {'tier':<9} {'value':>8}  "
        "good/excellent/impossible  verdict"
    ]
    for row in record["verdicts"]:
        value = ABSENT if row["value"] is None else f"{row['value']:.1f}"
        bar = "/".join(f"{x:g}" for x in row["bar"].values())
        lines.append(
            f"{row['figure']:<36} {row['tier']:<9} {value:>8}  {bar:<25}  {row['verdict']}"
        )
    return lines
