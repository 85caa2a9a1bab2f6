"""The chip's own rates, measured: copy bandwidth, matrix products, tanh.approx.f32, and the cost of
a launch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from benchmarks.gpu import timing
from jca_fast.ops.tiers import precision


@triton.jit
def tanh_kernel(p_out, loops, BLOCK: tl.constexpr):
    """8 dependent tanh for each element and loop."""
    o_x = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    b_x = o_x.to(tl.float32)
    for _ in range(loops):
        for _ in tl.static_range(8):
            b_x = tl.inline_asm_elementwise(
                "tanh.approx.f32 $0, $1;", "=f,f", [b_x], dtype=tl.float32, is_pure=True, pack=1
            )
    tl.store(p_out + o_x, b_x)


def device_rates() -> dict[str, float]:
    """Bytes/s read and written by a copy, FLOP/s of each tier's matrix unit, tanh/s, microseconds
    of an empty graph.
    """
    if timing.DRY:
        return {"copy": 1e12, "bfloat16": 1e15, "tf32": 5e14, "tanh": 4e12, "empty graph": 1.0}
    source = torch.empty(2**30, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    found = {"copy": 2 * 2**30 / _seconds(lambda: target.copy_(source))}
    for name, dtype in (("bfloat16", torch.bfloat16), ("tf32", torch.float32)):
        found[name] = 2 * 8192**3 / _seconds(_product(dtype))
    found["tanh"] = _tanh_rate()
    one = torch.zeros(1, device="cuda")
    found["empty graph"] = 1e6 * _seconds(timing.replayed(lambda: one.add_(1)))
    return found


def _product(dtype: torch.dtype) -> timing.Call:
    """A large matrix product on random data; float32 is read as TF32."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))

    def product() -> torch.Tensor:
        with precision("tf32"):
            return a @ b

    return product


def _tanh_rate() -> float:
    """tanh.approx.f32 per second; the expected rate is 16 per clock and multiprocessor."""
    programs = 4096
    block = 1024
    loops = 256
    out = torch.empty(programs * block, device="cuda")
    call = tanh_kernel[(programs,)]
    return (
        programs * block * loops * 8 / _seconds(lambda: call(out, loops, BLOCK=block, num_warps=4))
    )


def _seconds(call: timing.Call) -> float:
    """The 20th percentile of many calls."""
    return 1e-6 * timing.on_device({"call": call}, seconds=0.2)["call"]["p20"]


def clocks_under_load() -> dict[str, str]:
    """Clocks while matrix products keep the chip busy for a second and more."""
    if timing.DRY:
        return timing.clocks()
    product = _product(torch.bfloat16)
    for _ in range(1000):
        product()
    found = timing.clocks()
    timing.wait()
    return found
