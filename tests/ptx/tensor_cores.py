"""Instructions of the tensor cores: ldmatrix, stmatrix, mma, wgmma and its fences.

wgmma reads shared memory at once, and its result arrives at its wait. Two faults are reported:
shared memory that changes in between, and writes that no proxy fence made visible.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .formats import Array, multiply_accumulate, tensor_core_input
from .instructions import Run, instruction, unknown
from .machine import WARP, WARP_GROUP, Lanes, Machine
from .memory import THREAD, KernelError
from .parser import Instruction, Operand, Vector, entries
from .transfers import Pending, locator

BYTES = {"bf16": 2, "f16": 2, "tf32": 4}
Places = tuple[Array, Array]
"""Row and column of a matrix for (lane, block, number of the lane in the block)."""
Matrices = Callable[[Array], Array]
"""Reads the matrices (groups, rows, columns) of the lanes with the given indices."""


def places(blocks: int, per: int, high: int, warps: int = 1) -> Places:
    """A fragment is blocks of 8 rows, ``high`` of them below each other, then the next columns.

    Lane 4 g + t of a warp holds ``per`` numbers of row g of each block, from column ``per`` t
    ("groupID" g and "threadID_in_group" t of the PTX manual). Each warp has 16 rows. Of sums, two
    registers are one block.
    """
    lane = np.arange(WARP * warps)[:, None, None]
    block = np.arange(blocks)[:, None]
    rows = 16 * (lane // WARP) + lane % WARP // 4 + 8 * (block % high)
    columns = per * (lane % 4) + np.arange(per) + 4 * per * (block // high)
    return tuple(np.broadcast_arrays(rows, columns))


def left_places(k: int, per: int, warps: int = 1) -> Places:
    """Of A (16 rows for each warp, k), ``per`` numbers to a register."""
    return places(k // (2 * per), per, 2, warps)


def right_places(k: int, per: int) -> Places:
    """Of the transpose of B (k, 8)."""
    return places(k // (4 * per), per, 1)


def _matrices(numbers: Array, at: Places) -> Array:
    """Matrices (groups of lanes, rows, columns) of the numbers that lanes hold."""
    rows, columns = at
    shape = numbers.size // rows.size, rows.max() + 1, columns.max() + 1
    matrices = np.empty(shape, numbers.dtype)
    matrices[:, rows, columns] = numbers.reshape(-1, *rows.shape)
    return matrices


def _numbers(matrices: Array, at: Places) -> Array:
    """The numbers (lanes, numbers of a lane) of matrices; the opposite of ``_matrices``."""
    rows, columns = at
    return np.ascontiguousarray(matrices[:, rows, columns]).reshape(-1, rows[0].size)


def _fragment(m: Machine, ins: Instruction, registers: Operand, at: Places, kind: str) -> Matrices:
    """A matrix in registers: float64 of 16-bit and TF32 numbers, float32 of sums."""
    if len(entries(registers)) * 4 != at[0][0].size * BYTES.get(kind, 4):
        raise unknown(ins)
    read = m.gather(registers, "b32" if kind in BYTES else kind)
    if kind not in BYTES:
        return lambda index: _matrices(read(index), at)
    dtype = f"u{BYTES[kind]}"
    return lambda index: _matrices(tensor_core_input(read(index).view(dtype), kind), at)


@instruction(r"(ld|st)matrix sync aligned m8n8 x([124])(?: (trans))? shared b16")
def _copy_matrices(m: Machine, ins: Instruction, name: str, count: int, trans: str | None) -> Run:
    """Matrices of 8 x 8 16-bit numbers. Lane 8 i + r holds the address of row r of matrix i."""
    registers, place = ins.operands if name == "ld" else ins.operands[::-1]
    locate = locator(m, ins, place, 16, m.shared)
    read, write = m.gather(registers, "b32"), m.scatter(registers, "b32")
    rows, columns = at = places(count, 2, count)
    if trans:
        at = rows // 8 * 8 + columns, rows % 8

    def run(active: Lanes) -> None:
        index = active.whole(WARP, ins)
        access = locate(index.reshape(-1, WARP)[:, : 8 * count].reshape(-1))
        if name == "ld":
            halves = access.read().view(np.uint16).reshape(-1, 8 * count, 8)
            write(_numbers(halves, at).view(np.uint32), index)
        else:
            access.write(_matrices(read(index).view(np.uint16), at).reshape(-1, 8))

    return run


@instruction(r"mma sync aligned m16n8k(\d+) row col f32 (bf16|f16|tf32) \2 f32")
def _mma(m: Machine, ins: Instruction, k: int, kind: str) -> Run:
    result, a, b, c = ins.operands
    per = 4 // BYTES[kind]
    at = places(2, 2, 2)
    left = _fragment(m, ins, a, left_places(k, per), kind)
    right = _fragment(m, ins, b, right_places(k, per), kind)
    sums, write = _fragment(m, ins, c, at, "f32"), m.scatter(result, "f32")

    def run(active: Lanes) -> None:
        index = active.whole(WARP, ins)
        factors = left(index), right(index).swapaxes(1, 2)
        product = multiply_accumulate(*factors, sums(index), kind, m.options.guard_bits)
        write(_numbers(product, at), index)

    return run


instruction("wgmma fence sync aligned")(lambda m, ins: lambda active: None)


@instruction(r"wgmma mma_async sync aligned m64n(\d+)k(\d+) f32 (bf16|f16|tf32) \3")
def _wgmma(m: Machine, ins: Instruction, n: int, k: int, kind: str) -> Run:
    """64 rows by n columns of a warp group: A in registers or in shared memory, B in shared.

    The result's registers hold NaN until a wait or the next wgmma on them.
    """
    result, a, b, keep, negate_a, negate_b, *transposed = ins.operands
    if (negate_a.value, negate_b.value) != (1, 1):
        raise unknown(ins)
    flags = [bool(x.value) for x in transposed] or [False]
    if isinstance(a, Vector):
        left = _fragment(m, ins, a, left_places(k, 4 // BYTES[kind], warps=4), kind)
    else:
        left = _shared_operand(m, ins, a, (64, k), kind, flags[0])
    right = _shared_operand(m, ins, b, (n, k), kind, flags[-1])
    at = places(n // 4, 2, 2, warps=4)
    sums, write = _fragment(m, ins, result, at, "f32"), m.scatter(result, "f32")
    kept = m.gather(keep, "pred")

    def run(active: Lanes) -> None:
        index = active.whole(WARP_GROUP, ins)
        for item in m.pending["wgmma"]:
            if item.where.operands[0] == result:
                item.deliver(item.waiting & active.mask[item.index])
        before = sums(index)
        before[~kept(index[::WARP_GROUP])[:, 0]] = 0
        factors = left(index), right(index).swapaxes(1, 2)
        product = multiply_accumulate(*factors, before, kind, m.options.guard_bits)
        values = _numbers(product, at)
        write(np.full_like(values, np.nan), index)
        reads, m.tensor_reads = m.tensor_reads, []

        def deliver(chosen: Array) -> None:
            write(values[chosen], index[chosen])
            for cells, before in reads:
                if changed := np.count_nonzero(m.shared.cells[cells] != before):
                    m.findings.add("shared memory written while wgmma reads it", ins, changed)

        m.pending["wgmma"].append(Pending(ins, index, m.groups["wgmma"][index], deliver))

    return run


def _shared_operand(
    m: Machine, ins: Instruction, operand: Operand, shape: tuple[int, int], kind: str, trans: bool
) -> Matrices:
    """A matrix (rows, k) in shared memory, which a descriptor points to."""
    descriptors, size = m.gather(operand, "u64"), BYTES[kind]

    def matrices(index: Array) -> Array:
        by_group = descriptors(index).reshape(-1, WARP_GROUP)
        if (by_group != by_group[:, :1]).any():
            raise KernelError(f"a descriptor differs within a warp group: {ins}")
        addresses = descriptor_addresses(by_group[:, 0], *shape, size, trans).reshape(-1)
        lanes = np.repeat(index[::WARP_GROUP], shape[0] * shape[1])
        access = m.shared.access(addresses, lanes, size, ins)
        bits = access.read()
        if unseen := np.count_nonzero(m.shared.history.unfenced[access.cells]):
            m.findings.add("wgmma reads what no proxy fence has made visible", ins, unseen)
        m.tensor_reads.append((access.cells, bits))
        return tensor_core_input(bits.view(f"u{size}"), kind).reshape(-1, *shape)

    return matrices


def descriptor_addresses(
    descriptors: Array, rows: int, k: int, size: int, transposed: bool
) -> Array:
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
    if mode == 0 and transposed:
        leading, stride = stride, leading
    place = start + outer % 8 * 16 * units + outer // 8 * stride
    place = (
        place + inner // (per * units) * leading + inner // per % units * 16 + inner % per * size
    )
    return place ^ (place >> 7 & units - 1) << 4


@instruction("fence proxy async(?: shared::cta)?")
def _fence(m: Machine, ins: Instruction) -> Run:
    """What a lane has written becomes visible to wgmma."""

    def run(active: Lanes) -> None:
        history = m.shared.history
        written = np.flatnonzero(history.unfenced)
        writer = (history.writer[written] & THREAD) - (m.now[0] & THREAD)
        history.unfenced[written[active.mask[writer]]] = False

    return run
