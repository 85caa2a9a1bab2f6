"""Checks of constructor arguments, shared by all modules."""

from __future__ import annotations


def check_positive(**sizes: int) -> None:
    """Each named size must be an int of at least 1."""
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{name} must be an int of at least 1, got {size!r}")


def check_probability(**probabilities: float) -> None:
    """Each named probability must lie in [0, 1]."""
    for name, p in probabilities.items():
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"{name} must be a probability between 0 and 1, got {p!r}")
