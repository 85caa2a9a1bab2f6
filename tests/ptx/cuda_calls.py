"""``python -m tests.ptx.cuda_calls``: execute the plans of the CUDA backend in every tier.

It prints errors over their bounds, findings, and how many instructions of each kernel ran. It fails
if an error is above its bound, if anything is found, or if a kernel ran too few instructions.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import product

import numpy as np
import torch
from torch import Tensor

from jca_fast.ops import reference
from jca_fast.ops.backends.parity import FACTOR, FLOOR

from .cuda_device import TIERS, kernels
from .cuda_layer import GROUPS, Device
from .formats import Array
from .machine import SCHEDULES, Options

ROUNDED = 1.5
"""An error may be this much above PyTorch's, or within one rounding of the tier. Where tensor cores
cut their sums, it may be as much as a backend promises, :mod:`jca_fast.ops.backends.parity`."""
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
SCALE = 0.3
AFFINITIES = {  # B, M, L, N, q and k lie as in the layers
    "affinity": (2, 38, 35, 15, True),
    "affinity, wide": (1, 140, 40, 24, False),
    "affinity, aligned": (1, 40, 64, 16, False),
    "affinity, odd": (1, 33, 45, 17, False),
    "affinity, even": (1, 33, 34, 18, False),
    "affinity, two spans": (1, 24, 304, 16, True),
}
RELEASED = {  # B, N, d, d_x, dropout, rows contiguous
    "released": (1, 10, 34, 20, 0.3, True),
    "released, aligned": (2, 16, 136, 64, 0.0, True),
    "released, transposed": (1, 9, 33, 36, 0.3, False),
    "released, long": (1, 35, 40, 24, 0.3, True),
}
VISUALS = {  # S, R, D, rows contiguous, gradient of the regions wanted
    "visual": (2, 11, 72, False, True),
    "visual, odd": (2, 5, 511, False, True),
    "visual, transposed": (2, 17, 33, True, True),
    "visual, frozen": (2, 5, 520, False, False),
    "visual, a team": (1, 5, 1032, False, True),
    "visual, blocks": (1, 3, 2056, False, True),
    "visual, many regions": (1, 530, 8, False, True),
}
ATTENTIONS = {  # B, M, L, N, D, v shared (of one sample always), dropout, rows contiguous
    "quick": (1, 40, 35, 10, 9, True, 0.3, False),
    "odd": (2, 70, 65, 15, 31, False, 0.0, False),
    "shared v": (17, 3, 40, 15, 31, True, 0.1, False),
    "aligned": (2, 64, 96, 16, 32, True, 0.3, False),
    "q and k aligned": (2, 40, 35, 16, 31, False, 0.3, False),
    "transposed": (2, 72, 80, 10, 32, False, 0.3, True),
    "two tiles of rows": (1, 140, 64, 10, 8, True, 0.3, True),
    "two tiles of columns": (2, 100, 150, 10, 32, True, 0.3, False),
    "blocks": (2, 40, 35, 20, 40, False, 0.3, False),
    "blocks of values": (2, 40, 35, 10, 40, False, 0.3, True),
    "blocks, odd": (2, 33, 41, 17, 33, False, 0.3, True),
    "blocks, shared v": (1, 33, 41, 17, 33, True, 0.0, False),
    "blocks, aligned": (1, 40, 64, 32, 64, True, 0.0, False),
    "even": (2, 34, 38, 10, 30, False, 0.0, False),
    "even, shared v": (2, 34, 38, 10, 30, True, 0.0, False),
    "aligned, transposed": (2, 64, 64, 16, 32, False, 0.0, True),
    "blocks, transposed": (2, 40, 40, 24, 40, False, 0.0, True),
}
LAYERS = {  # B, N, channels, widths, channels of joints, dropout, residual
    "layer, small": (1, 10, (20, 13), (9, 9), (), 0.3, True),
    "layer": (2, 10, (40, 35), (9, 9), (), 0.3, True),
    "layer, aligned": (1, 16, (64, 32), (32, 32), (), 0.3, True),
    "layer, three": (1, 7, (20, 33, 5), (5, 9, 12), (), 0.0, False),
    "layer, one joint": (2, 7, (30, 40), (33, 33), (50,), 0.3, True),
    "layer, two joints": (2, 7, (30, 40), (5, 8), (24, 31), 0.1, True),
    "layer, long": (1, 32, (40, 64), (40, 32), (), 0.3, True),
    "layer, two tiles": (1, 10, (140, 20), (8, 8), (), 0.3, False),
    "layer, wide": (1, 33, (33,), (33,), (), 0.0, True),
    "layer, groups": (17, 3, (5,), (3,), (), 0.0, True),
}
OPTIONS = {
    **{schedule: Options(schedule=schedule) for schedule in SCHEDULES},
    **{f"{bits} guard bits": Options(guard_bits=bits) for bits in (2, 1, 0)},
}
"""How a call is executed: the order of warps, and the tensor cores' sums."""
LEAST_COVERAGE = 0.95
"""The share of each kernel's instructions that must run in some call."""
CALLS = (*ATTENTIONS, *AFFINITIES, *RELEASED, *VISUALS, *LAYERS)
Results = Iterable[tuple[str, Tensor, Tensor, Tensor]]
"""The name of each result: got, by PyTorch in the tier's dtype, and exact."""


