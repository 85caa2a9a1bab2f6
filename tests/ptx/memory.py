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

THREAD_BITS = 24
WARP_BARRIER_BITS = 20
THREAD = (1 << THREAD_BITS) - 1
CTA_BARRIERS = THREAD_BITS + WARP_BARRIER_BITS
"""A stamp holds, from the low bits: thread, barriers its warp has passed, barriers of its CTA."""
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


class Space:
    """The cells of one state space, in one piece or in one piece for each CTA."""

    def __init__(self, name: str, base: int, content: Array, cell: int, size: int) -> None:
        """``base``: address of the first byte; ``size``: bytes of a piece."""
        self.name = name
        self.base = base
        self.bytes = content
        self.cell = cell
        self.cells = content.view(f"u{cell}")
        self.size = size
        self.valid: Array | None = None
        """The bytes that may be accessed; None: all."""
        self.starts: Array | None = None
        """Where the piece of each lane starts; None: all have one piece."""
        self.stamps: Array
        """Thread and time of each lane now (``Machine.stamp``)."""
        self.history: History | None = None

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
        cells = (offsets // self.cell)[:, None] + np.arange(-(-size // self.cell))
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
        return np.broadcast_to(self.space.stamps[self.lanes, None], self.cells.shape)

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

    def __init__(self, cells: int, threads: int, findings: Findings, written: bool) -> None:
        """``threads`` of a CTA; ``written``: the cells have contents from the start."""
        self.threads = threads
        self.findings = findings
        self.written = written
        self.stamps = np.empty((4, cells), np.int64)
        self.writer, self.reader, self.other_thread, self.other_warp = self.stamps
        """The last writer and reader, the last reader that is not the thread of ``reader``, and
        the last that is not in its warp."""
        self.flags = np.empty((2, cells), bool)
        self.in_flight, self.unfenced = self.flags
        """An asynchronous copy to the cell has not arrived; its writer has made no proxy fence."""
        self.copies = False
        """Whether any cell was ever ``in_flight``."""
        self.forget()

    def forget(self) -> None:
        self.stamps.fill(NEVER)
        self.flags.fill(False)

    def read(self, access: Access) -> None:
        cells, mine = access.cells, access.stamps
        written = self.writer[cells]
        if self.copies:
            self._add("read of a copy before its wait", self.in_flight[cells], written, access)
        if not self.written:
            self._add("read of uninitialised memory", written < 0, written, access)
        self._add_races("read after write", written, access)
        before = self.reader[cells]
        self.reader[cells] = mine
        self._remember(cells, before, before, mine)
        self._remember(cells, mine, self.reader[cells], mine)

    def _remember(self, cells: Array, stamps: Array, others: Array, mine: Array) -> None:
        """Keep ``stamps`` of reads beside the last one where ``others`` are not ``mine``."""
        different = (others >= 0) & ((others ^ mine) & THREAD != 0)
        if not different.any():
            return
        self.other_thread[cells[different]] = stamps[different]
        different &= (others ^ mine) & (THREAD & ~31) != 0
        self.other_warp[cells[different]] = stamps[different]

    def write(self, access: Access, same: Array, lost: Array) -> None:
        """``same`` (shaped like the cells): the cell already had the value, so no reader notices
        the write. ``lost``: another thread overwrote the value at the same time.
        """
        cells = access.cells
        written = self.writer[cells]
        if self.copies:
            early = self.in_flight[cells]
            self._add("write over a copy before its wait", early, written, access)
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
        inside = apart & ~ctas & (other >> CTA_BARRIERS == mine >> CTA_BARRIERS)
        warps = inside & ((other ^ mine) & (THREAD & ~31) != 0)
        lanes = inside & ~warps & (other >> THREAD_BITS == mine >> THREAD_BITS)
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
