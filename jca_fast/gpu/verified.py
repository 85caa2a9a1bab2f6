"""Where the kernels are known to compute right. Written by ``benchmarks/gpu/run.py --write-table``: do not edit."""

from __future__ import annotations

VERIFIED: frozenset[tuple[str, str]] = frozenset()
"""(architecture class, tier) pairs of the recorded runs in benchmarks/results that passed every check."""
