"""The cost of a training step of AVELocalizer, fused and with the reference ops of plain PyTorch.

Both are timed side by side in this process; the memory of each is measured in a process that runs
only it: python -m jca_fast.bench.step '{"joint": "concat_fc"}' 32 7,7 cpu fused
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from torch.nn import functional as F

from jca_fast.bench.pairs import Provider, in_process, interleave, peak
from jca_fast.models import AVELocalizer

BACKENDS = {"reference": "reference", "fused": "auto"}


def step_cost(
    arguments: dict[str, Any],
    batch: int,
    grid: Sequence[int] = (7, 7),
    device: str = "cpu",
    budget: float = 10.0,
) -> dict[str, dict[str, float]]:
    """{"seconds": of a step, "mib": growth of the peak memory}, each by "fused" and "reference".

    Args:
        arguments: arguments of AVELocalizer.
        batch: clips in a step.
        grid: rows and columns of regions.
        device: where the step runs.
        budget: seconds for the timing, which takes 3 to 20 rounds.
    """
    runs = {name: training_step(arguments, batch, grid, device, name) for name in BACKENDS}
    first = interleave(runs, 1)
    rounds = int(budget / max(sum(times[0] for times in first.values()), 1e-6))
    times = interleave(runs, max(3, min(20, rounds)))
    sizes = (json.dumps(arguments), str(batch), ",".join(map(str, grid)), device)
    memory = {name: in_process("jca_fast.bench.step", *sizes, name)["mib"] for name in BACKENDS}
    return {"seconds": {name: round(median(t), 6) for name, t in times.items()}, "mib": memory}


def training_step(
    arguments: dict[str, Any], batch: int, grid: Sequence[int], device: str, name: str
) -> Provider:
    """One step of Adam on a random batch, cross-entropy on the logits; returns when it is done."""
    torch.manual_seed(0)
    model = AVELocalizer(**arguments, backend=BACKENDS[name], device=device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    segments, classes = model.config["num_segments"], model.config["num_classes"]
    audio = torch.rand(batch, segments, model.config["audio_features"], device=device)
    visual = torch.rand(batch, segments, *grid, model.config["region_features"], device=device)
    labels = torch.randint(0, classes, (batch * segments,), device=device)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model.logits(audio, visual).flatten(0, 1), labels).backward()
        optimizer.step()
        if audio.is_cuda:
            torch.cuda.synchronize()

    return run


def main(arguments: str, batch: str, grid: str, device: str, name: str) -> None:
    """Print {"mib": growth of the peak memory in the second step}.

    The first step loads libraries and makes the state of Adam.
    """
    config, sizes = json.loads(arguments), [int(n) for n in grid.split(",")]
    training_step(config, 2, sizes, device, name)()
    run = training_step(config, int(batch), sizes, device, name)
    before = peak(device)
    run()
    print(json.dumps({"mib": round(peak(device) - before, 1)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
