"""``jca-fast gpu-audit``: compile every shipped launch for six chips without a GPU and read the machine code.

Bars, for every kernel: no stack, no local memory, at most 99 KB of shared memory, no global atomics. In the loop over
the affinity matrix: exactly one MUFU instruction per element, MUFU.TANH in the fast tiers and none of it in the exact
one, the chip's matrix instructions, and on sm_90 a bound on instructions per element. Visual kernels read K by 128-bit
loads only.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
MATRIX = {90: r"HGMMA|HMMA", 100: r"UTC\w*MMA|HMMA"}
"""Matrix instructions of a chip; HMMA on all others."""
PER_ELEMENT = {
    ("half", "forward"): 3.6,
    ("tf32", "forward"): 9.5,
    ("exact", "forward"): 28.5,
    ("half", "backward"): 9.6,
}
"""Most instructions per element on sm_90, without dropout, at the paper's shape."""
SHARED = 99 * 1024
TIERS = {"half": "bfloat16", "tf32": "float32", "exact": "float32"}
"""The dtype that each precision tier is compiled with."""


@dataclass(frozen=True)
class Row:
    """One audited kernel: where it came from, what was read, and which bars it breaks."""

    arch: int
    case: str
    kernel: str
    tile: str
    registers: int
    shared: int
    stack: int
    instructions: int
    per_element: float | None
    mufu: float | None
    breaches: tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--arch", default=",".join(map(str, ARCHITECTURES)), help="compute capabilities, like 80,90")
    parser.add_argument("--case", default="", help="audit only the cases whose name contains this text")
    parser.add_argument("--json", action="store_true", help="print one JSON object per kernel instead of the table")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes to compile in (default: all CPUs)")
    parser.add_argument("--loops", action="store_true", help="also print what each loop is made of (with --jobs 1)")


def run(args: argparse.Namespace) -> int:
    try:
        archs = [int(a) for a in args.arch.split(",")]
    except ValueError:
        raise ValueError(f"--arch must be compute capabilities like 80,90; got {args.arch!r}") from None
    if unknown := [a for a in archs if a not in ARCHITECTURES]:
        raise ValueError(f"--arch must be among {', '.join(map(str, ARCHITECTURES))}; got {unknown[0]}")
    if importlib.util.find_spec("triton") is None:
        raise RuntimeError("triton is not installed; it comes with the extra of that name: pip install -e '.[triton]'")
    broken = count = 0
    for row in _in_parallel(archs, args.case, args.jobs) if args.jobs > 1 else audit(archs, args.case, args.loops):
        if count == 0 and not args.json:
            print(_HEADER)
        print(json.dumps(asdict(row)) if args.json else _line(row), flush=True)
        count, broken = count + 1, broken + bool(row.breaches)
    if not count:
        raise ValueError(f"--case {args.case!r} matches none of: {', '.join(name for name, _, _ in cases())}")
    if not args.json:
        print(f"{count} kernels on {len(archs)} architectures, {broken} break a bar")
    return 1 if broken else 0


_HEADER = (
    f"{'sm':>3} {'case':<34} {'kernel':<22} {'tile':<16} {'regs':>4} {'smem':>6} "
    f"{'stack':>5} {'instr/el':>8} {'mufu':>5}"
)


def _line(row: Row) -> str:
    per = "" if row.per_element is None else f"{row.per_element:.2f}"
    mufu = "" if row.mufu is None else f"{row.mufu:.2f}"
    text = (
        f"{row.arch:>3} {row.case:<34} {row.kernel:<22} {row.tile:<16} {row.registers:>4} {row.shared:>6} "
        f"{row.stack:>5} {per:>8} {mufu:>5}"
    )
    return text + ("  BREACH: " + "; ".join(row.breaches) if row.breaches else "")


def _in_parallel(archs: list[int], only: str, jobs: int) -> Iterator[Row]:
    """:func:`audit` in ``jobs`` processes, each with one tier of one architecture at a time."""
    parts = [(arch, tier) for arch in archs for tier in TIERS]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_end_with_parent) as pool:
        for rows in pool.map(_audit_part, *zip(*parts, strict=True), [only] * len(parts)):
            yield from rows


