"""The machine: registers as arrays over lanes, and the order in which groups of lanes run.

A register holds one number for each lane (thread) of several CTAs, so that one numpy call executes
an instruction for all of them. The lanes at the lowest instruction run first, which lets them meet
again after a branch. A barrier holds lanes until every active lane of their CTA has arrived.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from . import memory
from .formats import DTYPES, HALVES, WIDTHS, Array, decode, encode
from .instructions import link
from .memory import Arena, Findings, History, KernelError, Space
from .parser import Instruction, Kernel, Name, Number, Operand, Variable, entries

LANES_AT_ONCE = 8192
"""More would leave the processor's cache."""
WARP = 32
WARP_GROUP = 128
POISON = {16: 0xFFF7, 32: 0xFFF7_DEAD, 64: 0xFFF7_DEAD_FFF7_DEAD}
"""The first content of registers: NaN as a number, out of bounds as an address."""
SHARED_BASE = 1024
SHARED_WINDOW = 1 << 46
"""The first generic address of shared memory."""
PARAMETER_BASE = 512
RUNNING, WAITING, DONE = range(3)
SCHEDULES = {"together": 0, "up": 1, "down": -1}
"""Warps run in step, or each as far as it gets, from the first warp or from the last."""


@dataclass
class Launch:
    """The arguments of a launch, as a driver receives them."""

    kernel: Kernel
    grid: tuple[int, ...]
    threads: int
    """Threads of a CTA, in one dimension."""
    shared: int
    """Bytes of dynamic shared memory."""
    parameters: bytes
    """All parameters, packed as the driver packs them."""
    arena: Arena


@dataclass
class Options:
    """How a launch is executed."""

    schedule: str = "together"
    guard_bits: int | None = None
    """Of the tensor cores' sums; None rounds them correctly (``formats.multiply_accumulate``)."""


class Lanes:
    """The lanes that execute an instruction."""

    def __init__(self, mask: Array) -> None:
        self.mask = mask
        self.count = int(np.count_nonzero(mask))
        self.where: Any = True if self.count == len(mask) else mask

    @cached_property
    def index(self) -> Array:
        return np.flatnonzero(self.mask)

    def whole(self, size: int, ins: Instruction) -> Array:
        """The indices of the lanes, which must be whole warps (32) or warp groups (128)."""
        members = self.mask.reshape(-1, size).sum(1)
        if ((members != 0) & (members != size)).any():
            raise KernelError(f"{size} lanes must be together and have diverged: {ins}")
        return self.index


