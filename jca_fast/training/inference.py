"""Running a model over a whole split: predictions, metrics, pointing game."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from jca_fast.training import metrics
from jca_fast.training.distributed import Group
from jca_fast.training.objective import Objective

PRECISIONS = ("float32", "bfloat16")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Autocast to bfloat16, or nothing at all for precision float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def split_batches(
    dataset: Dataset[Any], batch_size: int, group: Group, num_workers: int = 0
) -> Iterator[tuple[list[int], list[Tensor]]]:
    """(positions in the split, tensors on the device) of every batch of this process, each clip in exactly one process.

    Batches are those of a single process in file order, dealt out in turn. Touches no global random generator.
    """
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
    """Mean loss and all segment metrics (`metrics.summarize`) of a split; the same result on every process.

    Every process writes the predictions of its clips into a zero matrix (n, N); their sum holds each clip once.
    """
    objective.eval()
    labels: Tensor = torch.as_tensor(dataset.labels)  # (n, N, C)
    predicted = torch.zeros(labels.shape[:2], dtype=torch.int64, device=group.device)  # (n, N)
    loss_sum = torch.zeros((), dtype=torch.float64, device=group.device)
    for rows, (audio, visual, target) in split_batches(dataset, batch_size, group, num_workers):
        with autocast(group.device, precision):
            loss, predicted[rows] = objective(audio, visual, target)
        loss_sum += loss.double() * len(rows)
    predicted, loss_sum = group.sum(predicted).cpu(), group.sum(loss_sum)
    summary = metrics.summarize(predicted, labels.argmax(dim=-1), labels.shape[-1])
    return {"loss": float(loss_sum) / len(labels), **summary}
