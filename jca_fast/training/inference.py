"""Runs a model over a whole split: predictions, metrics and the pointing game."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset

from jca_fast.data.annotations import class_names
from jca_fast.data.ave import AVEDataset
from jca_fast.data.record import read_record, require_same_features
from jca_fast.modules.lengths import used_segments
from jca_fast.training import metrics
from jca_fast.training.checkpoint import load_model, trained_loss
from jca_fast.training.distributed import Group, process_group
from jca_fast.training.objective import Objective


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Autocast to bfloat16 for precision bfloat16, disabled autocast for float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def split_batches(
    dataset: Dataset[Any], batch_size: int, group: Group, num_workers: int = 0
) -> Iterator[tuple[list[int], list[Tensor]]]:
    """(positions in the split, tensors on the device) of every batch of this process.

    The batches are those of a single process in file order. They are dealt out in turn, so that
    exactly one process gets each clip. The global random generators are not used.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; needed: 1 or more")
    if num_workers < 0:
        raise ValueError(f"num_workers is {num_workers}; needed: 0 or more")
    total = len(dataset)  # type: ignore[arg-type]
    starts = range(group.rank * batch_size, total, batch_size * group.world)
    batches = [list(range(start, min(start + batch_size, total))) for start in starts]
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        generator=torch.Generator().manual_seed(0),
        pin_memory=group.device.type == "cuda",
    )
    for rows, tensors in zip(batches, loader, strict=True):
        yield rows, [tensor.to(group.device, non_blocking=True) for tensor in tensors]


@torch.no_grad()
def evaluate_split(
    objective: Objective,
    dataset: Any,
    group: Group,
    *,
    batch_size: int = 64,
    precision: str = "float32",
    num_workers: int = 0,
) -> dict[str, Any]:
    """Mean loss, segment metrics (`metrics.summarize`) and calibration of a split.

    The result is the same on every process: each writes the predictions of its clips into a zero
    matrix (n, N), and the sum of these holds each clip once. Segments whose scores are not finite
    count as wrong; not_finite lists their clips, and a loss that is not finite is None. Padding,
    if the dataset has lengths, does not count.
    """
    objective.eval()
    labels: Tensor = dataset.labels  # (n, N, C)
    predicted = torch.zeros(labels.shape[:2], dtype=torch.int64, device=group.device)  # (n, N)
    confidence = torch.zeros(labels.shape[:2], dtype=torch.float64, device=group.device)  # (n, N)
    loss_sum = torch.zeros((), dtype=torch.float64, device=group.device)
    used = _used_segments(dataset)  # (n, N)
    for rows, tensors in split_batches(dataset, batch_size, group, num_workers):
        audio, visual, target, *lengths = tensors
        with autocast(group.device, precision):
            scores = objective.scores(audio, visual, *lengths)
            loss = objective.measure(scores, target, *lengths)
        predicted[rows], confidence[rows] = classify(objective.probabilities(scores).double())
        loss_sum += loss.double() * used[rows].sum().item()
    predicted, confidence = group.sum(predicted).cpu(), group.sum(confidence).cpu()
    mean_loss = float(group.sum(loss_sum)) / int(used.sum())
    target = labels.argmax(dim=-1)
    broken = ((predicted == metrics.UNDEFINED) & used).any(dim=1).nonzero().flatten().tolist()
    return {
        "loss": mean_loss if math.isfinite(mean_loss) else None,
        **metrics.summarize(predicted, target, labels.shape[-1], used=used),
        **metrics.calibration(confidence[used], (predicted == target)[used]),
        "not_finite": [dataset.clip_name(index) for index in broken],
    }


def _used_segments(dataset: Any) -> Tensor:
    """The mask of the segments of a split without padding, bool (n, N)."""
    used = used_segments(getattr(dataset, "lengths", None), None, dataset.labels)
    if used is None:
        return torch.ones(dataset.labels.shape[:2], dtype=torch.bool)
    return used[..., 0]