class Machine:
    """One launch of a kernel, executed in place on the launch's arena."""

    def __init__(self, launch: Launch, options: Options, findings: Findings) -> None:
        if launch.threads % WARP:
            raise ValueError(f"a CTA must be whole warps; got {launch.threads} threads")
        self.launch = launch
        self.options = options
        self.findings = findings
        self.kernel = launch.kernel
        self.grid = (*launch.grid, 1, 1)[:3]
        self.ctas = int(np.prod(self.grid))
        self.at_once = max(1, min(self.ctas, LANES_AT_ONCE // launch.threads))
        self.n = self.at_once * launch.threads
        self.lanes = np.arange(self.n)
        self.cta = self.lanes // launch.threads
        self.now = np.empty(self.n, np.int64)
        """Thread and time of each lane, by which accesses are ordered (``memory``)."""
        self._spaces()
        self._registers()
        self.program = [
            (ins, ins.guard and self.source(ins.guard, "pred"), link(self, ins))
            for ins in self.kernel.code
        ]

    # Set up

    def _spaces(self) -> None:
        """Memory, and the addresses of parameters and shared variables."""
        launch, self.symbols = self.launch, {}
        size = self._place(self.kernel.parameters, PARAMETER_BASE)
        if len(launch.parameters) != size:
            raise ValueError(
                f"{self.kernel.name} takes {size} bytes of parameters, got {len(launch.parameters)}"
            )
        parameters = np.frombuffer(launch.parameters, np.uint8)
        self.parameters = Space("parameter", PARAMETER_BASE, size, parameters)
        cell, arena = f"u{self._narrowest_access()}", launch.arena
        cells = arena.bytes.view(cell)
        self.memory = Space("global", arena.base, len(arena.bytes), cells, valid=arena.valid)
        dynamic_last = sorted(self.kernel.shared, key=lambda v: v.size == 0)
        size = self._place(dynamic_last, SHARED_BASE) + launch.shared
        stride = -(-max(size, 1) // 256) * 256
        cells = np.empty(stride * self.at_once, np.uint8).view(cell)
        self.shared = Space("shared", SHARED_BASE, size, cells, starts=self.cta * stride)
        for space, written in ((self.shared, False), (self.memory, True)):
            given = len(space.cells), launch.threads, self.now, self.findings, written
            space.history = History(*given)

    def _place(self, variables: list[Variable], base: int) -> int:
        """Give variables their addresses from ``base`` on; returns the bytes that they take."""
        end = base
        for v in variables:
            alignment = v.alignment if v.size else max(v.alignment, 16)
            self.symbols[v.name] = end = -(-end // alignment) * alignment
            end += v.size
        return end - base

    def _narrowest_access(self) -> int:
        kinds = [
            ins.parts[-1]
            for ins in self.kernel.code
            if ins.parts[0] in ("ld", "st", "wgmma") and "param" not in ins.parts
        ]
        return min([4, *(WIDTHS.get(kind, 32) // 8 for kind in kinds)])

    def _registers(self) -> None:
        """Registers, special ones too, and the order of turns."""
        self.registers = {
            name: np.empty(self.n, bool if width == 1 else f"u{width // 8}")
            for name, width in self.kernel.registers.items()
        }
        tid = (self.lanes % self.launch.threads).astype(np.uint32)
        self.ctaid = np.empty((3, self.n), np.uint32)
        threads = np.full_like(tid, self.launch.threads)
        self.registers |= {"%tid.x": tid, "%ntid.x": threads}
        for axis, numbers, count in zip("xyz", self.ctaid, self.grid, strict=True):
            self.registers[f"%ctaid.{axis}"] = numbers
            self.registers[f"%nctaid.{axis}"] = np.full_like(tid, count)
        uses_wgmma = any(ins.parts[0] == "wgmma" for ins in self.kernel.code)
        unit = tid.astype(np.int64) // (WARP_GROUP if uses_wgmma else WARP)  # they stay together
        self.turn = unit * SCHEDULES[self.options.schedule]

    # Operands

    def source(self, operand: Operand, kind: str) -> Callable[[], Any]:
        """A function that reads an operand: numbers of all lanes, or one number for all."""
        if isinstance(operand, Number):
            size = np.dtype(DTYPES[kind]).itemsize
            bits = np.array(operand.value & (1 << 8 * size) - 1, f"u{size}")
            value = bits.view(DTYPES[kind])[()]
        elif not isinstance(operand, Name):
            raise NotImplementedError(f"operand {operand}")
        elif operand.text in self.symbols:
            value = DTYPES[kind](self.symbols[operand.text])
        else:
            value = self.registers[operand.text]
            if operand.negated:
                return lambda: ~value
            if value.dtype != bool:
                value = value.view(DTYPES[kind]).reshape(self.n, -1)[:, 0]
        return (lambda: decode(value, kind)) if kind in HALVES else lambda: value

    def register(self, operand: Operand, kind: str) -> Array | None:
        """The array of a register to write numbers of a kind into; None for the operand ``_``."""
        if operand == Name("_"):
            return None
        if not isinstance(operand, Name):
            raise NotImplementedError(f"{operand} as a result")
        register, dtype = self.registers[operand.text], np.dtype(DTYPES[kind])
        if register.dtype == bool or register.itemsize == dtype.itemsize:
            return register.view(bool if register.dtype == bool else dtype)
        return register.view(f"{'i' if kind[0] == 's' else 'u'}{register.itemsize}")  # extended

    def target(self, operand: Operand, kind: str) -> Callable[[Any, Lanes], None]:
        """A function that writes numbers of all lanes into a register where lanes are active."""
        register = self.register(operand, kind)

        def write(value: Any, active: Lanes) -> None:
            if register is not None:
                bits = encode(value, kind) if kind in HALVES else value
                np.copyto(register, bits, where=active.where, casting="unsafe")

        return write

    def gather(self, operand: Operand, kind: str) -> Callable[[Array], Array]:
        """A function that reads (lanes, entries) of the lanes with the given indices."""
        reads = [self.source(x, kind) for x in entries(operand)]
        return lambda index: np.stack([np.broadcast_to(read(), self.n)[index] for read in reads], 1)

    def scatter(self, operand: Operand, kind: str) -> Callable[[Array, Array], None]:
        """A function that writes (lanes, entries) into the lanes with the given indices."""
        registers = [self.register(x, kind) for x in entries(operand)]

        def write(values: Array, index: Array) -> None:
            for register, column in zip(registers, values.T, strict=True):
                if register is not None:
                    register[index] = column

        return write

    # Run

    def run(self) -> Machine:
        """Execute the launch; ``covered`` then tells for each instruction whether it has run."""
        self.covered = np.zeros(len(self.program), bool)
        self.executed = 0
        self.memory.history.forget()
        with np.errstate(all="ignore"):
            for first in range(0, self.ctas, self.at_once):
                self._start(first)
                self._run_all()
        return self

    def _start(self, first: int) -> None:
        """Begin the CTAs from number ``first``."""
        for name, width in self.kernel.registers.items():
            self.registers[name].fill(POISON.get(width, 0))
        self.shared.cells.view(np.uint8).fill(0xFF)
        self.shared.history.forget()
        cta = first + self.cta
        self.ctaid[:] = np.unravel_index(cta % self.ctas, self.grid, "F")
        self.now[:] = first * self.launch.threads + self.lanes
        if self.now[-1] > memory.THREAD:
            raise NotImplementedError(f"{self.ctas} CTAs have more threads than a stamp can hold")
        self.pc = np.zeros(self.n, np.int64)
        self.state = np.where(cta < self.ctas, RUNNING, DONE)
        self.groups = {name: np.zeros(self.n, np.int64) for name in ("cp async", "wgmma")}
        """Groups of asynchronous copies and of wgmma that each lane has committed."""
        self.pending: dict[str, list[Any]] = {name: [] for name in self.groups}
        """Those that have not arrived (``transfers.Pending``)."""
        self.tensor_reads: list[Any] = []
        """Cells that the wgmma at hand has read, and their contents (``tensor_cores.py``)."""

    def _run_all(self) -> None:
        while (ready := self.state == RUNNING).any():
            ready &= self.turn == self.turn[ready].min()
            first = int(self.pc[ready].min())
            active = ready & (self.pc == first)
            ahead = self.pc[ready & ~active]
            limit = int(ahead.min()) if ahead.size else len(self.program)
            self._run_group(Lanes(active), first, limit)
        if copies := self.pending["cp async"]:
            copy = copies[-1]
            self.findings.add("copy without a wait", copy.where, np.count_nonzero(copy.waiting))

    def _run_group(self, group: Lanes, pc: int, limit: int) -> None:
        """Run the lanes at ``pc`` until they branch, wait, or reach others at ``limit``."""
        while pc < limit:
            ins, guard, run = self.program[pc]
            active = group if guard is None else Lanes(guard() & group.mask)
            self.executed += 1
            self.covered[pc] |= active.count > 0 or run is None
            pc += 1
            if run is None:
                self.pc[group.index] = pc
                self._control(ins, active)
                return
            if active.count:
                try:
                    run(active)
                except Exception as error:
                    error.add_note(f"in {ins}")
                    raise
        self.pc[group.index] = pc

    def _control(self, ins: Instruction, active: Lanes) -> None:
        """A branch, an end or a barrier: the instructions that ``link`` binds to None."""
        if ins.parts[0] == "bra":
            self.pc[active.index] = self.kernel.labels[ins.operands[0].text]
            return
        if ins.parts[0] == "bar":
            present = active.mask.reshape(-1, WARP)
            alive = (self.state == RUNNING).reshape(-1, WARP)
            if (present.any(1) & (present != alive).any(1)).any():
                raise KernelError(f"part of a warp is at a barrier: {ins}")
        self.state[active.index] = WAITING if ins.parts[0] == "bar" else DONE
        held = (self.state == RUNNING).reshape(-1, self.launch.threads).any(1)
        go = (self.state == WAITING) & ~held[self.cta]
        self.state[go] = RUNNING
        self.now[go] = (self.now[go] & ~memory.WARP_BARRIERS) + memory.CTA_BARRIER
