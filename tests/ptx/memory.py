"""Memory that checks itself: bounds, alignment, uninitialised reads and races.

A space is an array of *cells*, each as wide as the narrowest access of the kernel. Its history
records the last write and the last read of each cell: thread and time. Accesses of two threads are
ordered if a barrier of their CTA, or of their warp, lies between; otherwise they race if one of
them writes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .formats import Array

WARP_BARRIER, CTA_BARRIER = 1 << 24, 1 << 44
THREAD, WARP_BARRIERS = WARP_BARRIER - 1, CTA_BARRIER - WARP_BARRIER
"""A stamp holds, from the low bits: thread, barriers that its warp has passed since the last one
of its CTA, barriers of its CTA."""
NEVER = -1


class KernelError(Exception):
    """An error that ends a kernel on a GPU too: a bad address, or a barrier that is never left."""


class Findings:
    """Errors that do not end a run: how often each kind occurred at each instruction."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.examples: dict[tuple[str, str], str] = {}

    def add(self, kind: str, where: Any, count: int, example: str = "") -> None:
        key = (kind, str(where))
        self.counts[key] += count
        self.examples.setdefault(key, example)

    def kinds(self) -> set[str]:
        return {kind for kind, _ in self.counts}

    def lines(self) -> list[str]:
        return [
            f"{kind}: {where}: {count} x, first {self.examples[kind, where]}"
            for (kind, where), count in self.counts.items()
        ]