def classify(probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """The most probable class of probabilities (..., C) and its probability, both (...).

    If a probability is not finite, the class is `metrics.UNDEFINED` and its probability NaN.
    """
    best = probabilities.max(dim=-1)
    broken = ~probabilities.isfinite().all(dim=-1)
    classes = best.indices.masked_fill(broken, metrics.UNDEFINED)
    return classes, best.values.masked_fill(broken, math.nan)


@torch.no_grad()
def predict(
    objective: Objective,
    dataset: Any,
    group: Group,
    *,
    batch_size: int = 64,
    precision: str = "float32",
    lengths: list[int] | None = None,
) -> Tensor:
    """Probability of every class in every segment, (n, N, C) float32.

    The items of dataset begin with audio and visual. lengths: segments in use of each clip; the
    padding after them is ignored, and its probabilities are those of scores of zero.
    """
    objective.eval()
    found = []
    for rows, (audio, visual, *_) in split_batches(dataset, batch_size, group):
        counts = None if lengths is None else [lengths[row] for row in rows]
        with autocast(group.device, precision):
            scores = objective.scores(audio, visual, counts)
        found.append(objective.probabilities(scores).float().cpu())
    return torch.cat(found)


@torch.no_grad()
def play_pointing_game(
    model: nn.Module, dataset: AVEDataset, group: Group, *, batch_size: int = 8
) -> metrics.PointingGame | None:
    """Pointing game over a split of a planted set, on the segments where the object is both heard
    and seen.

    Returns None for other sets, and for a model without attention over regions. The batches are
    small because the maps of all fusion layers are computed with the visual attention.
    """
    planted = dataset.read_planted()
    if planted is None:
        return None
    position, audible, visible = map(torch.from_numpy, planted)
    score = metrics.PointingGame()
    model.eval()
    for rows, (audio, visual, _, *lengths) in split_batches(dataset, batch_size, group):
        padded = {"lengths": lengths[0]} if lengths else {}
        attention = model(audio, visual, return_maps=True, **padded)[1]["visual_attention"]
        if attention is None:
            return None
        # attention (B, N, R)
        clips = dataset.indices[rows]  # (B,)
        score += metrics.pointing_game(
            attention.cpu(), position[clips], audible[clips] & visible[clips]
        )
    return sum(group.gather(score), metrics.PointingGame())


def check_fit(
    model: nn.Module, item: tuple[Tensor, ...], data: str | Path, path: str | Path
) -> None:
    """Raises ValueError if a clip of the data has other sizes than the model of the checkpoint."""
    audio, visual, *labels = item  # (N, d_a), (N, ..., d_v), (N, C)
    found = {
        "num_segments": len(audio),
        "audio_features": audio.shape[-1],
        "region_features": visual.shape[-1],
    }
    if labels:
        found["num_classes"] = labels[0].shape[-1]
    config: dict[str, Any] = model.config  # type: ignore[assignment]
    for name, size in found.items():
        if config[name] != size:
            raise ValueError(f"{data}: {name} is {size}; needed: {config[name]}, as in {path}")


def evaluate_checkpoint(
    path: str | Path,
    data: str | Path,
    split: str = "test",
    *,
    batch_size: int = 64,
    device: str = "auto",
    precision: str = "float32",
    num_workers: int = 0,
) -> dict[str, Any]:
    """All metrics of a checkpoint (or of the best.pt of a run's folder) on a split, ready for JSON.

    The keys are those of `evaluate_split` and majority_baseline (the accuracy of always predicting
    the most frequent class of the training split), pointing_game (None without planted.h5 in data,
    or without attention), checkpoint, data, split and classes (their names).
    """
    with process_group(device) as group:
        model, content = load_model(path, group.device)
        require_same_features(path, content.get("features"), data, read_record(data))
        dataset = AVEDataset(data, split)
        check_fit(model, dataset[0], data, path)
        objective = Objective(model, trained_loss(content))
        settings: dict[str, Any] = {
            "batch_size": batch_size,
            "precision": precision,
            "num_workers": num_workers,
        }
        result = evaluate_split(objective, dataset, group, **settings)
        target, reference = (
            table.labels.argmax(dim=-1)[_used_segments(table)]
            for table in (dataset, AVEDataset(data, "train"))
        )
        names = class_names(dataset.labels.shape[-1], dataset.events, content.get("classes"))
        game = play_pointing_game(model, dataset, group)
    return {
        "checkpoint": str(path),
        "data": str(data),
        "split": split,
        "classes": names,
        **result,
        "majority_baseline": metrics.majority_baseline(target, reference),
        "pointing_game": game
        and {"accuracy": game.accuracy, "chance": game.chance, "segments": game.segments},
    }


@torch.no_grad()
def backends_used(
    objective: Objective, item: tuple[Tensor, ...], group: Group, precision: str
) -> list[str]:
    """`<op>: <backend>` for every op of this library that a forward pass over one clip calls."""
    objective.eval()
    seen: dict[str, None] = {}

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func.namespace == "jca_fast":
                op, backend = func.__name__.split(".")
                seen[f"{op}: {backend}"] = None
            return func(*args, **(kwargs or {}))

    with Watch(), autocast(group.device, precision):
        objective(*(tensor[None].to(group.device) for tensor in item))
    return list(seen)
