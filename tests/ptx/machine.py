"""The machine: registers as arrays over lanes, and the order in which groups of lanes run.

A register holds one number for each lane (thread) of several CTAs, so that one numpy call executes
an instruction for all of them. The lanes at the lowest instruction run first, which lets them meet
again after a branch. A barrier holds lanes until every active lane of their CTA has arrived.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from . import memory
from .formats import DTYPES, HALVES, WIDTHS, Array, decode, encode
from .launch import SCHEDULES, Launch, Options, Result
from .memory import Findings, History, KernelError, Space
from .parser import Instruction, Negated, Number, Operand, Register, Symbol

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


class Lanes:
    """The lanes that execute an instruction."""

    def __init__(self, mask: Array) -> None:
        self.mask = mask
        self.count = int(np.count_nonzero(mask))
        self.where: Any = True if self.count == len(mask) else mask

    @cached_property
    def index(self) -> Array:
        return np.flatnonzero(self.mask)

    def groups(self, size: int, ins: Instruction) -> Array:
        """The warps (32) or warp groups (128), which must be whole."""
        members = self.mask.reshape(-1, size).sum(1)
        if ((members != 0) & (members != size)).any():
            raise KernelError(f"{size} lanes must be together and have diverged: {ins}")
        return np.flatnonzero(members)


class Machine:
    """One launch of a kernel, executed in place on the launch's arena."""

    def __init__(self, launch: Launch, options: Options, findings: Findings) -> None:
        from .instructions import link

        if launch.threads % WARP:
            raise ValueError(f"a CTA must be whole warps; got {launch.threads} threads")
        if options.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {SCHEDULES}; got {options.schedule!r}")
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
        self.groups = np.zeros(self.n, np.int64)
        """Groups of asynchronous copies that each lane has committed."""
        self.copies: list[Any] = []
        """Asynchronous copies that have not arrived (``transfers.py``)."""
        self.tensor_groups = np.zeros(self.n, np.int64)
        """Groups of wgmma that each lane has committed."""
        self.sums_in_flight: dict[Any, Any] = {}
        self.tensor_reads: list[Any] = []
        """Shared memory that wgmma reads until its wait (``tensor_cores.py``)."""
        self._spaces()
        self._registers()
        self._specials()
        self._turns()
        self.program = [(ins, self._guard(ins), link(self, ins)) for ins in self.kernel.code]

    # Set up

    def _spaces(self) -> None:
        """Memory, and the addresses of parameters and shared variables."""
        self.symbols: dict[str, int] = {}
        end = PARAMETER_BASE
        for v in self.kernel.parameters:
            self.symbols[v.name] = end = -(-end // v.alignment) * v.alignment
            end += v.size
        if len(self.launch.parameters) != end - PARAMETER_BASE:
            raise ValueError(
                f"{self.kernel.name} takes {end - PARAMETER_BASE} bytes of parameters, "
                f"got {len(self.launch.parameters)}"
            )
        parameters = np.frombuffer(self.launch.parameters, np.uint8)
        self.parameters = Space("parameter", PARAMETER_BASE, parameters, 1)
        end = SHARED_BASE
        for v in sorted(self.kernel.shared, key=lambda v: v.size == 0):  # dynamic memory comes last
            alignment = v.alignment if v.size else max(v.alignment, 16)
            self.symbols[v.name] = end = -(-end // alignment) * alignment
            end += v.size
        size = end - SHARED_BASE + self.launch.shared
        stride = -(-max(size, 1) // 256) * 256
        cell = self._narrowest_access()
        arena = self.launch.arena
        self.shared = Space("shared", SHARED_BASE, np.empty(stride * self.at_once, np.uint8), cell)
        self.shared.size, self.shared.starts = size, self.cta * stride
        self.memory = Space("global", arena.base, arena.bytes, cell, arena.valid)
        if self.options.checks:
            for space in (self.shared, self.memory):
                written = space is self.memory
                space.history = History(
                    len(space.cells), self.launch.threads, self.findings, written
                )

    def _narrowest_access(self) -> int:
        sizes = [4]
        for ins in self.kernel.code:
            if ins.parts[0] in ("ld", "st", "wgmma") and not ins.has("param"):
                sizes.append(WIDTHS.get(ins.parts[-1], 32) // 8)
        return min(sizes)

    def _registers(self) -> None:
        self.banks: list[tuple[Array, int]] = []
        self.registers: dict[str, Array] = {}
        for width in sorted(set(self.kernel.registers.values())):
            names = [name for name, w in self.kernel.registers.items() if w == width]
            dtype = bool if width == 1 else f"u{width // 8}"
            bank = np.empty((len(names), self.n), dtype)
            self.banks.append((bank, POISON.get(width, 0)))
            self.registers.update(zip(names, bank, strict=True))

    def _specials(self) -> None:
        tid = (self.lanes % self.launch.threads).astype(np.uint32)
        self.registers["%tid.x"] = tid
        self.registers["%laneid"], self.registers["%warpid"] = tid % WARP, tid // WARP
        self.registers["%ntid.x"] = np.full_like(tid, self.launch.threads)
        for axis, size in zip("xyz", self.grid, strict=True):
            self.registers.setdefault(f"%tid.{axis}", np.zeros_like(tid))
            self.registers.setdefault(f"%ntid.{axis}", np.ones_like(tid))
            self.registers[f"%nctaid.{axis}"] = np.full_like(tid, size)
            self.registers[f"%ctaid.{axis}"] = np.zeros_like(tid)

    def _turns(self) -> None:
        """The order of turns; the warps of a warp group stay together for wgmma."""
        uses_wgmma = any(ins.parts[0] == "wgmma" for ins in self.kernel.code)
        unit = self.lanes % self.launch.threads // (WARP_GROUP if uses_wgmma else WARP)
        self.turn = {"together": unit * 0, "up": unit, "down": unit.max() - unit}[
            self.options.schedule
        ]

    # Operands

    def _guard(self, ins: Instruction) -> Callable[[], Any] | None:
        return None if ins.guard is None else self.source(ins.guard, "pred")

    def source(self, operand: Operand, kind: str) -> Callable[[], Any]:
        """A function that reads an operand: numbers of all lanes, or one number for all."""
        if isinstance(operand, Negated):
            inner = self.source(operand.operand, "pred")
            return lambda: ~inner()
        value = self._value(operand, kind)
        if kind not in HALVES:
            return lambda: value
        return lambda: decode(value, kind)

    def _value(self, operand: Operand, kind: str) -> Any:
        dtype = DTYPES[kind]
        if isinstance(operand, Register):
            register = self.registers[operand.name]
            if register.dtype == bool:
                return register
            narrow = register.view(dtype)
            return narrow.reshape(self.n, -1)[:, 0]
        if isinstance(operand, Number):
            return _immediate(operand, dtype, kind)
        if isinstance(operand, Symbol):
            return dtype(self.symbols[operand.name])
        raise NotImplementedError(f"operand {operand}")

    def register(self, operand: Operand, kind: str) -> Array | None:
        """The array of a register to write numbers of a kind into; None for the operand ``_``."""
        if operand == Symbol("_"):
            return None
        if not isinstance(operand, Register):
            raise NotImplementedError(f"{operand} as a result")
        register, dtype = self.registers[operand.name], np.dtype(DTYPES[kind])
        if register.dtype == bool or register.itemsize == dtype.itemsize:
            return register.view(bool if register.dtype == bool else dtype)
        return register.view(f"{'i' if kind[0] == 's' else 'u'}{register.itemsize}")  # extended

    def target(self, operand: Operand, kind: str) -> Callable[[Any, Lanes], None]:
        """A function that writes numbers of all lanes into a register where lanes are active."""
        register = self.register(operand, kind)
        if register is None:
            return lambda value, active: None
        if kind in HALVES:
            return lambda value, active: np.copyto(
                register, encode(value, kind), where=active.where
            )
        return lambda value, active: np.copyto(
            register, value, where=active.where, casting="unsafe"
        )

    def gather(self, operand: Operand, kind: str) -> Callable[[Array], Array]:
        """A function that reads an operand of the lanes with the given indices."""
        read = self.source(operand, kind)
        return lambda index: np.broadcast_to(read(), self.n)[index]

    def scatter(self, operand: Operand, kind: str) -> Callable[[Array, Array], None]:
        """A function that writes numbers of the lanes with the given indices."""
        register = self.register(operand, kind)

        def write(values: Array, index: Array) -> None:
            if register is not None:
                register[index] = values

        return write

    def generic(self, addresses: Array) -> tuple[Space, Array]:
        """The space that generic addresses belong to, and the addresses inside it."""
        shared = addresses >> 32 == SHARED_WINDOW >> 32
        if shared.all():
            return self.shared, addresses - SHARED_WINDOW
        if shared.any():
            raise NotImplementedError("generic addresses of several spaces")
        return self.memory, addresses

    # Run

    def run(self) -> Result:
        self.covered = np.zeros(len(self.program), bool)
        self.executed = 0
        if self.memory.history is not None:
            self.memory.history.forget()
        started = time.process_time()
        with np.errstate(all="ignore"):
            for first in range(0, self.ctas, self.at_once):
                self._start(first)
                self._run_all()
        seconds = time.process_time() - started
        return Result(self.covered, self.executed, seconds)

    def _start(self, first: int) -> None:
        """Begin the CTAs from number ``first``."""
        for bank, poison in self.banks:
            bank.fill(poison)
        self.shared.bytes.fill(0xFF)
        if self.shared.history is not None:
            self.shared.history.forget()
        cta = first + self.cta
        self.registers["%ctaid.x"][:] = cta % self.grid[0]
        self.registers["%ctaid.y"][:] = cta // self.grid[0] % self.grid[1]
        self.registers["%ctaid.z"][:] = cta // self.grid[0] // self.grid[1]
        self.thread = first * self.launch.threads + self.lanes
        if self.thread[-1] > memory.THREAD:
            raise NotImplementedError(f"{self.ctas} CTAs have more threads than a stamp can hold")
        self.pc = np.zeros(self.n, np.int64)
        self.state = np.where(cta < self.ctas, RUNNING, DONE)
        self.cta_barriers = np.zeros(self.n, np.int64)
        self.warp_barriers = np.zeros(self.n, np.int64)
        self.groups.fill(0)
        self.tensor_groups.fill(0)
        self.copies, self.tensor_reads = [], []
        for flight in self.sums_in_flight.values():
            flight.lanes.fill(False)
        self.stamp()

    def stamp(self) -> None:
        """The time of each lane, by which accesses are ordered."""
        warp = self.warp_barriers << memory.THREAD_BITS
        self.stamps = self.thread | warp | self.cta_barriers << memory.CTA_BARRIERS

    def _run_all(self) -> None:
        while (ready := self.state == RUNNING).any():
            ready &= self.turn == self.turn[ready].min()
            first = int(self.pc[ready].min())
            active = ready & (self.pc == first)
            ahead = self.pc[ready & ~active]
            limit = int(ahead.min()) if ahead.size else len(self.program)
            self._run_group(Lanes(active), first, limit)
        if self.copies:
            copy = self.copies[-1]
            self.findings.add("copy without a wait", copy.where, len(copy.index))

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
                except (KernelError, NotImplementedError):
                    raise
                except Exception as error:
                    raise RuntimeError(f"{ins}: {error}") from error
        self.pc[group.index] = pc

    def _control(self, ins: Instruction, active: Lanes) -> None:
        """A branch, an end or a barrier: the instructions that ``link`` binds to None."""
        if ins.parts[0] == "bra":
            self.pc[active.index] = self.kernel.labels[ins.operands[0].name]
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
        self.cta_barriers[go] += 1
        self.warp_barriers[go] = 0
        self.stamp()


def _immediate(operand: Number, dtype: Any, kind: str) -> Any:
    if kind == "pred":
        return np.bool_(operand.value)
    size = np.dtype(dtype).itemsize
    if isinstance(operand.value, float):
        return dtype(operand.value)
    if operand.bits and operand.bits != 8 * size:
        number = np.array(operand.value, f"u{operand.bits // 8}").view(f"f{operand.bits // 8}")
        return number.astype(dtype)[()]
    return np.array(operand.value & ((1 << 8 * size) - 1), f"u{size}").view(dtype)[()]
