"""Asks for room in memory before a library that crashes the process when it gets none."""

from __future__ import annotations

import mmap


def require(num_bytes: int, purpose: str) -> None:
    """Raises MemoryError unless this process may allocate `num_bytes` more."""
    try:
        mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        raise MemoryError(
            f"{purpose} needs {num_bytes / 2**20:.0f} MiB more than this process may allocate"
        ) from None
