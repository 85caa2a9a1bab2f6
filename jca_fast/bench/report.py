"""The page of `jca-fast bench`: one HTML file with style and drawings, which needs no network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

NAMES = {
    "eager": "eager PyTorch",
    "compile": "torch.compile",
    "jca_fast": "jca_fast",
    "reference": "plain PyTorch",
    "fused": "jca_fast",
    "multiply_adds": "multiply-add limit",
    "bytes": "bandwidth limit",
}
WIDTH, HEIGHT = 360, 260
LEFT, RIGHT = 48, 12
TOP, BOTTOM = 12, 40
"""The sizes of a chart and of its margins."""

Points = Sequence[tuple[float, float]]


def page(result: dict[str, Any]) -> str:
    """The whole page from a result of `measure`."""
    style = files("jca_fast.bench").joinpath("report.css").read_text(encoding="utf-8")
    sections = [
        _section("Speed-up by shape", _speedups(result["cases"]), SPEEDUP_NOTE),
        _section("Cost along each size", _axes(result), AXES_NOTE),
        _section("Peak memory", _memory(result["memory"]), MEMORY_NOTE),
        _section("Where a training step goes", _steps(result["step"]), STEP_NOTE),
        _section("Machine", _machine(result), ""),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>jca_fast bench</title><style>{style}</style></head><body><main>"
        f"<h1>jca_fast against PyTorch</h1>{_warning(result)}{''.join(sections)}"
        "</main></body></html>\n"
    )


SPEEDUP_NOTE = (
    "Times faster than the baseline, median over rounds; the range is the 20th to 80th percentile. "
    "Below 1 the baseline is faster. Every case passed a parity check in the same process."
)
AXES_NOTE = (
    "Milliseconds of forward and backward of the paper form at B = 16, N = 10, "
    "d<sub>a</sub> = d<sub>v</sub> = 256, k = 32, one layer, with one size changed; both axes are "
    "logarithmic. The limits are the least multiply-adds and bytes over the rates measured on this "
    "machine."
)
MEMORY_NOTE = (
    "Growth of the peak memory, forward and backward, each in a process that ran it alone."
)
STEP_NOTE = (
    "One step of Adam of the whole model by the kind of op: the self time of each in the profiler. "
    "Plain PyTorch runs the reference ops. The speed-up is timed without the profiler."
)


def _section(title: str, body: str, note: str) -> str:
    text = f"<p>{note}</p>" if note else ""
    return f"<section><h2>{title}</h2>{text}{body}</section>"


def _warning(result: dict[str, Any]) -> str:
    """The warnings of the page: reasons to distrust the figures."""
    reasons = [f"Disturbed run, do not rely on it: {reason}." for reason in result["disturbances"]]
    if result["quick"]:
        reasons.insert(0, "A quick run at small sizes: the published sizes gain more.")
    return "".join(f'<p class="warning">{escape(reason)}</p>' for reason in reasons)


def _speedups(cases: dict[str, Any]) -> str:
    """A bar for every case and baseline."""
    found = [
        (case, name, times)
        for case, entry in cases.items()
        for name, times in entry["times"].items()
        if name != "jca_fast"
    ]
    longest = max(times["ratio"] for _, _, times in found)
    bars = []
    for case, name, times in found:
        label = f"{escape(case)} <small>over {NAMES[name]}</small>"
        note = f"{times['low']:.1f}&ndash;{times['high']:.1f}"
        value = f"<b>{times['ratio']:.1f}&times;</b> <small>{note}</small>"
        bars.append(_bar(label, [(name, times["ratio"] / longest)], value))
    return "".join(bars)


def _bar(label: str, parts: Sequence[tuple[str, float]], value: str) -> str:
    """A labelled bar of parts (class, share of the full width)."""
    pieces = "".join(f'<i class="{css}" style="width:{100 * w:.2f}%"></i>' for css, w in parts)
    return f'<div class="bar"><span>{label}</span><span>{value}</span><div>{pieces}</div></div>'


def _axes(result: dict[str, Any]) -> str:
    """A chart for each axis, with the legend before them."""
    limits = result["limits"]
    rates = {
        "multiply_adds": (limits["multiply_adds"] or math.nan) * result["machine"]["threads"],
        "bytes": limits["bytes"],
    }
    charts = []
    for axis, points in result["axes"].items():
        series: dict[str, Points] = {
            name: [(p["value"], p["times"][name]["ms"]) for p in points]
            for name in ("eager", "jca_fast")
        }
        for name, rate in rates.items():
            if math.isfinite(rate):
                series[name] = [(p["value"], 1e3 * p[name] / rate) for p in points]
        charts.append(f"<figure>{chart(series, axis)}</figure>")
    keys = "".join(
        f'<span><i class="{n}"></i>{NAMES[n]}</span>'
        for n in ("eager", "jca_fast", "multiply_adds", "bytes")
    )
    return f'<p class="legend">{keys}</p><div class="charts">{"".join(charts)}</div>'


def chart(series: dict[str, Points], title: str) -> str:
    """Lines on two logarithmic axes, as SVG in the colours of the page."""
    xs = sorted({x for points in series.values() for x, _ in points})
    ys = [y for points in series.values() for _, y in points]
    low, high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))
    high += low == high
    spread = math.log(xs[-1] / xs[0]) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * math.log(x / xs[0]) / spread
        return across, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (math.log10(y) - low) / (
            high - low
        )

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for power in range(low, high + 1):
        y = place(xs[0], 10**power)[1]
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g}</text>'
        )
    for x in xs:
        across = place(x, 10**low)[0]
        parts.append(
            f'<text x="{across:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{x:g}</text>'
        )
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{escape(title)}</text>"
    )
    for name, points in series.items():
        spots = [place(x, y) for x, y in points]
        line = "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
        parts.append(f'<path class="line {name}" d="M{line}"/>')
        if name in ("eager", "jca_fast"):
            parts += [f'<circle class="{name}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in spots]
    return "".join([*parts, "</svg>"])


def _memory(memory: dict[str, Any]) -> str:
    """Two bars for each case."""
    longest = max(max(case.values()) for case in memory.values())
    return "".join(
        _bar(
            f"{escape(case.removesuffix(', memory'))} <small>{NAMES[name]}</small>",
            [(name, mib / longest)],
            f"<b>{mib:.0f} MiB</b>",
        )
        for case, found in memory.items()
        for name, mib in found.items()
    )


def _steps(steps: dict[str, Any]) -> str:
    """For each form a bar of plain PyTorch and a bar of jca_fast on one scale, divided by kind."""
    kinds = list(next(iter(steps.values()))["parts"]["fused"])
    keys = "".join(f'<span><i class="k{i}"></i>{escape(k)}</span>' for i, k in enumerate(kinds))
    bars = []
    for form, found in steps.items():
        longest = max(sum(parts.values()) for parts in found["parts"].values())
        for name, parts in found["parts"].items():
            times = found["times"][name]
            gain = (
                "" if name == "fused" else f" <small>jca_fast {times['ratio']:.1f}&times;</small>"
            )
            pieces = [(f"k{i}", parts[kind] / longest) for i, kind in enumerate(kinds)]
            label = f"{form} form <small>{NAMES[name]}</small>"
            bars.append(_bar(label, pieces, f"<b>{times['ms']:.0f} ms</b>{gain}"))
    return f'<p class="legend">{keys}</p>{"".join(bars)}'


def _machine(result: dict[str, Any]) -> str:
    """The facts as a table."""
    limits = result["limits"]
    facts = {
        **result["machine"],
        "multiply-adds of a core": f"{limits['multiply_adds'] / 1e9:.0f} billion/s",
        "memory bandwidth": f"{limits['bytes'] / 1e9:.1f} GB/s",
    }
    rows = (f"<tr><th>{escape(n)}</th><td>{escape(str(v))}</td></tr>" for n, v in facts.items())
    return f"<table>{''.join(rows)}</table>"
