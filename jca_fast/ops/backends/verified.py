"""Where GPU kernels are known to be correct. ``benchmarks/gpu/run.py --write-table`` writes it: do
not edit.
"""

from __future__ import annotations

VERIFIED: frozenset[tuple[str, str, str]] = frozenset()
"""(backend, architecture class, tier) of the recorded runs in benchmarks/results that passed every
check.
"""
