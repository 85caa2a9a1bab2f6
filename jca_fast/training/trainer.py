"""Training of AVELocalizer: the loop, validation and reports, in one process or many.

One atomic write puts the whole state of a run (weights, optimiser, schedule, random generators,
place in the epoch, history) into `last.pt`, and the order of clips depends on (seed, epoch) alone.
A run that is killed at any moment and started again therefore ends with the same bits as an
uninterrupted run.
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

from jca_fast.data.ave import AVEDataset
from jca_fast.data.record import read_record
from jca_fast.modules.lengths import used_segments
from jca_fast.training import checkpoint, run_state
from jca_fast.training.config import Config
from jca_fast.training.distributed import GlobalBatches, Group
from jca_fast.training.inference import autocast, backends_used, evaluate_split
from jca_fast.training.logs import (
    Progress,
    RunLog,
    epoch_line,
    final_lines,
    peak_memory,
    start_lines,
)
from jca_fast.training.objective import Objective
from jca_fast.training.reproducible import seed_everything
from jca_fast.training.start import baseline, explain_loss, start_model, training_set


class Trainer:
    """One training run. It restores last.pt if there is one; `fit` trains to the end."""

    def __init__(self, config: Config, group: Group) -> None:
        self.config = config
        self.group = group
        self.out = Path(config.out)
        self.record = read_record(config.data)
        self.train_set = training_set(config)
        self.val_set = AVEDataset(config.data, "val")
        self.baseline = baseline(self.train_set, self.val_set)
        seed_everything(config.seed)  # the same start weights in every process
        self.model = start_model(config, self.train_set).to(group.device)
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
        # the sum of loss * clips, and the correct segments (or clips, weakly supervised)
        self.sums = torch.zeros(2, dtype=torch.float64, device=group.device)
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.seconds = 0.0
        self.progress = Progress(0, 0, False)
        if group.rank:
            seed_everything(config.seed + 1_000_003 * group.rank)  # a different mask per rank

    def wrap(self) -> torch.nn.Module:
        """The objective for the training step: compiled and synchronised over processes as set."""
        wrapped: Any = self.objective
        if self.config.compile:
            # One graph per batch size, so that a resumed run computes the same bits.
            wrapped = torch.compile(wrapped, dynamic=False)
        if self.group.world > 1:
            wrapped = DistributedDataParallel(wrapped, static_graph=True)
        return wrapped

    # ---- the loop

    def fit(self) -> dict[str, Any]:
        """Trains to the last epoch or the early stop, and scores best.pt on the test split.

        Returns the content of metrics.json without the history. RuntimeError if another run uses
        the folder.
        """
        with run_state.held_folder(self):
            self.wrapped = self.wrap()
            return self.run()

    def run(self) -> dict[str, Any]:
        """The loop of :meth:`fit`."""
        per_epoch = self.batches.count()
        self.progress = Progress(
            self.config.epochs * per_epoch,
            self.epoch * per_epoch + self.batch,
            self.config.progress if self.group.main else False,
        )
        self.announce()
        log = RunLog(self.out, self.history, self.config.tensorboard) if self.group.main else None
        while self.epoch < self.config.epochs and not self.stopped():
            self.train_epoch()
            self.finish_epoch()
            if log:
                log.write(self.history, self.summary("running"))
        self.progress.close()
        self.group.gather(None)  # barrier: best.pt is written before any process reads it
        summary = self.summary("finished") | {"test": self.test()}
        if log:
            log.rewrite(self.history, summary)
            log.draw(self.history, self.baseline)
            log.close()
            for line in final_lines(summary):
                self.say(line)
        return summary

    def train_epoch(self) -> None:
        """Trains the rest of the current epoch, starting at batch self.batch."""
        start = time.perf_counter() - self.seconds
        self.objective.train()
        self.batches.seek(self.epoch, self.batch)
        self.loader_generator.manual_seed(self.config.seed + self.epoch)
        total, every = self.batch + len(self.batches), self.config.checkpoint_every
        for tensors in self.loader:
            self.train_step(*(t.to(self.group.device, non_blocking=True) for t in tensors))
            self.seconds = time.perf_counter() - start
            if self.group.main:
                self.progress.step(f"epoch {self.epoch + 1}, batch {self.batch} of {total}")
            if every and self.step % every == 0 and self.batch < total:
                run_state.save(self)

    def train_step(
        self, audio: Tensor, visual: Tensor, labels: Tensor, lengths: Tensor | None = None
    ) -> None:
        """Makes one step of Adam; lengths (B,) are the segments of each clip without padding.

        DDP averages the gradients of the processes; the weight turns this into the mean over clips.
        """
        share, size = self.batches.share(self.batch), self.batches.size(self.batch)
        with autocast(self.group.device, self.config.precision):
            padded = () if lengths is None else (lengths,)
            loss, predicted = self.wrapped(audio, visual, labels, *padded)
        self.optimizer.zero_grad(set_to_none=True)
        (loss * (share * self.group.world / size)).backward()
        if self.config.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        if share:
            right = predicted == labels.argmax(dim=-1)  # (B, N), or (B,) of whole clips
            if right.ndim == 2 and (used := used_segments(lengths, None, right)) is not None:
                right &= used[..., 0]
            self.sums += torch.stack([loss.detach().double() * share, right.sum().double()])
        self.batch += 1
        self.step += 1

    def finish_epoch(self) -> None:
        """Validates, steps the schedule, adds a row to the history and writes the checkpoints."""
        clips = len(self.train_set)
        lengths, labels = self.train_set.lengths, self.train_set.labels
        answers = labels[..., 0].numel()  # segments, or clips
        if lengths is not None and labels.ndim == 3:
            answers = int(lengths.sum())
        loss_sum, right = self.group.sum(self.sums.clone()).tolist()
        if not math.isfinite(loss_sum):
            raise RuntimeError(
                f"the loss of epoch {self.epoch + 1} is {loss_sum}; {explain_loss(self.train_set)}"
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
            "train_accuracy": right / answers,
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
        # best.pt comes first: a run killed before last.pt repeats the epoch with the same bits.
        if better and self.group.main:
            self.save("best.pt", best=self.best)
        run_state.save(self)
        self.say(epoch_line(row, self.config.epochs, better, self.baseline))

    def save(self, name: str, **entries: Any) -> None:
        """Writes a checkpoint into the folder of the run, with more entries if given."""
        checkpoint.save(
            self.out / name,
            self.model,
            config=dataclasses.asdict(self.config),
            features=self.record,
            classes=self.val_set.class_names,
            **entries,
        )

    def stopped(self) -> bool:
        """Whether the run has reached the early stop."""
        return 0 < self.config.early_stop <= self.stale

    def evaluate(self, dataset: AVEDataset) -> dict[str, Any]:
        """The loss and the metrics of the current weights on a split; names its broken clips."""
        c = self.config
        settings: dict[str, Any] = {
            "batch_size": c.batch_size,
            "precision": c.precision,
            "num_workers": c.num_workers,
        }
        result = evaluate_split(self.objective, dataset, self.group, **settings)
        if broken := ", ".join(result.get("not_finite", [])[:5]):
            split = dataset.split
            self.say(f"{split}: the scores of clips {broken} are not finite; they count as wrong")
        return result

    def test(self) -> dict[str, Any]:
        """The metrics of best.pt on the test split."""
        best = self.out / "best.pt"
        checkpoint.load_weights(self.model, checkpoint.load(best, self.group.device)["model"], best)
        return self.evaluate(AVEDataset(self.config.data, "test"))

    # ---- reports

    def say(self, text: str) -> None:
        """Prints in process 0, above the progress bar if there is one."""
        if self.group.main:
            self.progress.say(text)

    def announce(self) -> None:
        """Prints the data, the model and the settings of the run."""
        if not self.group.main:
            return
        used = backends_used(self.objective, self.train_set[0], self.group, self.config.precision)
        for line in start_lines(
            self.config,
            self.train_set,
            self.val_set,
            self.objective,
            self.group,
            used,
            self.baseline,
        ):
            self.say(line)
        resumed = f", resumed at epoch {self.epoch + 1}, step {self.step}" if self.step else ""
        self.say(f"out      {self.out}{resumed}")

    def summary(self, status: str) -> dict[str, Any]:
        """The content of metrics.json, without the history."""
        return {
            "status": status,
            "best": self.best,
            "epochs": self.epoch,
            "stopped_early": self.stopped(),
            "val_majority_baseline": self.baseline,
            "num_parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "peak_memory_mb": peak_memory(self.group.device),
            "config": dataclasses.asdict(self.config),
            "model": self.model.config,
        }
