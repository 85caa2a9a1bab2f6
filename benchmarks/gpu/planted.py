"""A kernel with one fault for each sanitizer: ``python -m benchmarks.gpu.planted memcheck``.

A check that misses these faults would also miss those of our kernels, for example because its
filter matches no kernel.
"""

from __future__ import annotations

import sys

import torch
import triton
import triton.language as tl


@triton.jit
def planted_kernel(p_x, p_out, BLOCK: tl.constexpr):
    """Copies BLOCK numbers, whether or not ``p_x`` has them."""
    o_x = tl.arange(0, BLOCK)
    tl.store(p_out + o_x, tl.load(p_x + o_x))


def main() -> int:
    """memcheck: reads past the end; initcheck: reads uninitialised memory."""
    size = {"memcheck": 4, "initcheck": 1024}[sys.argv[1]]
    x, out = torch.empty(size, device="cuda"), torch.zeros(1024, device="cuda")
    planted_kernel[(1,)](x, out, BLOCK=1024)
    torch.cuda.synchronize()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
