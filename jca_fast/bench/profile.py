"""Time of a training step by kind of op: the reference ops of plain PyTorch against fused ones."""

from __future__ import annotations

from typing import Any

from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiler

from jca_fast.bench.pairs import interleave, summarise
from jca_fast.bench.step import BACKENDS, training_step

FULL: dict[str, Any] = {}
QUICK: dict[str, Any] = {"audio_dim": 128, "visual_dim": 128, "num_layers": 2}

BUCKETS = (
    ("ops of jca_fast", ("jca_fast::",)),
    ("LSTM", ("lstm", "rnn", "gru")),
    ("optimizer", ("adam", "optimizer", "_foreach", "addcdiv", "lerp")),
    ("matrix products", ("mm", "linear", "einsum", "matmul")),
    ("copies, fills, sums", ("copy", "fill", "zero", "cat", "clone", "sum", "empty", "resize")),
    ("elementwise", ("tanh", "relu", "mul", "add", "div", "sub", "softmax", "threshold", "sqrt")),
)
"""An op belongs to the first bucket with a part of its name, or else to "other"."""


def step(form: str, quick: bool) -> dict[str, Any]:
    """{"times": the summary of reference against fused, "parts": milliseconds by bucket of each}.

    The step is one of the published model with 64 clips; with quick of a small one with 8.
    """
    arguments, batch = ({**(QUICK if quick else FULL), "form": form}, 8 if quick else 64)
    runs = {name: training_step(arguments, batch, (7, 7), "cpu", name) for name in BACKENDS}
    times = summarise(interleave(runs, 3), ours="fused")
    return {"times": times, "parts": {name: parts(run) for name, run in runs.items()}}


def parts(run: Any) -> dict[str, float]:
    """Milliseconds of one call by bucket, from the self time of the ops on the CPU."""
    with profiler(activities=[ProfilerActivity.CPU]) as trace:
        run()
    found = dict.fromkeys((*(name for name, _ in BUCKETS), "other"), 0.0)
    for event in trace.key_averages():
        found[bucket(event.key)] += event.self_cpu_time_total / 1e3
    return {name: round(value, 3) for name, value in found.items()}


def bucket(op: str) -> str:
    """The bucket of an op, by its name."""
    name = op.lower()
    return next((b for b, parts in BUCKETS if any(part in name for part in parts)), "other")