def _end_with_parent() -> None:
    """End this process as soon as the one that started it has gone, even when that one was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _audit_part(arch: int, tier: str, only: str) -> list[Row]:
    return list(audit([arch], only, tiers=(tier,)))


def audit(
    archs: list[int], only: str = "", show_loops: bool = False, tiers: Sequence[str] = tuple(TIERS)
) -> Iterator[Row]:
    """The rows of the audit, one for each kernel that a case's launchers start and no earlier case compiled."""
    import torch

    from .compile import compiling_for

    precision = torch.get_float32_matmul_precision()
    try:
        for arch in archs:
            seen: set[bytes] = set()
            for name, tier, start in cases():
                if only not in name or tier not in tiers:
                    continue
                torch.set_float32_matmul_precision("high" if tier == "tf32" else "highest")
                with compiling_for(arch) as compiled:
                    start()
                for item in compiled:
                    if item.cubin in seen:
                        continue
                    seen.add(item.cubin)
                    yield judge(arch, name, tier, item, show_loops)
    finally:
        torch.set_float32_matmul_precision(precision)


def judge(arch: int, case: str, tier: str, item: Any, show_loops: bool = False) -> Row:
    """One compiled kernel against the bars."""
    from . import sass

    binary = sass.read(item.cubin)
    meta, breaches = item.meta, []
    if binary.stack or binary.local or binary.count(r"LDL|STL"):
        breaches.append(f"{binary.stack} bytes of stack, {binary.count(r'LDL|STL')} local accesses")
    if item.shared > SHARED:
        breaches.append(f"{item.shared} bytes of shared memory")
    if binary.count(r"ATOMG|ATOM\b|ATOM\.|RED\b|RED\."):
        breaches.append("global atomics")
    per_element = mufu = None
    tile = "x".join(str(meta[k]) for k in ("BM", "BN", "BR", "BD") if k in meta)
    if {"BM", "BN"} <= meta.keys() and meta.get("CHUNKS", 1) == meta.get("VALUE_CHUNKS", 1) == 1:
        unit = r"MUFU\.RCP" if tier == "exact" else r"MUFU\.TANH"
        elements = meta["BM"] * meta["BN"] / (32 * meta["num_warps"])  # per thread
        loops = [loop for loop in binary.loops if loop.count(unit) >= elements]
        if loops:
            loop = min(loops, key=lambda x: len(x.instructions))  # the loop over tiles that no edge cuts
            mufu, per_element = loop.count(r"MUFU") / elements, len(loop.instructions) / elements
            breaches += _loop_breaches(arch, case, tier, item.kernel, loop, mufu, per_element)
            if show_loops:
                print(f"    {sass.most_common(loop)}")
        else:
            breaches.append(f"no loop with {unit}")
        if tier == "exact" and binary.count(r"MUFU\.TANH"):
            breaches.append("MUFU.TANH in the exact tier")
        if not binary.count(MATRIX.get(arch, "HMMA")):
            breaches.append("no matrix instruction")
        if arch == 90 and not binary.count("HGMMA") and case.endswith("paper"):
            breaches.append("no HGMMA")
    if "BR" in meta and "aligned" in case:
        narrow = [op for op in binary.instructions if op.startswith(("LDG", "LDGSTS")) and ".128" not in op]
        if binary.count(r"LDG\S*\.128|LDGSTS\S*\.128") * 16 < meta["BR"] * meta["BD"] * _item_size(case) / 32:
            breaches.append(f"narrow loads of K: {sorted(set(narrow))}")
    return Row(
        arch, case, item.kernel.removesuffix("_kernel"), f"{tile} w{meta.get('num_warps', 4)}", binary.registers,
        item.shared, binary.stack, len(binary.instructions), per_element, mufu, tuple(breaches),
    )  # fmt: skip


def _loop_breaches(
    arch: int, case: str, tier: str, kernel: str, loop: Any, mufu: float, per_element: float
) -> list[str]:
    """What breaks a bar inside the loop over the affinity matrix."""
    found = []
    if mufu != 1:
        found.append(f"{mufu:.3f} MUFU per element")
    if loop.count(r"F2F\b|F2F\."):
        found.append("F2F conversions")
    direction = "backward" if kernel.startswith("backward") else "forward"
    bar = PER_ELEMENT.get((tier, direction))
    if arch == 90 and bar is not None and case.endswith("paper") and per_element > bar:
        found.append(f"{per_element:.2f} instructions per element, bar {bar}")
    return found


def _item_size(case: str) -> int:
    return 4 if "float32" in case else 2


