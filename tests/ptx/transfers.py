"""Loads, stores, asynchronous copies, and exchanges between the lanes of a warp."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .formats import DTYPES, WIDTHS, Array
from .instructions import Run, entries, instruction, unknown
from .parser import Address, Instruction, Number, Operand, Register

if TYPE_CHECKING:
    from .machine import Lanes, Machine
    from .memory import Space


def address(m: Machine, operand: Operand) -> Callable[[Array], Array]:
    """A function that gives the addresses of an operand for the lanes with the given indices."""
    assert isinstance(operand, Address)
    base, offset = operand
    narrow = isinstance(base, Register) and m.kernel.registers[base.name] == 32
    read = m.gather(base, "u32" if narrow else "u64")
    return lambda index: read(index).astype(np.int64) + offset


def _space(m: Machine, ins: Instruction) -> Callable[[Array], tuple[Space, Array]]:
    """A function that finds the space of addresses, and the addresses inside it."""
    spaces = {"global": m.memory, "shared": m.shared, "param": m.parameters}
    for part in ins.parts:
        if space := spaces.get(part.split("::")[0]):
            return lambda addresses: (space, addresses)
    if {"local", "const"} & set(ins.parts):
        raise unknown(ins)
    return m.generic


@instruction("ld")
def _ld(m: Machine, ins: Instruction) -> Run:
    kind = ins.parts[-1]
    item = WIDTHS[kind] // 8
    scatters = [m.scatter(x, kind) for x in entries(ins.operands[0])]
    addresses, space_of = address(m, ins.operands[1]), _space(m, ins)

    def run(active: Lanes) -> None:
        space, places = space_of(addresses(active.index))
        cells = space.locate(places, active.index, item * len(scatters), ins)
        values = space.read(cells, m.stamps[active.index], ins).view(DTYPES[kind])
        for scatter, column in zip(scatters, values.T, strict=True):
            scatter(column, active.index)

    return run


@instruction("st")
def _st(m: Machine, ins: Instruction) -> Run:
    bits = f"b{WIDTHS[ins.parts[-1]]}"
    gathers = [m.gather(x, bits) for x in entries(ins.operands[1])]
    addresses, space_of = address(m, ins.operands[0]), _space(m, ins)

    def run(active: Lanes) -> None:
        space, places = space_of(addresses(active.index))
        values = np.stack([gather(active.index) for gather in gathers], 1)
        cells = space.locate(places, active.index, values.itemsize * len(gathers), ins)
        space.write(cells, values, m.stamps[active.index], ins)

    return run


@instruction("cvta")
def _cvta(m: Machine, ins: Instruction) -> Run:
    """Between generic addresses and those of a space."""
    from .machine import SHARED_WINDOW

    if not (ins.has("global") or ins.has("shared")):
        raise unknown(ins)
    window = np.uint64(SHARED_WINDOW if ins.has("shared") else 0)
    read, write = m.source(ins.operands[1], "u64"), m.target(ins.operands[0], "u64")
    if ins.has("to"):
        return lambda active: write(read() - window, active)
    return lambda active: write(read() + window, active)


@dataclass
class Copy:
    """A cp.async whose data has not arrived: lanes, cells, data, and the lanes' group numbers."""

    index: Array
    cells: Array
    values: Array
    groups: Array
    where: Instruction


@instruction("cp")
def _cp(m: Machine, ins: Instruction) -> Run:
    if ins.parts[1] != "async":
        raise unknown(ins)
    if ins.parts[2] == "commit_group":
        return lambda active: np.add(m.groups, 1, out=m.groups, where=active.where)
    if ins.parts[2] == "wait_all":
        return lambda active: _arrive(m, active, None, ins)
    if ins.parts[2] == "wait_group" and isinstance(ins.operands[0], Number):
        pending = int(ins.operands[0].value)
        return lambda active: _arrive(m, active, pending, ins)
    if ins.parts[2] in ("ca", "cg") and ins.parts[3:] in (
        ("shared", "global"),
        ("shared::cta", "global"),
    ):
        return _copy(m, ins)
    raise unknown(ins)


def _copy(m: Machine, ins: Instruction) -> Run:
    """Read now, and leave poison in shared memory until the wait; lanes may ask for zeros."""
    to, of = address(m, ins.operands[0]), address(m, ins.operands[1])
    size = int(ins.operands[2].value)
    wanted = m.gather(ins.operands[3] if len(ins.operands) > 3 else ins.operands[2], "u32")

    def run(active: Lanes) -> None:
        index = active.index
        length = wanted(index)
        if ((length != 0) & (length != size)).any():
            raise unknown(ins)
        read = length == size
        source = m.memory.locate(of(index)[read], index[read], size, ins)
        values = np.zeros((len(index), source.shape[1]), m.memory.cells.dtype)
        values[read] = m.memory.read(source, m.stamps[index[read]], ins)
        cells = m.shared.locate(to(index), index, size, ins)
        m.shared.write(cells, ~np.zeros_like(values), m.stamps[index], ins)
        if m.shared.history is not None:
            m.shared.history.copies = True
            m.shared.history.in_flight[cells] = True
        m.copies.append(Copy(index, cells, values, m.groups[index], ins))

    return run


def _arrive(m: Machine, active: Lanes, pending: int | None, ins: Instruction) -> None:
    """Copies of the lanes arrive, but not those of their last ``pending`` groups."""
    left = []
    for copy in m.copies:
        done = active.mask[copy.index]
        if pending is not None:
            done = done & (copy.groups < m.groups[copy.index] - pending)
        if done.any():
            if m.shared.history is not None:
                m.shared.history.in_flight[copy.cells[done]] = False
            stamps = m.stamps[copy.index[done]]
            m.shared.write(copy.cells[done], copy.values[done], stamps, copy.where)
        if not done.all():
            rest = (x[~done] for x in (copy.index, copy.cells, copy.values, copy.groups))
            left.append(Copy(*rest, copy.where))
    m.copies = left


@instruction("bar")
def _warp_barrier(m: Machine, ins: Instruction) -> Run:
    if ins.parts[1:] != ("warp", "sync"):
        raise unknown(ins)

    def run(active: Lanes) -> None:
        active.groups(32, ins)
        m.warp_barriers[active.index] += 1
        m.stamp()

    return run


@instruction("shfl")
def _shfl(m: Machine, ins: Instruction) -> Run:
    """Read another lane's register; a lane out of the segment keeps its number."""
    mode = ins.parts[2]
    value, by, bounds = (m.source(x, "b32") for x in ins.operands[1:4])
    targets = [
        m.target(x, k) for x, k in zip(entries(ins.operands[0]), ("b32", "pred"), strict=False)
    ]
    lane = m.lanes % 32

    def run(active: Lanes) -> None:
        active.groups(32, ins)
        distance, limits = (np.asarray(x()).astype(np.int64) for x in (by, bounds))
        segment = limits >> 8 & 31
        last = lane & segment | limits & 31 & ~segment
        other: Any = {
            "up": lambda: lane - distance,
            "down": lambda: lane + distance,
            "bfly": lambda: lane ^ distance,
            "idx": lambda: lane & segment | distance & 31 & ~segment,
        }[mode]()
        inside = other >= last if mode == "up" else other <= last
        source = m.lanes - lane + np.where(inside, other, lane)
        for target, result in zip(
            targets, (np.broadcast_to(value(), m.n)[source], inside), strict=False
        ):
            target(result, active)

    return run
