"""Limits every compiled kernel must meet, judged without a GPU.

For every kernel: no stack, no local memory, at most 99 KB of shared memory, no global atomics. In
the loop over the affinity matrix: exactly one MUFU instruction per element, MUFU.TANH in the fast
tiers and another in the exact one, the chip's matrix instructions (HGMMA on sm_90), and on sm_90 a
bound on instructions per element. In the exact tier tensor cores accumulate one product at most,
and the loop has a float32 addition for each sum outside them. The visual kernels move K by 128-bit
loads and stores.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from . import accumulation
from .sass import Binary, Loop

MATRIX = {90: r"HGMMA|HMMA", 100: r"UTC\w*MMA|HMMA"}
"""Matrix instructions of a chip; HMMA on all others."""
PER_ELEMENT = {
    ("half", "forward"): 3.1,
    ("tf32", "forward"): 5.6,
    ("exact", "forward"): 28.5,
    ("half", "backward"): 9.2,
}
"""Most instructions per element on sm_90, without dropout, at the paper's shape: 7 % above the
largest count of Triton 3.6 to 3.9 (2.88, 5.22, 26.6 and 8.56)."""
SHARED = 99 * 1024
TANH = (
    "joint_affinity_forward_kernel",
    "joint_coattention_forward_kernel",
    "tanh_attention_backward_kernel",
    "tanh_attention_forward_kernel",
)
"""All kernels with a loop over tiles of the affinity matrix that compute it."""
FAST_TANH = "tanh.approx.f32"


@dataclass(frozen=True)
class Row:
    """One audited kernel: its case, its resources, and the limits that it breaks."""

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


def judge(arch: int, case: str, tier: str, item: Any, binary: Binary) -> Row:
    """One compiled kernel against the limits."""
    meta, breaches = item.meta, []
    if binary.stack or binary.local or binary.count(r"LDL|STL"):
        breaches.append(f"{binary.stack} bytes of stack, {binary.count(r'LDL|STL')} local accesses")
    if item.shared > SHARED:
        breaches.append(f"{item.shared} bytes of shared memory")
    if binary.count(r"ATOMG|ATOM\b|ATOM\.|RED\b|RED\."):
        breaches.append("global atomics")
    if tier == "exact" and (names := accumulation.folded(item.ttgir)):
        breaches.append(f"tensor cores accumulate onto {', '.join(names)}")
    per_element = mufu = None
    if item.kernel in TANH:
        if not binary.count(
            "HGMMA" if arch == 90 and "paper" in case else MATRIX.get(arch, "HMMA")
        ):
            breaches.append("no matrix instruction" + " HGMMA" * (arch == 90))
        if meta.get("CHUNKS", 1) == meta.get("VALUE_CHUNKS", 1) == 1:
            loops = tanh_loops(item, tier, binary, breaches)
            if loops:
                per_element, mufu = measure(arch, case, tier, item, loops, breaches)
    elif computed_in_loops(item.ttgir, FAST_TANH):
        breaches.append("tanh in a loop: TANH of benchmarks/audit/limits.py must list this kernel")
    if item.kernel.startswith("visual"):
        breaches += narrow_accesses(item, binary)
    tile = "x".join(str(meta[k]) for k in ("BM", "BN", "BR", "BD") if meta.get(k))
    return Row(
        arch,
        case,
        item.kernel.removesuffix("_kernel"),
        f"{tile} w{meta.get('num_warps', 4)}",
        binary.registers,
        item.shared,
        binary.stack,
        len(binary.instructions),
        per_element,
        mufu,
        tuple(breaches),
    )


def tanh_loops(
    item: Any, tier: str, binary: Binary, breaches: list[str]
) -> list[tuple[Loop, float]]:
    """The loops over the affinity matrix, each with the elements that a thread computes per
    iteration.

    The kernel's tile code shows how often a pass computes a tile, which must be once. In machine
    code a loop may be unrolled, so that an iteration contains several passes.
    """
    unit, instruction = (
        (r"MUFU\.RCP", "rcp.approx") if tier == "exact" else (r"MUFU\.TANH", FAST_TANH)
    )
    tile = item.meta["BM"] * item.meta["BN"]
    elements = tile / (32 * item.meta["num_warps"])
    if tier == "exact" and binary.count(r"MUFU\.TANH"):
        breaches.append("MUFU.TANH in the exact tier")
    computed = computed_in_loops(item.ttgir, instruction)
    if set(computed) != {tile}:
        breaches.append(f"{instruction} for {computed} elements of a tile of {tile}")
    found = [loop for loop in binary.loops if loop.count(unit) >= elements]
    if not found:
        breaches.append(f"no loop with {unit}")
    return [(loop, loop.count(unit) // elements * elements) for loop in found]


def computed_in_loops(ttgir: str, instruction: str) -> list[int]:
    """The elements to which an inline instruction applies, for each loop of the tile code that has
    one.
    """
    loops: list[list[int]] = []  # of those still open: indentation, elements
    found = []
    for line in ttgir.splitlines():
        indent = len(line) - len(line.lstrip())
        if "scf.for" in line:
            loops.append([indent, 0])
        elif loops and line.lstrip().startswith("}") and indent == loops[-1][0]:
            found.append(loops.pop()[1])
        elif (
            loops
            and f'"{instruction}' in line
            and (shape := re.search(r"-> tensor<([\dx]+)xf32", line))
        ):
            loops[-1][1] += math.prod(int(n) for n in shape[1].split("x"))
    return [elements for elements in found if elements]


def measure(
    arch: int, case: str, tier: str, item: Any, loops: list[tuple[Loop, float]], breaches: list[str]
) -> tuple[float, float]:
    """Instructions and MUFU instructions per element of the loops over the affinity matrix.

    The figure of a backward is that of its loop over whole tiles, the shortest. A forward has one
    loop for each part of J; its figure is that of the longest.
    """
    direction = "backward" if "backward" in item.kernel else "forward"
    pick = min if direction == "backward" else max
    per_element = pick(len(loop.instructions) / elements for loop, elements in loops)
    mufu = max(loop.count("MUFU") / elements for loop, elements in loops)
    if mufu != 1:
        breaches.append(f"{mufu:.3f} MUFU per element")
    if any(loop.count(r"F2F\b|F2F\.") for loop, _ in loops):
        breaches.append("F2F conversions")
    if tier == "exact" and item.meta.get("BD") and direction == "forward":
        sums = item.meta["BD"] / item.meta["BN"]
        if any(loop.count("FADD") / elements < sums for loop, elements in loops):
            breaches.append(f"fewer than {sums:.2f} float32 additions per element")
    limit = PER_ELEMENT.get((tier, direction))
    if arch == 90 and limit is not None and case.endswith("paper") and per_element > limit:
        breaches.append(f"{per_element:.2f} instructions per element, limit {limit}")
    return per_element, mufu


def narrow_accesses(item: Any, binary: Binary) -> list[str]:
    """Check that a visual kernel reads K, and writes dK if requested, by 128-bit instructions."""
    size = 4 if "float32" in item.dtype else 2
    wanted = item.meta["BR"] * item.meta["BD"] * size / (16 * 32 * item.meta["num_warps"])
    moves = {"loads of K": r"LDG\S*\.128|LDGSTS\S*\.128"}
    if item.meta.get("WANT_REGIONS"):
        moves["stores of dK"] = r"STG\S*\.128"
    return [
        f"{binary.count(pattern)} 128-bit {what}, {wanted:.0f} are needed"
        for what, pattern in moves.items()
        if binary.count(pattern) < wanted
    ]