def operands(tier: str, call: str) -> list[Tensor]:
    """grad_out, q, k, v of an attention in the dtype of the tier."""
    torch.manual_seed(0)
    batch, m, length, n, d, shared, _, transposed = ATTENTIONS[call]
    dtype = DTYPES.get(tier, torch.float32)
    shapes = (batch, m, d), (batch, m, n), (batch, length, n), (1 if shared else batch, length, d)
    if transposed:
        return [torch.randn(b, c, r).to(dtype).mT for b, r, c in shapes]
    return [torch.randn(*shape).to(dtype) for shape in shapes]


def execute(tier: str, call: str, how: str = "together") -> tuple[dict[str, float], Device]:
    """The errors of the result and the gradients over their bounds, and the device."""
    device = Device(tier, OPTIONS[how])
    run = next(run for calls, run in _WAYS if call in calls)
    errors = {}
    for name, got, plain, want in run(device, tier, call):
        error, baseline = _error(got, want), _error(plain, want)
        errors[name] = error / max(FLOOR[tier], _factor(name, how) * baseline)
    return errors, device


def _attention(device: Device, tier: str, call: str) -> Results:
    tensors = operands(tier, call)
    p = ATTENTIONS[call][-2]
    options = SCALE, p, torch.tensor(0x123456789ABCDE) if p else None
    out = device.tanh_attention(*tensors[1:], *options)
    got = [out, *device.tanh_attention_backward(*tensors, *options)]
    plain, want = _formula(tensors, options), _formula([t.double() for t in tensors], options)
    return zip(("out", "dq", "dk", "dv"), got, plain, want, strict=True)


def _affinity(device: Device, tier: str, call: str) -> Results:
    """The backward gets the rounded exact matrix, as in the self-check."""
    torch.manual_seed(0)
    batch, m, length, n, transposed = AFFINITIES[call]
    dtype = DTYPES.get(tier, torch.float32)
    q, k = (
        torch.randn(batch, n, rows).to(dtype).mT
        if transposed
        else torch.randn(batch, rows, n).to(dtype)
        for rows in (m, length)
    )
    grad = torch.randn(batch, m, length).to(dtype)
    c = reference.joint_affinity(q.double(), k.double(), SCALE).to(dtype)
    formula, backward = reference.joint_affinity, reference.joint_affinity_backward
    got = [
        device.joint_affinity(q, k, SCALE),
        *device.joint_affinity_backward(grad, q, k, c, SCALE),
    ]
    plain = [formula(q, k, SCALE), *backward(grad, q, k, c, SCALE)]
    grad, q, k, c = (t.double() for t in (grad, q, k, c))
    want = [formula(q, k, SCALE), *backward(grad, q, k, c, SCALE)]
    return zip(("out", "dq", "dk"), got, plain, want, strict=True)


