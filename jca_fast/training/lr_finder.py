"""`jca-fast train --find-lr`: the loss while the learning rate increases step by step."""

from __future__ import annotations

import math
from itertools import chain, repeat

import torch
from torch.utils.data import DataLoader

from jca_fast.training.config import Config
from jca_fast.training.distributed import GlobalBatches, Group, pick_device
from jca_fast.training.inference import autocast
from jca_fast.training.objective import Objective
from jca_fast.training.reproducible import seed_everything

STEPS = 100
LOWEST, HIGHEST = 1e-6, 1.0
SMOOTHING = 0.9


def find_lr(config: Config) -> float:
    """Prints the smoothed loss at learning rates from 1e-6 to 1, and returns a suggestion.

    Each of 100 steps of Adam has a larger learning rate than the step before it. The run ends when
    the loss exceeds twice its smallest value. The suggestion is a tenth of the rate of the smallest
    loss, a common rule after Smith (WACV 2017). No file is written.
    """
    from jca_fast.training.start import explain_loss, start_model, training_set

    dataset, group = training_set(config), Group(pick_device(config.device))
    seed_everything(config.seed)
    objective = Objective(start_model(config, dataset).to(group.device), config.loss).train()
    optimizer = torch.optim.Adam(objective.parameters(), weight_decay=config.weight_decay)
    batches = GlobalBatches(len(dataset), config.batch_size, config.seed)
    loader = DataLoader(dataset, batch_sampler=batches, num_workers=config.num_workers)
    rates = [LOWEST * (HIGHEST / LOWEST) ** (i / (STEPS - 1)) for i in range(STEPS)]
    average, losses = 0.0, []
    for i, (rate, tensors) in enumerate(
        zip(rates, chain.from_iterable(repeat(loader)), strict=False)
    ):
        for settings in optimizer.param_groups:
            settings["lr"] = rate
        with autocast(group.device, config.precision):
            loss, _ = objective(*(tensor.to(group.device) for tensor in tensors))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        average = SMOOTHING * average + (1 - SMOOTHING) * float(loss.detach())
        losses.append(average / (1 - SMOOTHING ** (i + 1)))
        if i % 5 == 0:
            print(f"lr {rate:.1e}  loss {losses[-1]:.4f}", flush=True)
        if not math.isfinite(losses[-1]) or losses[-1] > 2 * min(losses):
            break
    if not math.isfinite(losses[0]):
        raise RuntimeError(f"the first loss is {losses[0]}; {explain_loss(dataset)}")
    best = min(
        range(len(losses)), key=lambda i: losses[i] if math.isfinite(losses[i]) else math.inf
    )
    suggestion = rates[best] / 10
    print(f"smallest loss {losses[best]:.4f} at lr {rates[best]:.1e}; try --lr {suggestion:.0e}")
    return suggestion
