"""Memory that checks itself: bounds, alignment, uninitialised reads and races.

A space is an array of *cells*, each as wide as the narrowest access of the kernel. Its history
records the last write and the last read of each cell: thread and time. Accesses of two threads are
ordered if a barrier of their CTA, or of their warp, lies between; otherwise they race if one of
them writes.
"""

from __future__ import annotations

from collections import Counter
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


class History:
    """The last accesses of each cell of a space."""

    def __init__(self, cells: int, threads: int, findings: Findings, written: bool) -> None:
        """``threads`` of a CTA; ``written``: the cells have contents from the start."""
        self.threads = threads
        self.findings = findings
        self.written = written
        self.writer = np.empty(cells, np.int64)
        self.reader = np.empty(cells, np.int64)
        self.other_thread = np.empty(cells, np.int64)
        """The last reader that is not the thread of ``reader``."""
        self.other_warp = np.empty(cells, np.int64)
        """The last reader that is not in the warp of ``reader``."""
        self.in_flight = np.empty(cells, bool)
        """An asynchronous copy to the cell has not arrived."""
        self.unfenced = np.empty(cells, bool)
        """Written since the writer's last proxy fence."""
        self.copies = False
        """Whether any cell was ever ``in_flight``."""
        self.forget()

    def forget(self) -> None:
        for stamps in (self.writer, self.reader, self.other_thread, self.other_warp):
            stamps.fill(NEVER)
        self.in_flight.fill(False)
        self.unfenced.fill(False)

    def read(self, cells: Array, stamps: Array, where: Any) -> None:
        """``cells`` (accesses, cells of one access), ``stamps`` (accesses,)."""
        mine = np.broadcast_to(stamps[:, None], cells.shape)
        written = self.writer[cells]
        if self.copies:
            early = self.in_flight[cells]
            self._add("read of a copy before its wait", early, cells, mine, written, where)
        if not self.written:
            self._add("read of uninitialised memory", written < 0, cells, mine, written, where)
        self._add_races("read after write", written, mine, cells, where)
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

    def write(self, cells: Array, stamps: Array, same: Array, lost: Array, where: Any) -> None:
        """``same`` (shaped like ``cells``): the cell already had the value, so no reader notices
        the write. ``lost``: another thread overwrote the value at the same time.
        """
        mine = np.broadcast_to(stamps[:, None], cells.shape)
        written = self.writer[cells]
        if self.copies:
            early = self.in_flight[cells]
            self._add("write over a copy before its wait", early, cells, mine, written, where)
        changed = np.where(same, NEVER, written)
        self._add_races("write after write", changed, mine, cells, where)
        for readers in (self.reader, self.other_thread, self.other_warp):
            self._add_races("write after read", readers[cells], mine, cells, where)
        self.writer[cells] = mine
        self.unfenced[cells] = True
        self._add("different values written at once", lost, cells, mine, self.writer[cells], where)

    def _add_races(self, kind: str, other: Array, mine: Array, cells: Array, where: Any) -> None:
        """Accesses ``other`` of different threads that no barrier separates from ``mine``."""
        apart = (other >= 0) & ((other ^ mine) & THREAD != 0)
        if not apart.any():
            return
        ctas = apart & ((other & THREAD) // self.threads != (mine & THREAD) // self.threads)
        inside = apart & ~ctas & (other >> CTA_BARRIERS == mine >> CTA_BARRIERS)
        warps = inside & ((other ^ mine) & (THREAD & ~31) != 0)
        lanes = inside & ~warps & (other >> THREAD_BITS == mine >> THREAD_BITS)
        for name, racing in (("CTAs", ctas), ("warps", warps), ("lanes", lanes)):
            self._add(f"{kind}, race of {name}", racing, cells, mine, other, where)

    def _add(
        self, kind: str, bad: Array, cells: Array, mine: Array, other: Array, where: Any
    ) -> None:
        count = np.count_nonzero(bad)
        if count == 0:
            return
        first = tuple(np.argwhere(bad)[0])
        example = f"cell {cells[first]} by thread {mine[first] & THREAD}"
        if other[first] >= 0:
            example += f", before by thread {other[first] & THREAD}"
        self.findings.add(kind, where, count, example)


class Space:
    """The cells of one state space, in one piece or in one piece for each CTA."""

    def __init__(
        self, name: str, base: int, content: Array, cell: int, valid: Array | None = None
    ) -> None:
        """``base``: address of the first byte; ``valid`` bytes may be accessed, None means all."""
        self.name = name
        self.base = base
        self.cell = cell
        self.valid = valid
        self.bytes = content
        self.cells = content.view(f"u{cell}")
        self.size = len(content)
        self.starts: Array | None = None
        """Where the piece of each lane starts, of ``size`` bytes; None: all have one piece."""
        self.history: History | None = None

    def locate(self, addresses: Array, lanes: Array, size: int, where: Any) -> Array:
        """(accesses, cells of each) for accesses of ``size`` bytes; KernelError if one is bad."""
        offsets = addresses.astype(np.int64) - self.base
        bad = (offsets < 0) | (offsets > self.size - size)
        if self.valid is not None and not bad.any():
            bad = ~(self.valid[offsets] & self.valid[offsets + (size - 1)])
        self._check("out of bounds", bad, addresses, lanes, size, where)
        self._check(
            "misaligned", addresses.astype(np.int64) % size != 0, addresses, lanes, size, where
        )
        if self.starts is not None:
            offsets = offsets + self.starts[lanes]
        return (offsets // self.cell)[:, None] + np.arange(-(-size // self.cell))

    def _check(
        self, what: str, bad: Array, addresses: Array, lanes: Array, size: int, where: Any
    ) -> None:
        if not bad.any():
            return
        first = int(np.flatnonzero(bad)[0])
        raise KernelError(
            f"{self.name} access {what}: {size} bytes at {int(addresses[first]):#x}, "
            f"lane {int(lanes[first])}, {np.count_nonzero(bad)} lanes: {where}"
        )

    def read(self, cells: Array, stamps: Array, where: Any) -> Array:
        if self.history is not None:
            self.history.read(cells, stamps, where)
        return self.cells[cells]

    def write(self, cells: Array, values: Array, stamps: Array, where: Any) -> None:
        """``values``: the contents of ``cells``, of any item size."""
        values = np.ascontiguousarray(values).view(self.cells.dtype)
        same = self.cells[cells] == values
        self.cells[cells] = values
        if self.history is not None:
            self.history.write(cells, stamps, same, self.cells[cells] != values, where)