class Arena:
    """Global memory of a launch: buffers with gaps between them that no access may touch."""

    GAP = 512

    def __init__(self, sizes: list[int], base: int = 0x7F00_0000_0000) -> None:
        starts = [self.GAP]
        for size in sizes:
            starts.append(-(-(starts[-1] + size) // self.GAP) * self.GAP + self.GAP)
        self.base = base
        self.bytes = np.full(starts.pop() + self.GAP, 0xFF, np.uint8)
        self.valid = np.zeros(len(self.bytes), bool)
        self.buffers = [self.bytes[at : at + size] for at, size in zip(starts, sizes, strict=True)]
        self.addresses = [base + at for at in starts]
        for at, size in zip(starts, sizes, strict=True):
            self.valid[at : at + size] = True


@dataclass
class Space:
    """The cells of one state space, in one piece or in one piece for each CTA."""

    name: str
    base: int
    """Address of the first byte."""
    size: int
    """Bytes of a piece."""
    cells: Array
    valid: Array | None = None
    """The bytes that may be accessed; None: all."""
    starts: Array | None = None
    """Where the piece of each lane starts; None: all have one piece."""
    history: History | None = None

    def access(self, addresses: Array, lanes: Array, size: int, where: Any) -> Access:
        """Access to ``size`` bytes for each lane; KernelError if an address is bad."""
        addresses = addresses.astype(np.int64)
        offsets = addresses - self.base
        outside = (offsets < 0) | (offsets > self.size - size)
        if self.valid is not None and not outside.any():
            outside = ~(self.valid[offsets] & self.valid[offsets + (size - 1)])
        for what, bad in (("out of bounds", outside), ("misaligned", addresses % size != 0)):
            if bad.any():
                first = int(np.argmax(bad))
                raise KernelError(
                    f"{self.name} access {what}: {size} bytes at {addresses[first]:#x}, "
                    f"lane {lanes[first]}, {np.count_nonzero(bad)} lanes: {where}"
                )
        if self.starts is not None:
            offsets = offsets + self.starts[lanes]
        cell = self.cells.itemsize
        cells = (offsets // cell)[:, None] + np.arange(-(-size // cell))
        return Access(self, cells, lanes, where)


@dataclass
class Access:
    """The cells that lanes read or write at an instruction."""

    space: Space
    cells: Array
    """(accesses, cells of each)"""
    lanes: Array
    """(accesses,)"""
    where: Any

    @cached_property
    def stamps(self) -> Array:
        """Thread and time of each access when it is made, shaped like ``cells``."""
        return np.broadcast_to(self.space.history.now[self.lanes, None], self.cells.shape)

    def part(self, chosen: Array) -> Access:
        """The access of some of the lanes, not made yet."""
        return Access(self.space, self.cells[chosen], self.lanes[chosen], self.where)

    def read(self) -> Array:
        if self.space.history is not None:
            self.space.history.read(self)
        return self.space.cells[self.cells]

    def write(self, values: Array) -> None:
        """``values``: the contents of the cells, of any item size."""
        cells = self.space.cells
        values = np.ascontiguousarray(values).view(cells.dtype)
        same = cells[self.cells] == values
        cells[self.cells] = values
        if self.space.history is not None:
            self.space.history.write(self, same, cells[self.cells] != values)


class History:
    """The last accesses of each cell of a space."""

    def __init__(
        self, cells: int, threads: int, now: Array, findings: Findings, written: bool
    ) -> None:
        """``threads`` of a CTA; ``now``: thread and time of each lane, which the machine changes;
        ``written``: the cells have contents from the start.
        """
        self.threads, self.now, self.findings, self.written = threads, now, findings, written
        self.stamps = np.empty((4, cells), np.int64)
        self.writer, self.reader, self.other_thread, self.other_warp = self.stamps
        """The last writer and reader, the last reader that is not the thread of ``reader``, and
        the last that is not in its warp."""
        self.flags = np.empty((2, cells), bool)
        self.in_flight, self.unfenced = self.flags
        """An asynchronous copy to the cell has not arrived; its writer has made no proxy fence."""

    def forget(self) -> None:
        self.stamps.fill(NEVER)
        self.flags.fill(False)

    def read(self, access: Access) -> None:
        cells, mine = access.cells, access.stamps
        written = self.writer[cells]
        self._add("read of a copy before its wait", self.in_flight[cells], written, access)
        if not self.written:
            self._add("read of uninitialised memory", written < 0, written, access)
        self._add_races("read after write", written, access)
        # Reads of others stay beside the last one: earlier ones, and those at the same time.
        before = self.reader[cells]
        self.reader[cells] = mine
        for others, stamps in ((before, before), (self.reader[cells], mine)):
            different = (others >= 0) & ((others ^ mine) & THREAD != 0)
            if different.any():
                self.other_thread[cells[different]] = stamps[different]
                different &= (others ^ mine) & (THREAD & ~31) != 0
                self.other_warp[cells[different]] = stamps[different]

    def write(self, access: Access, same: Array, lost: Array) -> None:
        """``same`` (shaped like the cells): the cell already had the value, so no reader notices
        the write. ``lost``: another thread overwrote the value at the same time.
        """
        cells = access.cells
        written = self.writer[cells]
        self._add("write over a copy before its wait", self.in_flight[cells], written, access)
        self._add_races("write after write", np.where(same, NEVER, written), access)
        for readers in (self.reader, self.other_thread, self.other_warp):
            self._add_races("write after read", readers[cells], access)
        self.writer[cells] = access.stamps
        self.unfenced[cells] = True
        self._add("different values written at once", lost, self.writer[cells], access)

    def _add_races(self, kind: str, other: Array, access: Access) -> None:
        """Accesses ``other`` of different threads that no barrier separates from these."""
        mine = access.stamps
        apart = (other >= 0) & ((other ^ mine) & THREAD != 0)
        if not apart.any():
            return
        ctas = apart & ((other & THREAD) // self.threads != (mine & THREAD) // self.threads)
        inside = apart & ~ctas & (other // CTA_BARRIER == mine // CTA_BARRIER)
        warps = inside & ((other ^ mine) & (THREAD & ~31) != 0)
        lanes = inside & ~warps & (other // WARP_BARRIER == mine // WARP_BARRIER)
        for name, racing in (("CTAs", ctas), ("warps", warps), ("lanes", lanes)):
            self._add(f"{kind}, race of {name}", racing, other, access)

    def _add(self, kind: str, bad: Array, other: Array, access: Access) -> None:
        if not (count := np.count_nonzero(bad)):
            return
        first = np.unravel_index(np.argmax(bad), bad.shape)
        example = f"cell {access.cells[first]} by thread {access.stamps[first] & THREAD}"
        if other[first] >= 0:
            example += f", before by thread {other[first] & THREAD}"
        self.findings.add(kind, access.where, count, example)
