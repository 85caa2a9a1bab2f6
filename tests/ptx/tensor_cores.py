"""Instructions of the tensor cores: ldmatrix, stmatrix, mma, wgmma and its fences.

Lane 4 g + t of a warp holds row g, or column g, of a fragment ("groupID" and "threadID_in_group" of
the PTX manual). wgmma reads shared memory at once, and its result arrives at its wait. Two faults
are reported: shared memory that changes in between, and writes that no proxy fence made visible.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .formats import Array, multiply_accumulate, tensor_core_input
from .instructions import Run, entries, instruction, unknown
from .memory import THREAD, KernelError
from .parser import Instruction, Operand, Vector
from .transfers import address

if TYPE_CHECKING:
    from .machine import Lanes, Machine

WARP = 32
WARP_GROUP = 128
G, T = np.arange(WARP) // 4, np.arange(WARP) % 4
BYTES = {"bf16": 2, "f16": 2, "tf32": 4}
Places = tuple[Array, Array]
"""Row and column of a matrix for (lane, register, number in the register)."""
Matrices = Callable[[Array, int], Array]
"""Reads an operand for the lanes with the given indices, in a number of warps or warp groups."""


def left_places(registers: int, per: int, warps: int = 1) -> Places:
    """Of A (16 rows for each warp, K), ``per`` numbers to a register."""
    g, t = np.tile(G, warps)[:, None, None], np.tile(T, warps)[:, None, None]
    r, j = np.arange(registers)[:, None], np.arange(per)
    warp = np.arange(WARP * warps)[:, None, None] // WARP
    rows, columns = 16 * warp + g + 8 * (r % 2), per * t + j + 4 * per * (r // 2)
    return tuple(np.broadcast_arrays(rows, columns))


def right_places(registers: int, per: int) -> Places:
    """Of B (K, 8)."""
    r, j = np.arange(registers)[:, None], np.arange(per)
    rows, columns = per * T[:, None, None] + j + 4 * per * r, G[:, None, None]
    return tuple(np.broadcast_arrays(rows, columns))


def sum_places(registers: int, warps: int = 1) -> Places:
    """Of C (16 rows for each warp, N), one number to a register."""
    g, t = np.tile(G, warps)[:, None], np.tile(T, warps)[:, None]
    i = np.arange(registers)
    warp = np.arange(WARP * warps)[:, None] // WARP
    rows, columns = 16 * warp + g + 8 * (i // 2 % 2), 2 * t + i % 2 + 8 * (i // 4)
    return tuple(np.broadcast_arrays(rows[..., None], columns[..., None]))


def _members(groups: Array, size: int) -> Array:
    return (groups[:, None] * size + np.arange(size)).reshape(-1)


def _stacked(m: Machine, registers: tuple[Operand, ...], kind: str) -> Callable[[Array], Array]:
    gathers = [m.gather(x, kind) for x in registers]
    return lambda index: np.stack([gather(index) for gather in gathers], 1)


def _fragment(
    m: Machine, registers: tuple[Operand, ...], places: Places, shape: tuple[int, int], kind: str
) -> Matrices:
    """A matrix in registers: float64 of 16-bit and TF32 numbers, float32 of sums."""
    read = _stacked(m, registers, "b32" if kind in BYTES else kind)

    def matrices(index: Array, groups: int) -> Array:
        values = read(index)
        if kind in BYTES:
            values = tensor_core_input(values.view(f"u{BYTES[kind]}"), kind)
        result = np.empty((groups, *shape), values.dtype)
        result[:, places[0], places[1]] = values.reshape(groups, *places[0].shape)
        return result

    return matrices


@instruction("ldmatrix", "stmatrix")
def _matrices(m: Machine, ins: Instruction) -> Run:
    """Matrices of 8 x 8 16-bit numbers. Lane 8 i + r holds the address of row r of matrix i."""
    match = re.fullmatch(
        r"(ld|st)matrix\.sync\.aligned\.m8n8\.x(\d)(\.trans)?\.shared\.b16", ins.opcode
    )
    if match is None:
        raise unknown(ins)
    load = match[1] == "ld"
    count = int(match[2])
    transposed = match[3]
    registers, place = ins.operands if load else ins.operands[::-1]
    addresses = address(m, place)
    pair = np.arange(2)
    own, along = np.broadcast_arrays(G[:, None], 2 * T[:, None] + pair)
    rows, columns = (along, own) if transposed else (own, along)
    scatters = [m.scatter(x, "b32") for x in entries(registers)] if load else []
    values = None if load else _stacked(m, entries(registers), "b32")

    def run(active: Lanes) -> None:
        warps = active.groups(WARP, ins)
        index = _members(warps, WARP)
        holders = index.reshape(-1, WARP)[:, : 8 * count].reshape(-1)
        cells = m.shared.locate(addresses(holders), holders, 16, ins)
        if values is None:
            read = m.shared.read(cells, m.stamps[holders], ins).view(np.uint16)
            matrices = read.reshape(len(warps), count, 8, 8)[:, :, rows, columns]
            for i, scatter in enumerate(scatters):
                bits = np.ascontiguousarray(matrices[:, i]).view(np.uint32)
                scatter(bits.reshape(-1), index)
            return
        matrices = np.empty((len(warps), count, 8, 8), np.uint16)
        halves = values(index).view(np.uint16).reshape(len(warps), WARP, count, 2)
        matrices[:, :, rows, columns] = halves.transpose(0, 2, 1, 3)
        m.shared.write(cells, matrices.reshape(-1, 8), m.stamps[holders], ins)

    return run


@instruction("mma")
def _mma(m: Machine, ins: Instruction) -> Run:
    match = re.fullmatch(
        r"mma\.sync\.aligned\.m16n8k(\d+)\.row\.col\.f32\.(bf16|f16|tf32)\.\2\.f32", ins.opcode
    )
    if match is None:
        raise unknown(ins)
    k, kind = int(match[1]), match[2]
    results, a, b, c = (entries(x) for x in ins.operands)
    per = 4 // BYTES[kind]
    if len(a) * per * WARP != 16 * k or len(b) * per * WARP != 8 * k:
        raise unknown(ins)
    left = _fragment(m, a, left_places(len(a), per), (16, k), kind)
    right = _fragment(m, b, right_places(len(b), per), (k, 8), kind)
    sums = _fragment(m, c, sum_places(len(c)), (16, 8), "f32")
    write = _write_sums(m, results, sum_places(len(c)))

    def run(active: Lanes) -> None:
        warps = active.groups(WARP, ins)
        index = _members(warps, WARP)
        matrices = [read(index, len(warps)) for read in (left, right, sums)]
        write(multiply_accumulate(*matrices, kind, m.options.guard_bits), index)

    return run


def _write_sums(
    m: Machine, registers: tuple[Operand, ...], places: Places
) -> Callable[[Array, Array], None]:
    scatters = [m.scatter(x, "f32") for x in registers]

    def write(sums: Array, index: Array) -> None:
        held = sums[:, places[0], places[1]].reshape(len(index), -1)
        for scatter, column in zip(scatters, held.T, strict=True):
            scatter(column, index)

    return write


@instruction("wgmma")
def _wgmma(m: Machine, ins: Instruction) -> Run:
    if ins.parts[1] == "fence":
        return lambda active: None
    if ins.parts[1] == "commit_group":
        return lambda active: np.add(m.tensor_groups, 1, out=m.tensor_groups, where=active.where)
    if ins.parts[1] == "wait_group":
        pending = int(ins.operands[0].value)
        return lambda active: _wait(m, active, pending)
    match = re.fullmatch(
        r"wgmma\.mma_async\.sync\.aligned\.m64n(\d+)k(\d+)\.f32\.(bf16|f16|tf32)\.\3", ins.opcode
    )
    if match is None:
        raise unknown(ins)
    return _mma_async(m, ins, int(match[1]), int(match[2]), match[3])


def _mma_async(m: Machine, ins: Instruction, n: int, k: int, kind: str) -> Run:
    """64 rows by n columns of a warp group: A in registers or in shared memory, B in shared."""
    result, a, b, keep, negate_a, negate_b, *transposed = ins.operands
    if (negate_a.value, negate_b.value) != (1, 1):
        raise unknown(ins)
    flags = [bool(x.value) for x in transposed] or [False]
    if isinstance(a, Vector):
        places = left_places(4, 4 // BYTES[kind], warps=4)
        left = _fragment(m, a.entries, places, (64, k), kind)
    else:
        left = _shared_operand(m, ins, a, (64, k), kind, flags[0])
    right = _shared_operand(m, ins, b, (n, k), kind, flags[-1])
    places = sum_places(n // 2, warps=4)
    sums = _fragment(m, result.entries, places, (64, n), "f32")
    kept, write = m.gather(keep, "pred"), _write_sums(m, result.entries, places)
    flight = m.sums_in_flight.setdefault(result, SumsInFlight(m, result.entries))

    def run(active: Lanes) -> None:
        groups = active.groups(WARP_GROUP, ins)
        index = _members(groups, WARP_GROUP)
        flight.end(active.mask)
        before = sums(index, len(groups))
        before[~kept(groups * WARP_GROUP)] = 0
        factors = left(index, len(groups)), right(index, len(groups)).swapaxes(1, 2)
        write(multiply_accumulate(*factors, before, kind, m.options.guard_bits), index)
        flight.begin(index, m.tensor_groups[index])

    return run


class SumsInFlight:
    """The result registers of a wgmma, which hold NaN until a wait or the next wgmma on them."""

    def __init__(self, m: Machine, registers: tuple[Operand, ...]) -> None:
        self.registers = [m.register(x, "f32") for x in registers]
        self.values = np.empty((len(registers), m.n), np.float32)
        self.lanes = np.zeros(m.n, bool)
        self.groups = np.zeros(m.n, np.int64)

    def begin(self, index: Array, groups: Array) -> None:
        self.lanes[index], self.groups[index] = True, groups
        for register, value in zip(self.registers, self.values, strict=True):
            value[index], register[index] = register[index], np.nan

    def end(self, lanes: Array) -> None:
        index = np.flatnonzero(self.lanes & lanes)
        self.lanes[index] = False
        for register, value in zip(self.registers, self.values, strict=True):
            register[index] = value[index]


def _shared_operand(
    m: Machine,
    ins: Instruction,
    descriptor: Operand,
    shape: tuple[int, int],
    kind: str,
    trans: bool,
) -> Matrices:
    """A matrix (rows, k) in shared memory, which a descriptor points to."""
    descriptors, size = m.gather(descriptor, "u64"), BYTES[kind]

    def matrices(index: Array, groups: int) -> Array:
        by_group = descriptors(index).reshape(groups, -1)
        if (by_group != by_group[:, :1]).any():
            raise KernelError(f"a descriptor differs within a warp group: {ins}")
        places = descriptor_places(by_group[:, 0], *shape, size, trans).reshape(-1)
        lanes = np.repeat(index[::WARP_GROUP], len(places) // groups)
        cells = m.shared.locate(places, lanes, size, ins)
        bits = m.shared.read(cells, m.stamps[lanes], ins)
        if (history := m.shared.history) is not None:
            if unseen := np.count_nonzero(history.unfenced[cells]):
                what = "wgmma reads what no proxy fence has made visible"
                m.findings.add(what, ins, unseen)
            m.tensor_reads.append((cells, bits, ins))
        return tensor_core_input(bits.view(f"u{size}"), kind).reshape(groups, *shape)

    return matrices


def descriptor_places(descriptors: Array, rows: int, k: int, size: int, transposed: bool) -> Array:
    """Shared addresses (descriptors, rows, k) of an operand's numbers of ``size`` bytes.

    A core matrix has 8 rows of 16 bytes. Swizzled layouts put 2, 4 or 8 of them side by side and
    mix their 16-byte units by the low bits of the row. ``transposed``: numbers along the rows, not
    along k, are next to each other.
    """
    d = descriptors.astype(np.int64)[:, None, None]
    start, leading, stride = ((d >> shift & 0x3FFF) << 4 for shift in (0, 16, 32))
    mode = int(descriptors[0] >> np.uint64(62))
    if (d >> 49 & 7).any() or (descriptors >> np.uint64(62) != mode).any():
        raise NotImplementedError("descriptors of several layouts, or with a base offset")
    units = {0: 1, 1: 8, 2: 4, 3: 2}[mode]
    per = 16 // size
    row, column = np.arange(rows)[:, None], np.arange(k)
    inner, outer = (row, column) if transposed else (column, row)
    place = outer % 8 * 16 * units + inner % per * size
    if mode == 0:
        inner_step, outer_step = (stride, leading) if transposed else (leading, stride)
        place = place + inner // per * inner_step + outer // 8 * outer_step
    else:
        place = place + inner // per % units * 16 + outer // 8 * stride
        place = place + (inner // (per * units) * leading if transposed else 0)
    place = start + place
    return place ^ (place >> 7 & units - 1) << 4


def _wait(m: Machine, active: Lanes, pending: int) -> None:
    """Sums arrive, but not those of the last ``pending`` groups; reads are checked at their end."""
    for flight in m.sums_in_flight.values():
        flight.end(active.mask & (flight.groups < m.tensor_groups - pending))
    if pending:
        return
    for cells, before, ins in m.tensor_reads:
        changed = np.count_nonzero(m.shared.cells[cells] != before)
        if changed:
            m.findings.add("shared memory written while wgmma reads it", ins, changed)
    m.tensor_reads.clear()


@instruction("fence")
def _fence(m: Machine, ins: Instruction) -> Run:
    """fence.proxy.async makes what a lane has written visible to wgmma."""
    if ins.parts[1:3] != ("proxy", "async"):
        raise unknown(ins)

    def run(active: Lanes) -> None:
        if (history := m.shared.history) is not None:
            written = np.flatnonzero(history.unfenced)
            writer = (history.writer[written] & THREAD) - m.thread[0]
            history.unfenced[written[active.mask[writer]]] = False

    return run
