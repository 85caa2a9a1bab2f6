"""The devices on which GPU kernels are known to be correct. Do not edit: ``benchmarks/gpu/run.py
--write-table`` writes this file.
"""

from __future__ import annotations

VERIFIED: frozenset[tuple[str, str, str]] = frozenset()
"""(backend, architecture class, tier) of the recorded runs in benchmarks/results that passed every
check.
"""
