"""Draws the speed-up chart of the README from a committed file of results.

python -m benchmarks.plot benchmarks/results/cpu-zen5-2-cores.json docs/images/speedup.svg
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

CASES = {
    "test_layer[paper-forward]": "paper layer\nforward",
    "test_layer[paper-backward]": "paper layer\nforward + backward",
    "test_layer[released-forward]": "released layer\nforward",
    "test_layer[released-backward]": "released layer\nforward + backward",
    "test_released_layer_with_dropout[backward]": "released layer, dropout 0.3\nforward + backward",
    "test_training_step[released-published]": "released model\ntraining step",
}
COLORS = {"eager": "#2563eb", "compile": "#f59e0b"}
LABELS = {"eager": "over eager PyTorch", "compile": "over torch.compile"}


def speedups(results: dict[str, Any]) -> dict[str, list[tuple[str, float]]]:
    """For each baseline, (case, its time over ours), the cases in the order of ``CASES``."""
    found: dict[str, list[tuple[str, float]]] = {name: [] for name in COLORS}
    for test, label in CASES.items():
        providers = results["benchmarks"].get(test, {}).get("providers", {})
        for name, bars in found.items():
            if name in providers:
                bars.append((label, providers[name]["ratio"]))
    if not found["eager"]:
        raise ValueError(f"the results hold none of the cases {', '.join(CASES)}")
    return found


def draw(results: dict[str, Any], target: Path) -> None:
    """Write the chart as SVG or PNG, on a white card that also suits dark pages."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update(
        {"font.size": 10, "svg.hashsalt": "jca_fast", "svg.fonttype": "path"}
    )
    from matplotlib import pyplot as plt

    bars = speedups(results)
    labels = [label for label, _ in bars["eager"]]
    figure, axes = plt.subplots(figsize=(7.2, 3.8), layout="constrained")
    height = 0.38
    for offset, (name, found) in zip((-height / 2, height / 2), bars.items(), strict=True):
        places = [labels.index(label) + offset for label, _ in found]
        drawn = axes.barh(
            places, [ratio for _, ratio in found], height, color=COLORS[name], label=LABELS[name]
        )
        axes.bar_label(drawn, fmt="%.1fx", padding=3)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("speed-up of jca_fast (times)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    axes.legend(frameon=False, loc="lower right")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=150, metadata={"Date": None} if target.suffix == ".svg" else None)
    plt.close(figure)


def main(source: str, target: str) -> None:
    """Read the results, write the chart."""
    draw(json.loads(Path(source).read_text()), Path(target))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
