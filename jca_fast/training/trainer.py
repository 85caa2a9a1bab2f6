"""Training of AVELocalizer: data, model, Adam, the loop, validation, checkpoints, many processes, many seeds.

Everything a run is at a moment (weights, optimiser, schedule, random generators, place in the epoch, history) goes into
`last.pt` in one atomic write, and the order of clips depends on (seed, epoch) alone. A run that is killed at any moment
and started again therefore ends with the very bits of a run that was not.
"""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from tqdm import tqdm

from jca_fast.atomic import write_json
from jca_fast.data.ave import AVEDataset
from jca_fast.data.record import read_record, require_same_features
from jca_fast.training import checkpoint
from jca_fast.training.config import Config
from jca_fast.training.distributed import GlobalBatches, Group, process_group
from jca_fast.training.inference import autocast, backends_used, evaluate_split
from jca_fast.training.logs import (
    RunLog,
    describe,
    epoch_line,
    final_line,
    peak_memory,
    summarize_seeds,
)
from jca_fast.training.objective import Objective, build_model
from jca_fast.training.reproducible import (
    check_same_run,
    deterministic,
    fingerprint,
    random_state,
    seed_everything,
    set_random_state,
)


def run_training(config: Config) -> dict[str, Any]:
    """Trains one seed, or config.seeds of them, and returns the content of metrics.json (of seeds.json for several)."""
    with process_group(config.device) as group, deterministic(config.deterministic):
        if config.seeds == 1:
            return Trainer(config, group).fit()
        results = []
        for seed in range(config.seed, config.seed + config.seeds):
            resume = (
                False if config.resume is False else None
            )  # the seeds not begun yet have nothing to resume
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


