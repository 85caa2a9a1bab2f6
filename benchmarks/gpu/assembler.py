"""The assembler of a run: Triton's own, or the CUDA toolkit's where the kernels refuse Triton's."""

from __future__ import annotations

import os
import shutil

VARIABLE = "TRITON_PTXAS_PATH"


def choose() -> str:
    """Name an assembler for the processes of this run, unless one is named; returns its version."""
    import triton
    from jca_fast.kernels.triton import problem

    own = triton.knobs.nvidia.ptxas
    if VARIABLE not in os.environ and "ptxas" in problem():
        found = shutil.which("ptxas") or shutil.which("ptxas", path="/usr/local/cuda/bin")
        if found:
            os.environ[VARIABLE] = found
            print(f"Triton's ptxas {own.version} is too old for the kernels: {found} instead")
    return str(triton.knobs.nvidia.ptxas.version)
