"""The bars of the H200 for each figure, and the verdict of a figure against its bar."""

from __future__ import annotations

from typing import Any, NamedTuple

IMPOSSIBLE = "looks impossible: a measurement error until explained"
MISSES = "MISSES good"
ABSENT = "not measured"
DRY = "dry run: no verdict"


class Bar(NamedTuple):
    """Good, excellent and impossible; larger is better if good is the smallest of the three."""

    good: float
    excellent: float
    impossible: float


BARS = {
    "layer forward us": {
        "bfloat16": Bar(35, 25, 20),
        "tf32": Bar(45, 30, 22),
        "exact": Bar(110, 75, 50),
    },
    "layer backward us": {
        "bfloat16": Bar(60, 40, 28),
        "tf32": Bar(100, 60, 45),
        "exact": Bar(300, 200, 120),
    },
    "4 layers forward us": {"bfloat16": Bar(150, 110, 85)},
    "4 layers forward+backward us": {"bfloat16": Bar(420, 280, 210)},
    "forward+backward, x eager": {
        "bfloat16": Bar(5, 8, 12),
        "tf32": Bar(8, 13, 18),
        "exact": Bar(3, 5, 7),
    },
    "forward+backward, x best compiled": dict.fromkeys(("bfloat16", "tf32", "exact"), Bar(2, 4, 8)),
    "activations, x less than eager": dict.fromkeys(("bfloat16", "tf32", "exact"), Bar(8, 15, 30)),
    "B=1 layer forward us": dict.fromkeys(("bfloat16", "tf32", "exact"), Bar(10, 6, 4)),
    "visual forward S=10240 us": {"exact": Bar(300, 262, 248), "bfloat16": Bar(150, 131, 124)},
    "visual forward S=640 us": {"exact": Bar(22, 18, 16)},
    "visual backward S=10240 us": {"exact": Bar(310, 265, 250)},
    "visual backward + dK S=10240 us": {"exact": Bar(620, 530, 500)},
}
"""Figure and tier, under graph replay at B = 64 where no batch is named; the visual reduction with
the L2 flushed.
"""


def verdict(value: float, bar: Bar) -> str:
    """How a figure compares with its bar, as text."""
    sign = 1 if bar.good < bar.excellent else -1
    value, good, excellent, impossible = (sign * x for x in (value, *bar))
    if value > impossible:
        return IMPOSSIBLE
    if value >= excellent:
        return "excellent"
    return "good" if value >= good else MISSES


def figures(phases: dict[str, Any]) -> dict[tuple[str, str], float]:
    """Every figure that has a bar, from the phases that were measured."""
    found: dict[tuple[str, str], float] = {}
    for row in phases.get("layers", {}).get("rows", []):
        if "failed" not in row:
            found.update(_of_layers(row))
    for row in phases.get("visual", {}).get("rows", []):
        if "failed" not in row:
            found.update(_of_visual(row))
    return {key: value for key, value in found.items() if key[1] in BARS.get(key[0], {})}


def _of_layers(row: dict[str, Any]) -> dict[tuple[str, str], float]:
    tier, size = row["tier"], (row["layers"], row["batch"])
    if "forward+backward" not in row:
        return {}
    forward, both = row["forward"]["graph"], row["forward+backward"]["graph"]
    if size == (1, 1):
        return {("B=1 layer forward us", tier): forward["fused"]["median"]}
    if size == (4, 64):
        return {
            ("4 layers forward us", tier): forward["fused"]["median"],
            ("4 layers forward+backward us", tier): both["fused"]["median"],
        }
    if size != (1, 64):
        return {}
    found = {
        ("layer forward us", tier): forward["fused"]["median"],
        ("layer backward us", tier): row["backward"]["fused"]["median"],
        ("forward+backward, x eager", tier): both["eager"]["ratio"]["median"],
        ("activations, x less than eager", tier): row["memory"]["eager"]["kept"]
        / max(row["memory"]["fused"]["kept"], 1),
    }
    compiled = [both[mode]["ratio"]["median"] for mode in row["modes"]]
    return found | (
        {("forward+backward, x best compiled", tier): min(compiled)} if compiled else {}
    )


def _of_visual(row: dict[str, Any]) -> dict[tuple[str, str], float]:
    tier, segments = row["tier"], row["batch"]
    return {
        (f"visual {way} S={segments} us", tier): row[way]["graph"]["fused"]["median"]
        for way in ("forward", "backward", "backward + dK")
    }


def verdicts(phases: dict[str, Any], dry: bool = False) -> list[dict[str, Any]]:
    """Figure, tier, value and verdict for every bar; the verdict without a value is "not
    measured"."""
    values, found = figures(phases), []
    for name, tiers in BARS.items():
        for tier, bar in tiers.items():
            value = values.get((name, tier))
            outcome = ABSENT if value is None else DRY if dry else verdict(value, bar)
            found.append(
                {
                    "figure": name,
                    "tier": tier,
                    "value": value,
                    "bar": bar._asdict(),
                    "verdict": outcome,
                }
            )
    return found