def _released(device: Device, tier: str, call: str) -> Results:
    """The backward gets the rounded exact result, as in the self-check."""
    torch.manual_seed(0)
    batch, n, d, d_x, p, contiguous = RELEASED[call]
    dtype = DTYPES.get(tier, torch.float32)
    grad, query, key, value = (
        torch.randn(batch, n, columns).to(dtype)
        if contiguous
        else torch.randn(batch, columns, n).to(dtype).mT
        for columns in (d, d, d_x, d_x)
    )
    # A larger scale leaves T near 1, where only the error of tanh is left.
    options = 0.1 * n**-0.5, p, torch.tensor(0x123456789ABCDE) if p else None
    wide = [t.double() for t in (query, key, value)]
    formula, backward = reference.released_attention, reference.released_attention_backward
    exact = formula(*wide, *options)
    out, given = exact.to(dtype), (query, key, value, *options)
    got = [
        device.released_attention(*given),
        *device.released_attention_backward(grad, out, *given),
    ]
    plain = [formula(*given), *backward(grad, out, *given)]
    want = [exact, *backward(grad.double(), out.double(), *wide, *options)]
    return zip(("out", "dquery", "dkey", "dvalue"), got, plain, want, strict=True)


def _visual(device: Device, tier: str, call: str) -> Results:
    """The backward gets the rounded exact weights, as in the self-check."""
    torch.manual_seed(0)
    segments, count, width, transposed, need = VISUALS[call]
    dtype = DTYPES.get(tier, torch.float32)
    shape = (segments, width, count) if transposed else (segments, count, width)
    regions = torch.randn(shape).to(dtype)
    regions = regions.mT if transposed else regions
    query, grad = (torch.randn(segments, width).to(dtype) for _ in range(2))
    grad_weights, scale = torch.randn(segments, count).to(dtype), width**-0.5
    formula, backward = reference.visual_reduction, reference.visual_reduction_backward
    weights = formula(query.double(), regions.double(), scale)[1].to(dtype)
    arguments = grad, grad_weights, query, regions, weights
    got = [
        *device.visual_reduction(query, regions, scale),
        *device.visual_reduction_backward(*arguments, scale, need),
    ]
    plain = [*formula(query, regions, scale), *backward(*arguments, scale, need)]
    wide = [t.double() for t in arguments]
    want = [*formula(*wide[2:4], scale), *backward(*wide, scale, need)]
    names = ("out", "out: weights", "dq", "dk")[: len(got)]
    return zip(names, got, plain, want, strict=False)


def _layer(device: Device, tier: str, call: str) -> Results:
    """Every second tensor lies transposed. The backward gets the rounded exact maps."""
    torch.manual_seed(0)
    batch, n, channels, widths, joints, p, residual = LAYERS[call]
    dtype = DTYPES.get(tier, torch.float32)

    def group(*shapes: tuple[int, ...], scale: float = 1.0) -> list[Tensor]:
        drawn = [torch.randn(*rest, b, a) * scale for *rest, a, b in shapes]
        return [(t.mT if i % 2 else t.mT.contiguous()).to(dtype) for i, t in enumerate(drawn)]

    wide = [*joints, *joints][: len(channels)] or [sum(channels)] * len(channels)
    features = [(batch, n, d) for d in channels]
    groups = [
        group(*features),
        group(*((batch, n, d) for d in joints)),
        group(*((n, n) for _ in channels), scale=0.3),
        group(*((k, n) for k in widths), scale=0.3),
        group(*zip(widths, wide, strict=True), scale=0.3),
        group(*((k, n) for k in widths), scale=0.3),
    ]
    seed = torch.tensor(0x123456789ABCDE) if p else None
    options = [0.2, 0.1, 0.15][: len(channels)], p, seed
    grads = group(*features)
    exact = [[t.double() for t in g] for g in groups]
    formula, backward = reference.joint_coattention, reference.joint_coattention_backward
    want = formula(*exact, *options, True, residual)
    maps = [h.to(dtype) for h in want[len(channels) :]]
    got = device.joint_coattention(*groups, *options, True, residual)
    got += device.joint_coattention_backward(grads, maps, *groups, *options, residual)
    plain = formula(*groups, *options, True, residual)
    plain += backward(grads, maps, *groups, *options, residual)
    grads, maps = ([t.double() for t in g] for g in (grads, maps))
    want += backward(grads, maps, *exact, *options, residual)
    names = [f"out {name}{i}" for name in "xh" for i in range(len(channels))]
    names += [f"d{g}{i}" for g, ts in zip(GROUPS, groups, strict=True) for i in range(len(ts))]
    return zip(names, got, plain, want, strict=True)


