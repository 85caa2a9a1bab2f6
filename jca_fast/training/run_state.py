"""The whole state of a run in `last.pt`: saving, restoring, and the folder of the run."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jca_fast.atomic import TEMPORARY, check_folder, exclusive, write_json
from jca_fast.data.record import require_same_features
from jca_fast.training import checkpoint
from jca_fast.training.logs import COLUMNS
from jca_fast.training.reproducible import (
    check_moments,
    check_same_run,
    check_settings,
    check_state,
    damage_named,
    fingerprint,
    random_state,
    set_random_state,
)

if TYPE_CHECKING:
    from jca_fast.training.trainer import Trainer

RUN_STATE: dict[str, type] = {
    "epoch": int,
    "batch": int,
    "step": int,
    "stale": int,
    "seconds": float,
    "best": dict,
    "history": list,
}
"""The attributes of a trainer that `last.pt` keeps, and their types."""


def save(trainer: Trainer) -> None:
    """Writes the whole state of the run to last.pt: all processes call this, process 0 writes."""
    ranks = trainer.group.gather({"random": random_state(), "sums": trainer.sums.cpu()})
    if trainer.group.main:
        trainer.save(
            "last.pt",
            data=fingerprint(trainer.train_set),
            optimizer=trainer.optimizer.state_dict(),
            schedule=trainer.schedule.state_dict(),
            ranks=ranks,
            run={name: getattr(trainer, name) for name in RUN_STATE},
        )


@contextlib.contextmanager
def held_folder(trainer: Trainer) -> Iterator[None]:
    """The folder of the run, locked against other runs, with last.pt restored or an earlier run
    cleared, depending on config.resume. RuntimeError if another run holds it.
    """
    last, wanted = trainer.out / "last.pt", trainer.config.resume
    if wanted and not last.is_file():
        raise FileNotFoundError(f"{last}: nothing to resume")
    check_folder(trainer.out, "out:")
    text = f"out: another training runs in {trainer.out}; needed: its end, or another --out"
    lock = exclusive(trainer.out, RuntimeError(text))
    with lock if trainer.group.main else contextlib.nullcontext():
        if wanted is not False and last.is_file():
            restore(trainer, last)
        trainer.group.gather(None)  # barrier before process 0 clears and writes
        if trainer.group.main:
            _clear(trainer)
        yield


def _clear(trainer: Trainer) -> None:
    """Removes what the run does not continue, and writes its settings."""
    for leftover in trainer.out.glob(TEMPORARY):  # left by a process that was killed while writing
        leftover.unlink()
    if not trainer.step:
        for name in ("last.pt", "best.pt", "metrics.csv", "metrics.json"):
            (trainer.out / name).unlink(missing_ok=True)
    write_json(trainer.out / "config.json", dataclasses.asdict(trainer.config))


def restore(trainer: Trainer, path: Path) -> None:
    """Restores the run to the state saved in path.

    Raises ValueError if the file is damaged or belongs to other settings or data.
    """
    state = checkpoint.load(path, trainer.group.device)
    check_state(path, state, RUN_STATE, COLUMNS)
    require_same_features(path, state.get("features"), trainer.config.data, trainer.record)
    data = fingerprint(trainer.train_set)
    check_same_run(path, state, trainer.config, trainer.model.config, data)
    checkpoint.load_weights(trainer.model, state["model"], path)
    with damage_named(path):
        _check_place(state["run"], trainer.batches.count())
        _check_optimizer(trainer, state)
        trainer.optimizer.load_state_dict(state["optimizer"])
        trainer.schedule.load_state_dict(state["schedule"])
        _restore_ranks(trainer, path, state["ranks"])
    for name in RUN_STATE:
        setattr(trainer, name, state["run"][name])


def _check_place(run: dict[str, Any], per_epoch: int) -> None:
    """Raises ValueError unless the numbers of a saved run belong to one place in it."""
    epoch, batch, step = run["epoch"], run["batch"], run["step"]
    if batch >= per_epoch or step != epoch * per_epoch + batch or run["stale"] > epoch:
        raise ValueError(
            f"epoch {epoch}, batch {batch}, step {step} and stale {run['stale']} do not agree"
        )


def _check_optimizer(trainer: Trainer, state: dict[str, Any]) -> None:
    """Raises ValueError unless optimizer and schedule were saved with the settings of this run."""
    groups = state["optimizer"]["param_groups"]
    for found, new in zip(groups, trainer.optimizer.state_dict()["param_groups"], strict=True):
        check_settings(found, new, ("lr",))
    varying = ("last_epoch", "best", "cooldown_counter", "num_bad_epochs")
    parameters = list(trainer.model.parameters())
    check_moments(state["optimizer"]["state"], parameters, state["run"]["step"])
    new = trainer.schedule.state_dict() | {"_last_lr": [groups[0]["lr"]]}
    check_settings(state["schedule"], new, varying)


def _restore_ranks(trainer: Trainer, path: Path, ranks: list[dict[str, Any]]) -> None:
    """Restores the random generators and running sums of the processes that wrote last.pt."""
    if len(ranks) == trainer.group.world:
        set_random_state(ranks[trainer.group.rank]["random"])
        trainer.sums = ranks[trainer.group.rank]["sums"].to(trainer.group.device)
    elif trainer.group.main:
        trainer.say(
            f"{path} was written by {len(ranks)} processes: "
            "the dropout masks of this run will differ from theirs"
        )
        trainer.sums = sum(rank["sums"] for rank in ranks).to(trainer.group.device)
