"""Compile the launches of every case and judge their machine code, in one or more processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from jca_fast.ops.tiers import KERNEL_TIERS

from .limits import Row, judge

ARCHITECTURES = (80, 86, 89, 90, 100, 120)


def names() -> list[str]:
    """The names of all cases."""
    from .cases import cases

    return [case.name for case in cases()]


def in_parallel(archs: list[int], only: str, jobs: int) -> Iterator[Row]:
    """:func:`audit` in ``jobs`` processes, each with one tier of one architecture at a time."""
    parts = [(arch, tier) for tier in KERNEL_TIERS for arch in archs]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=end_with_parent) as pool:
        for rows in pool.map(_audit_part, *zip(*parts, strict=True), [only] * len(parts)):
            yield from rows


def end_with_parent() -> None:
    """End this process when its parent ends, even if the parent was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _audit_part(arch: int, tier: str, only: str) -> list[Row]:
    return list(audit([arch], only, tiers=(tier,)))


def audit(
    archs: Sequence[int],
    only: str = "",
    show_loops: bool = False,
    tiers: Sequence[str] = KERNEL_TIERS,
) -> Iterator[Row]:
    """The rows of the audit: one for each started kernel that no earlier case has compiled."""
    from . import sass
    from .cases import cases

    for arch in archs:
        unique: dict[bytes, tuple[Any, Any]] = {}
        for case in cases():
            if only in case.name and case.tier in tiers:
                for item in compiled(case, arch):
                    unique.setdefault(item.cubin, (case, item))
        for (case, item), binary in zip(
            unique.values(), sass.read(list(unique), arch), strict=True
        ):
            yield judge(arch, case.name, case.tier, item, binary)
            if show_loops:
                print("\n".join(f"    {sass.most_common(loop)}" for loop in binary.loops))


def compiled(case: Any, arch: int) -> list[Any]:
    """The kernels of a case, compiled for one chip in the precision of its tier."""
    from jca_fast.ops.tiers import precision

    from .compile import compiling_for

    with precision(case.precision), compiling_for(arch, case.kernels) as items:
        case.start(device="cpu")
    return items