_WAYS = (
    (ATTENTIONS, _attention),
    (AFFINITIES, _affinity),
    (RELEASED, _released),
    (VISUALS, _visual),
    (LAYERS, _layer),
)


def _factor(name: str, how: str) -> float:
    cuts = OPTIONS[how].guard_bits is not None
    return FACTOR["out" if name.startswith("out") else "grad"] if cuts else ROUNDED


def _formula(tensors: list[Tensor], options: tuple) -> list[Tensor]:
    out = reference.tanh_attention(*tensors[1:], *options)
    return [out, *reference.tanh_attention_backward(*tensors, *options)]


def _error(x: Tensor, exact: Tensor) -> float:
    return float((x.double() - exact).norm() / exact.norm())


def _row(tier: str, call: str, how: str) -> tuple[str, bool, dict]:
    errors, device = execute(tier, call, how)
    text = "  ".join(f"{name} {error:.2f}" for name, error in errors.items())
    found = device.findings.lines()
    failed = bool(found) or not all(error <= 1 for error in errors.values())
    lines = [f"{tier:<9} {call:<18} {how:<13} {text}" + "  FAILED" * failed, *found]
    return "\n    ".join(lines), failed, {(tier, k): bits for k, bits in device.covered.items()}


def report(covered: dict[tuple[str, str], Array], missed: str | None = None) -> int:
    """Print the coverage of every kernel, and the instructions of ``missed`` that never ran; how
    many kernels are below the least. Nothing has run of a kernel that no call launched.
    """
    low = 0
    for tier, (name, kernel) in ((t, k) for t in TIERS for k in sorted(kernels(t).items())):
        ran = covered.get((tier, name), np.zeros(len(kernel.code), bool))
        count, every = int(ran.sum()), len(ran)
        few = count < LEAST_COVERAGE * every
        text = f"{count} of {every} instructions ran ({count / every:.1%})" + "  TOO FEW" * few
        print(f"{tier:<9} {name:<28} {text}")
        low += few
        if name == missed:
            print("\n".join(f"  {i:>5} {kernel.code[i]}" for i in np.flatnonzero(~ran)))
    return low


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.ptx.cuda_calls", description=__doc__)
    parser.add_argument("--missed", metavar="KERNEL", help="list its instructions that never ran")
    args = parser.parse_args()
    jobs = [*product(TIERS, CALLS, ["together"])]
    jobs += product(
        ("exact", "bfloat16"),
        ("odd", "transposed", "affinity", "released", "layer"),
        [*OPTIONS][1:],
    )
    failures, covered = 0, {}
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for text, failed, bits in pool.map(_row, *zip(*jobs, strict=True)):
            print(text, flush=True)
            failures += failed
            covered = {**covered, **{k: covered.get(k, False) | b for k, b in bits.items()}}
    low = report(covered, args.missed)
    print(f"{len(jobs)} calls, {failures} failed; {low} kernels below {LEAST_COVERAGE:.0%}")
    return int(failures + low > 0)


if __name__ == "__main__":
    sys.exit(main())