def cases() -> list[tuple[str, str, Callable[[], None]]]:
    """Name, tier and launchers of every audited call: the paper's shape in each tier, and the odd ends of the table."""
    import torch

    from jca_fast.kernels.triton.coattention import LARGEST

    found: list[tuple[str, str, Callable[[], None]]] = []
    for tier, name in TIERS.items():
        dtype = getattr(torch, name)
        n, k = LARGEST[tier]
        for way, back in (("forward", False), ("backward", True)):
            for label, batch in (("paper", 64), ("paper B=1", 1)):
                found.append((f"{tier} layer {way}, {label}", tier, _layer(dtype, batch, 10, 32, 0.0, back)))
                found.append((f"{tier} layer {way}, dropout, B={batch}", tier, _layer(dtype, batch, 10, 32, 0.3, back)))
            found.append((f"{tier} layer {way}, widest", tier, _layer(dtype, 64, n, k, 0.3, back)))
            found.append((f"{tier} layer {way}, odd", tier, _layer(dtype, 3, 7, 5, 0.0, back, (1, 20))))
            found.append((f"{tier} attention {way}, released", tier, _released(dtype, 64, 10, 0.3, back)))
            found.append((f"{tier} attention {way}, N=200 D=512", tier, _attention(dtype, 64, 200, 512, 0.3, back)))
            found.append((f"{tier} attention {way}, N=64 D=128", tier, _attention(dtype, 1, 64, 128, 0.0, back)))
    for dtype in (torch.float32, torch.bfloat16):
        found.append((f"visual {str(dtype).removeprefix('torch.')}, aligned", "half", _visual(dtype)))
    return found


def _layer(
    dtype: Any, batch: int, n: int, k: int, dropout: float, backward: bool, dims: tuple[int, int] = (512, 512)
) -> Callable[[], None]:
    """A layer of two modalities; the paper's has N = 10, 512 + 512 channels, k = 32."""

    def start() -> None:
        import torch

        from jca_fast.kernels import triton as kernels

        seed = torch.zeros((), dtype=torch.int64) if dropout else None
        inputs = [torch.empty(batch, n, d, dtype=dtype) for d in dims]
        shapes = ((n, n), (k, n), (k, sum(dims)), (k, n))
        weights = [[torch.empty(shape, dtype=dtype) for _ in range(2)] for shape in shapes]
        args = (inputs, [], *weights, [1 / 32] * 2, dropout, seed)
        if backward:
            maps = [torch.empty(batch, k, d, dtype=dtype) for d in dims]
            kernels.joint_coattention_backward(inputs, maps, *args)
        else:
            kernels.joint_coattention(*args, False)

    return start


def _released(dtype: Any, batch: int, segments: int, dropout: float, backward: bool) -> Callable[[], None]:
    """The released form's attention: 1024 rows, 512 columns, values of each sample."""

    def start() -> None:
        import torch

        from jca_fast.kernels import triton as kernels

        seed = torch.zeros((), dtype=torch.int64) if dropout else None
        query = torch.empty(batch, segments, 1024, dtype=dtype)
        args = (query, *(torch.empty(batch, segments, 512, dtype=dtype) for _ in range(2)), 1 / 32, dropout, seed)
        if backward:
            kernels.released_attention_backward(query, query, *args)
        else:
            kernels.released_attention(*args)

    return start


def _attention(dtype: Any, batch: int, n: int, d: int, dropout: float, backward: bool) -> Callable[[], None]:
    """tanh attention of sizes that take more than one block of N or of D."""

    def start() -> None:
        import torch

        from jca_fast.kernels import triton as kernels

        seed = torch.zeros((), dtype=torch.int64) if dropout else None
        q, k, v, grad = (torch.empty(batch, a, b, dtype=dtype) for a, b in ((1024, n), (512, n), (512, d), (1024, d)))
        if backward:
            kernels.tanh_attention_backward(grad, q, k, v, 1 / 32, dropout, seed)
        else:
            kernels.tanh_attention(q, k, v, 1 / 32, dropout, seed)

    return start


def _visual(dtype: Any) -> Callable[[], None]:
    """The paper's reduction: 49 regions of 512 channels; forward, backward of frozen features, and with dK."""

    def start() -> None:
        import torch

        from jca_fast.kernels import triton as kernels

        query, regions = torch.empty(64, 512, dtype=dtype), torch.empty(64, 49, 512, dtype=dtype)
        _, weights = kernels.visual_reduction(query, regions, 1.0)
        for wanted in (False, True):
            kernels.visual_reduction_backward(query, weights, query, regions, weights, 1.0, wanted)

    return start