class Trainer:
    """One run: builds everything, takes up last.pt if there is one, and `fit`s."""

    def __init__(self, config: Config, group: Group) -> None:
        self.config, self.group, self.out = config, group, Path(config.out)
        self.record = read_record(config.data)
        self.train_set, self.val_set = (
            AVEDataset(config.data, "train"),
            AVEDataset(config.data, "val"),
        )
        seed_everything(config.seed)  # the same start weights in every process
        self.model = build_model(config.model, self.train_set).to(group.device)
        self.objective = Objective(self.model, config.loss)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer,
            mode="max" if config.plateau == "val_accuracy" else "min",
            factor=config.plateau_factor,
            patience=config.plateau_patience,
        )
        self.batches = GlobalBatches(
            len(self.train_set), config.batch_size, config.seed, group.rank, group.world
        )
        self.loader_generator = torch.Generator()
        self.loader = DataLoader(
            self.train_set,
            batch_sampler=self.batches,
            num_workers=config.num_workers,
            persistent_workers=config.num_workers > 0,
            generator=self.loader_generator,
            pin_memory=group.device.type == "cuda",
        )
        self.epoch = self.batch = self.step = self.stale = 0
        self.sums = torch.zeros(
            2, dtype=torch.float64, device=group.device
        )  # loss * clips, right segments
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.seconds = 0.0
        if group.rank:
            seed_everything(
                config.seed + 1_000_003 * group.rank
            )  # other dropout masks than process 0
        self.prepare_folder()
        self.wrapped = self.wrap()

    def wrap(self) -> torch.nn.Module:
        """The objective as the training step calls it: compiled, synchronised over processes."""
        wrapped: Any = self.objective
        if self.config.compile:
            wrapped = torch.compile(
                wrapped, dynamic=False
            )  # one graph per batch size: same bits after a resume
        if self.group.world > 1:
            wrapped = DistributedDataParallel(wrapped, static_graph=True)
        return wrapped

    # ---- the loop

    def fit(self) -> dict[str, Any]:
        """Trains to the last epoch or the early stop, scores best.pt on the test split, returns metrics.json."""
        self.announce()
        log = RunLog(self.out, self.history, self.config.tensorboard) if self.group.main else None
        while self.epoch < self.config.epochs and not self.stopped():
            self.train_epoch()
            self.finish_epoch()
            if log:
                log.write(self.history, self.summary("running"))
        self.group.gather(None)  # best.pt is written before anyone reads it
        summary = self.summary("finished") | {"test": self.test()}
        if log:
            log.rewrite(self.history, summary)
            log.close()
            self.say(final_line(summary))
        return summary

    def train_epoch(self) -> None:
        """The rest of the current epoch, from batch self.batch on."""
        start = time.perf_counter() - self.seconds
        self.objective.train()
        self.batches.seek(self.epoch, self.batch)
        self.loader_generator.manual_seed(self.config.seed + self.epoch)
        total = self.batch + len(self.batches)
        hidden = not self.group.main or (
            None if self.config.progress is None else not self.config.progress
        )
        name = f"epoch {self.epoch + 1}"
        for tensors in tqdm(
            self.loader, name, total, initial=self.batch, disable=hidden, leave=False, unit="batch"
        ):
            self.train_step(
                *(tensor.to(self.group.device, non_blocking=True) for tensor in tensors)
            )
            self.seconds = time.perf_counter() - start
            if (
                self.config.checkpoint_every
                and self.step % self.config.checkpoint_every == 0
                and self.batch < total
            ):
                self.save_last()

    def train_step(self, audio: Tensor, visual: Tensor, labels: Tensor) -> None:
        """One step of Adam. DDP averages the gradients of the processes; the weight makes that the mean over clips."""
        share, size = self.batches.share(self.batch), self.batches.size(self.batch)
        with autocast(self.group.device, self.config.precision):
            loss, predicted = self.wrapped(audio, visual, labels)
        self.optimizer.zero_grad(set_to_none=True)
        (loss * (share * self.group.world / size)).backward()
        if self.config.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        if share:
            right = (predicted == labels.argmax(dim=-1)).sum()
            self.sums += torch.stack([loss.detach().double() * share, right.double()])
        self.batch += 1
        self.step += 1

    def finish_epoch(self) -> None:
        """Validation, schedule, row of the history, checkpoints."""
        clips, segments = len(self.train_set), self.train_set.labels.shape[1]
        loss_sum, right = self.group.sum(self.sums.clone()).tolist()
        if not math.isfinite(loss_sum):
            raise RuntimeError(
                f"the loss of epoch {self.epoch + 1} is {loss_sum}; a smaller lr or clip_norm may help"
            )
        lr, validation = self.optimizer.param_groups[0]["lr"], {}
        self.epoch += 1
        if self.epoch % self.config.eval_every == 0 or self.epoch == self.config.epochs:
            validation = self.evaluate(self.val_set)
        row = {
            "epoch": self.epoch,
            "step": self.step,
            "lr": lr,
            "train_loss": loss_sum / clips,
            "train_accuracy": right / (clips * segments),
            "val_loss": validation.get("loss"),
            "val_accuracy": validation.get("accuracy"),
            "val_batch_mean_accuracy": validation.get("batch_mean_accuracy"),
            "seconds": round(self.seconds, 3),
            "time": round(time.time(), 3),
        }
        self.history.append(row)
        if row.get(self.config.plateau) is not None:
            self.schedule.step(row[self.config.plateau])
        better = bool(validation) and validation["accuracy"] > self.best.get("val_accuracy", -1.0)
        if better:
            self.best = {"epoch": self.epoch, "val_accuracy": validation["accuracy"]}
        self.stale = 0 if better else self.stale + bool(validation)
        self.batch, self.seconds = 0, 0.0
        self.sums.zero_()
        if (
            better and self.group.main
        ):  # before last.pt: if killed between the two, the epoch is done again, same bits
            checkpoint.save(
                self.out / "best.pt",
                self.model,
                config=dataclasses.asdict(self.config),
                features=self.record,
                classes=self.train_set.class_names,
                best=self.best,
            )
        self.save_last()
        self.say(epoch_line(row, self.config.epochs, better))

    def stopped(self) -> bool:
        """Whether the early stop has come."""
        return 0 < self.config.early_stop <= self.stale

    def evaluate(self, dataset: AVEDataset) -> dict[str, Any]:
        """Loss and metrics of the current weights on a split."""
        c = self.config
        settings: dict[str, Any] = {
            "batch_size": c.batch_size,
            "precision": c.precision,
            "num_workers": c.num_workers,
        }
        return evaluate_split(self.objective, dataset, self.group, **settings)

    def test(self) -> dict[str, Any]:
        """Metrics of best.pt on the test split."""
        best = self.out / "best.pt"
        checkpoint.load_weights(self.model, checkpoint.load(best, self.group.device)["model"], best)
        return self.evaluate(AVEDataset(self.config.data, "test"))

    # ---- saving and resuming

    def save_last(self) -> None:
        """Writes the whole state of the run to last.pt (all processes call this, process 0 writes)."""
        ranks = self.group.gather({"random": random_state(), "sums": self.sums.cpu()})
        if self.group.main:
            checkpoint.save(
                self.out / "last.pt",
                self.model,
                config=dataclasses.asdict(self.config),
                features=self.record,
                classes=self.train_set.class_names,
                data=fingerprint(self.train_set),
                optimizer=self.optimizer.state_dict(),
                schedule=self.schedule.state_dict(),
                ranks=ranks,
                run={name: getattr(self, name) for name in RUN_STATE},
            )

    def prepare_folder(self) -> None:
        """Takes up last.pt, or clears the folder of an earlier run, as config.resume says."""
        last, wanted = self.out / "last.pt", self.config.resume
        if wanted and not last.is_file():
            raise FileNotFoundError(f"{last}: nothing to resume")
        if wanted is not False and last.is_file():
            self.restore(last)
        self.group.gather(None)  # nobody clears or writes before all have looked
        if not self.group.main:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        for leftover in self.out.glob(".*.tmp"):  # of a process killed while writing
            leftover.unlink()
        if not self.step:
            for name in ("last.pt", "best.pt", "metrics.csv", "metrics.json"):
                (self.out / name).unlink(missing_ok=True)
        write_json(self.out / "config.json", dataclasses.asdict(self.config))

    def restore(self, path: Path) -> None:
        """Puts the run into the state saved in path; raises ValueError if its settings or data were others."""
        state = checkpoint.load(path, self.group.device)
        require_same_features(path, state.get("features"), self.config.data, self.record)
        check_same_run(path, state, self.config, self.model.config, fingerprint(self.train_set))
        checkpoint.load_weights(self.model, state["model"], path)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        for name in RUN_STATE:
            setattr(self, name, state["run"][name])
        ranks = state["ranks"]
        if len(ranks) == self.group.world:
            set_random_state(ranks[self.group.rank]["random"])
            self.sums = ranks[self.group.rank]["sums"].to(self.group.device)
        elif self.group.main:
            self.say(
                f"{path} was written by {len(ranks)} processes: from here on dropout draws other masks"
            )
            self.sums = sum(rank["sums"] for rank in ranks).to(self.group.device)

    # ---- words

    def say(self, text: str) -> None:
        """Prints in process 0."""
        if self.group.main:
            print(text, flush=True)

    def announce(self) -> None:
        """What is trained on what, at start."""
        segments, classes = self.train_set.labels.shape[1:]
        sizes = f"{len(self.train_set)} training and {len(self.val_set)} validation clips"
        self.say(f"data     {self.config.data}: {sizes}, {segments} segments, {classes} classes")
        count = sum(parameter.numel() for parameter in self.model.parameters())
        self.say(f"model    {count / 1e6:.2f} million parameters, {describe(self.model)}")
        self.say(f"loss     {self.objective.loss}, {self.config.precision}")
        self.say(
            f"device   {self.group.device}, {self.group.world} process{'es' * (self.group.world > 1)}"
        )
        if self.group.main:
            used = backends_used(
                self.objective, self.train_set[0], self.group, self.config.precision
            )
            self.say(
                "backend  " + ("; ".join(used) or "none of the library's ops is used by this model")
            )
        resumed = f", resumed at epoch {self.epoch + 1}, step {self.step}" if self.step else ""
        self.say(f"out      {self.out}{resumed}")

    def summary(self, status: str) -> dict[str, Any]:
        """metrics.json without the history."""
        return {
            "status": status,
            "best": self.best,
            "epochs": self.epoch,
            "stopped_early": self.stopped(),
            "num_parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "peak_memory_mb": peak_memory(self.group.device),
            "config": dataclasses.asdict(self.config),
            "model": self.model.config,
        }


RUN_STATE = ("epoch", "batch", "step", "stale", "seconds", "best", "history")
