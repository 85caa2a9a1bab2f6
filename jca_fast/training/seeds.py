"""Training of one seed or of several, with the mean and spread of their scores."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from jca_fast.atomic import write_json
from jca_fast.training.config import Config
from jca_fast.training.distributed import process_group
from jca_fast.training.logs import summarize_seeds
from jca_fast.training.reproducible import deterministic
from jca_fast.training.trainer import Trainer


def run_training(config: Config) -> dict[str, Any]:
    """Trains config.seeds runs; returns the content of metrics.json, or of seeds.json for several
    seeds.
    """
    with process_group(config.device) as group, deterministic(config.deterministic):
        if config.seeds == 1:
            return Trainer(config, group).fit()
        results = []
        for seed in range(config.seed, config.seed + config.seeds):
            resume = False if config.resume is False else None  # new seeds have nothing to resume
            out = str(Path(config.out) / f"seed{seed}")
            one = dataclasses.replace(config, seed=seed, seeds=1, out=out, resume=resume)
            results.append(Trainer(one, group).fit())
        summary = summarize_seeds(results)
        if group.main:
            write_json(Path(config.out) / "seeds.json", summary)
            for name, value in summary["scores"].items():
                score = f"{100 * value['mean']:.2f} ± {100 * value['sd']:.2f} %"
                print(f"{name}: {score} (mean ± sd of {config.seeds} seeds)")
        return summary
