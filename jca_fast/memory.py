"""Asks for room in memory before a library that crashes the process when it gets none."""

from __future__ import annotations

import functools
import mmap

BLAS = 48 * 2**20
"""Bytes that must be free before NumPy's first product of matrices. Its OpenBLAS takes 32 MiB."""


def require(num_bytes: int, purpose: str) -> None:
    """Raises MemoryError unless this process may allocate `num_bytes` more."""
    try:
        mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        raise MemoryError(
            f"{purpose} needs {num_bytes / 2**20:.0f} MiB more than this process may allocate"
        ) from None


@functools.cache
def reserve_blas() -> None:
    """Makes NumPy's OpenBLAS take its memory, which it keeps; MemoryError if there is too little.

    OpenBLAS itself ends the process if it gets none at the first product of matrices, such as in
    matplotlib.
    """
    require(BLAS, "NumPy")
    import numpy as np

    np.ones((2, 2)) @ np.eye(2)
