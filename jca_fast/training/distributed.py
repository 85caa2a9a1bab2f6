"""One or many processes: the group of a run, and the shares of its processes in the batches."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Sampler


@dataclass(frozen=True)
class Group:
    """This process (its rank and the world size) and its device; rank 0 of 1 without torchrun."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the one process that prints and writes."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of tensor over all processes, on each of them (in place)."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes in rank order, on each of them; also a barrier."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values


@contextmanager
def process_group(device: str = "auto") -> Iterator[Group]:
    """The group that torchrun has set up in the environment, or a group of one.

    Uses NCCL on GPUs and gloo on CPUs. Raises ValueError for a device that this machine does not
    have.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    chosen = pick_device(device, int(os.environ.get("LOCAL_RANK", 0)) if world > 1 else None)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    started = world > 1 and not dist.is_initialized()
    if started:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Group(chosen, rank, world)
    finally:
        if started:
            dist.destroy_process_group()


def pick_device(device: str = "auto", local_rank: int | None = None) -> torch.device:
    """The torch device of a name; auto is the GPU if there is one.

    local_rank selects the GPU of this process.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return torch.device("cpu")
    if re.fullmatch(r"cuda(:\d{1,3})?", device) is None:
        raise ValueError(f"device: expected auto, cpu, cuda or cuda:<index>, got {device!r}")
    chosen = torch.device(device)
    index = chosen.index if chosen.index is not None else local_rank or 0
    if index >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ValueError(
            f"device: {device!r} requested (GPU {index} in this process), "
            f"but there are {found} GPUs"
        )
    return torch.device("cuda", index)


class GlobalBatches(Sampler[list[int]]):
    """The share of one process in the shuffled batches of an epoch.

    The order of the clips depends on (seed, epoch) alone: neither the number of processes nor an
    interruption changes it, and `seek` starts anywhere. Process r takes every world-th clip of each
    batch, beginning with the r-th. A short last batch may have no clip for a process. It then gets
    the first one, so that all processes take part in every step, and its `share` is 0.
    """

    def __init__(
        self, num_clips: int, batch_size: int, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        self.num_clips, self.batch_size = num_clips, batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self.seek(epoch=0, batch=0)

    def seek(self, epoch: int, batch: int) -> None:
        """Makes the next iteration start at this batch of this epoch."""
        self.epoch, self.first = epoch, batch

    def __len__(self) -> int:
        return self.count() - self.first

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self.num_clips, generator=self.generator()).tolist()
        for start in range(self.first * self.batch_size, self.num_clips, self.batch_size):
            batch = order[start : start + self.batch_size]
            yield batch[self.rank :: self.world] or batch[:1]

    def generator(self) -> torch.Generator:
        """A new random generator for this epoch; nearby seeds and epochs give unrelated streams."""
        return torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)

    def count(self) -> int:
        """Number of batches of an epoch."""
        return -(-self.num_clips // self.batch_size)

    def size(self, batch: int) -> int:
        """Number of clips of a batch over all processes."""
        return min(self.batch_size, self.num_clips - batch * self.batch_size)

    def share(self, batch: int) -> int:
        """Number of clips of a batch that count for this process."""
        return len(range(self.rank, self.size(batch), self.world))
