"""The devices on which GPU kernels are known to be correct. Do not edit: ``benchmarks/gpu/run.py
--write-table`` writes this file.
"""

from __future__ import annotations

VERIFIED: frozenset[tuple[str, str, str]] = frozenset()
"""(backend, architecture class, tier) of the recorded runs in benchmarks/results that passed every
check.
"""
FASTEST: dict[tuple[str, str, str], tuple[tuple[int, str], ...]] = {}
"""(op, architecture class, tier): from how many elements of the first tensor on which backend was
the fastest, in the recorded runs that timed several backends on one device.
"""
