"""Loads, stores, asynchronous copies, and exchanges between the lanes of a warp."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .formats import DTYPES, WIDTHS, Array
from .instructions import Run, instruction, unknown
from .machine import SHARED_WINDOW, WARP, Lanes, Machine
from .memory import WARP_BARRIER, Access, Space
from .parser import Address, Instruction, Operand, entries


def locator(
    m: Machine, ins: Instruction, operand: Operand, size: int, space: Space | None = None
) -> Callable[[Array], Access]:
    """Finds ``size`` bytes at an operand ``[base + offset]``, for lanes with given indices.

    Addresses are generic where ``space`` is None.
    """
    assert isinstance(operand, Address)
    base, offset = operand
    read = m.gather(base, "u32" if m.kernel.registers.get(base.text) == 32 else "u64")

    def locate(index: Array) -> Access:
        addresses = read(index)[:, 0].astype(np.int64) + offset
        if space:
            return space.access(addresses, index, size, ins)
        shared = addresses >> 32 == SHARED_WINDOW >> 32
        if shared.all():
            return m.shared.access(addresses - SHARED_WINDOW, index, size, ins)
        if shared.any():
            raise NotImplementedError("generic addresses of several spaces")
        return m.memory.access(addresses, index, size, ins)

    return locate


@instruction(r"(ld|st)(?!.* (?:local|const) )(?: .*)? (\w+)")
def _load_or_store(m: Machine, ins: Instruction, name: str, kind: str) -> Run:
    spaces = {"global": m.memory, "shared": m.shared, "param": m.parameters}
    space = next((spaces[x] for part in ins.parts if (x := part.split("::")[0]) in spaces), None)
    registers, place = ins.operands if name == "ld" else ins.operands[::-1]
    size = WIDTHS[kind] // 8 * len(entries(registers))
    locate = locator(m, ins, place, size, space)
    if name == "st":
        values = m.gather(registers, f"b{WIDTHS[kind]}")
        return lambda active: locate(active.index).write(values(active.index))
    write = m.scatter(registers, kind)
    return lambda active: write(locate(active.index).read().view(DTYPES[kind]), active.index)


@instruction(r"cvta(?: (to))? (global|shared) u64")
def _cvta(m: Machine, ins: Instruction, to: str | None, space: str) -> Run:
    """Between generic addresses and those of a space."""
    window = np.uint64(SHARED_WINDOW if space == "shared" else 0)
    move = np.subtract if to else np.add
    read, write = m.source(ins.operands[1], "u64"), m.target(ins.operands[0], "u64")
    return lambda active: write(move(read(), window), active)


@dataclass
class Pending:
    """The result of an asynchronous instruction, a copy or wgmma, until the wait of its group."""

    where: Instruction
    index: Array
    """Its lanes."""
    groups: Array
    """For each lane, how many groups it had committed before."""
    deliver: Callable[[Array], None]
    """Writes the results of the chosen ones of ``index``."""

    def __post_init__(self) -> None:
        self.waiting = np.ones(len(self.index), bool)


@instruction(r"(cp async|wgmma) commit_group(?: sync aligned)?")
def _commit(m: Machine, ins: Instruction, name: str) -> Run:
    return lambda active: np.add(m.groups[name], 1, out=m.groups[name], where=active.where)


@instruction("cp async c[ag] shared(?:::cta)? global")
def _copy(m: Machine, ins: Instruction) -> Run:
    """Read now, and leave poison in shared memory until the wait; lanes may ask for zeros."""
    size = int(ins.operands[2].value)
    to = locator(m, ins, ins.operands[0], size, m.shared)
    of = locator(m, ins, ins.operands[1], size, m.memory)
    wanted = m.gather(ins.operands[-1], "u32")

    def run(active: Lanes) -> None:
        index = active.index
        length = wanted(index)[:, 0]
        if ((length != 0) & (length != size)).any():
            raise unknown(ins)
        place = to(index)
        values = np.zeros(place.cells.shape, m.shared.cells.dtype)
        values[length == size] = of(index[length == size]).read()
        place.write(~np.zeros_like(values))
        m.shared.history.in_flight[place.cells] = True

        def deliver(chosen: Array) -> None:
            part = place.part(chosen)
            m.shared.history.in_flight[part.cells] = False
            part.write(values[chosen])

        m.pending["cp async"].append(Pending(ins, index, m.groups["cp async"][index], deliver))

    return run


@instruction("(cp async|wgmma) (?:wait_group|wait_all)(?: sync aligned)?")
def _wait(m: Machine, ins: Instruction, name: str) -> Run:
    """Results of the lanes arrive, but not those of their last groups."""
    newest = ins.operands[0].value if ins.operands else -1  # all, committed or not

    def run(active: Lanes) -> None:
        for item in m.pending[name]:
            done = item.groups < m.groups[name][item.index] - newest
            done &= item.waiting & active.mask[item.index]
            if done.any():
                item.deliver(done)
                item.waiting &= ~done
        m.pending[name] = [item for item in m.pending[name] if item.waiting.any()]

    return run


@instruction("bar warp sync")
def _warp_barrier(m: Machine, ins: Instruction) -> Run:
    def run(active: Lanes) -> None:
        m.now[active.whole(WARP, ins)] += WARP_BARRIER

    return run


@instruction("shfl sync (bfly|idx) b32")
def _shfl(m: Machine, ins: Instruction, mode: str) -> Run:
    """Read the register of any lane of the warp; every lane is within the bounds."""
    value, which = (m.source(x, "b32") for x in ins.operands[1:3])
    bounds = m.gather(ins.operands[3], "b32")
    kinds = zip(entries(ins.operands[0]), ("b32", "pred"), strict=False)
    targets = [m.target(*x) for x in kinds]
    lane = m.lanes % WARP

    def run(active: Lanes) -> None:
        if (bounds(active.whole(WARP, ins)) != 31).any():
            raise unknown(ins)
        other = (lane ^ which() if mode == "bfly" else which()) % WARP
        results = np.broadcast_to(value(), m.n)[m.lanes - lane + other], True
        for write, result in zip(targets, results, strict=False):
            write(result, active)

    return run
