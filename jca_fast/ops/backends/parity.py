"""Numerical checks of a backend's launchers against float64, beside plain PyTorch in the same tier.

The launchers are called without the dispatcher, because the table of backends may run a check
before it decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import reference
from ..tiers import precision

FLOOR = {"exact": 3e-7, "tf32": 4e-3, "bfloat16": 4e-3, "float16": 5e-4}
"""Relative RMS error that always passes: one rounding of the tier, for results in which PyTorch
rounds nothing.

TF32 may take three products in a row, which reach 2.8e-3: PyTorch on a CPU has no TF32 to compare
with."""
FACTOR = {"out": 2.0, "grad": 3.0}
"""The largest ratio of an error to the error of PyTorch."""


class Case(NamedTuple):
    """One call: the op, its sizes, and its dropout probability."""

    op: str
    sizes: tuple[int, ...]
    dropout: float = 0.0


class Result(NamedTuple):
    """One compared quantity: its error, PyTorch's error, both as relative RMS, and the bound it
    must keep.
    """

    case: Case
    what: str
    error: float
    baseline: float
    bound: float

    @property
    def passed(self) -> bool:
        """Whether the error is a number within its bound."""
        return self.error <= self.bound


QUICK = (
    Case("tanh_attention", (2, 70, 65, 10, 9, 0), 0.3),
    Case("joint_coattention", (3, 10, 48, 65, 9, 0), 0.3),
    Case("released_attention", (2, 10, 70, 65), 0.3),
    Case("joint_affinity", (2, 70, 65, 10)),
    Case("visual_reduction", (5, 49, 64)),
)
"""The self-check. Sizes: tanh_attention (B, M, L, N, D, v shared), joint_coattention
(B, N, d_a, d_v, k, joints), released_attention (B, N, d, d_x), joint_affinity (B, M, L, N),
visual_reduction (S, R, D)."""
FULL = (
    *QUICK,
    Case("tanh_attention", (1, 1, 1, 1, 1, 0)),
    Case("tanh_attention", (2, 512, 1024, 10, 32, 1)),
    Case("tanh_attention", (18, 33, 130, 13, 150, 1), 0.1),
    Case("tanh_attention", (2, 65, 100, 70, 5, 0), 0.3),
    Case("tanh_attention", (1, 40, 30, 200, 300, 1)),
    Case("released_attention", (2, 10, 1024, 512)),
    Case("released_attention", (3, 13, 1, 130), 0.1),
    Case("joint_coattention", (4, 10, 512, 512, 32, 0)),
    Case("joint_coattention", (18, 13, 128, 513, 5, 0), 0.1),
    Case("joint_coattention", (2, 7, 30, 40, 33, 1), 0.3),
    Case("joint_coattention", (2, 7, 30, 40, 33, 2)),
    Case("joint_coattention", (2, 70, 30, 40, 9, 0), 0.3),
    Case("joint_affinity", (1, 1, 1, 1)),
    Case("joint_affinity", (4, 512, 1024, 10)),
    Case("joint_affinity", (3, 65, 130, 16)),
    Case("joint_affinity", (2, 130, 65, 70)),
    Case("joint_affinity", (2, 64, 256, 200)),
    Case("visual_reduction", (64, 49, 512)),
    Case("visual_reduction", (3, 50, 100)),
    Case("visual_reduction", (2, 5, 3000)),
)
"""The cases of ``jca-fast verify``."""


def run_checks(
    cases: Sequence[Case], tier: str, device: torch.device | str, launchers: ModuleType
) -> list[Result]:
    """Check the outputs and gradients of every case in one tier, and that a second run gives the
    same bits.

    ``launchers`` has a function named like each op: the module of a backend, or the reference
    itself.
    """
    results = []
    with precision(tier) as dtype, torch.no_grad():
        for case in cases:
            results += _run_case(case, tier, dtype, torch.device(device), launchers)
    return results


def _run_case(
    case: Case, tier: str, dtype: torch.dtype, device: torch.device, launchers: ModuleType
) -> list[Result]:
    tensors, seed = _INPUTS[case.op](case), None
    tensors = [t.to(device, dtype) for t in tensors]
    if case.dropout:
        seed = torch.tensor(2**40 + 17, device=device)
    call = _CALLS[case.op]
    kernels = [getattr(launchers, name) for name in (case.op, f"{case.op}_backward")]
    formulas = [getattr(reference, name) for name in (case.op, f"{case.op}_backward")]
    got = call(kernels, case, tensors, seed)
    again = call(kernels, case, tensors, seed)
    plain = call(formulas, case, tensors, seed)
    exact = call(formulas, case, [t.double() for t in tensors], seed)
    same = all(
        torch.equal(a, b) for a, b in zip((*got[0], *got[1]), (*again[0], *again[1]), strict=True)
    )
    results = [Result(case, "repeats", 0.0 if same else float("inf"), 0.0, 0.0)]
    for what, *groups in zip(("out", "grad"), got, plain, exact, strict=True):
        error = max(relative_error(a, b) for a, b in zip(groups[0], groups[2], strict=True))
        baseline = max(relative_error(a, b) for a, b in zip(groups[1], groups[2], strict=True))
        results.append(Result(case, what, error, baseline, FACTOR[what] * baseline + FLOOR[tier]))
    return results


def relative_error(a: Tensor, exact: Tensor) -> float:
    """RMS of the difference over RMS of the exact values; not a number where ``a`` has a NaN.

    Where the exact result is zero up to the rounding of float64, like the gradient of a softmax
    over one region, it is the RMS of the difference: the inputs of all cases are of order one.
    """
    scale = float(exact.square().mean().sqrt())
    error = float((a.double() - exact).square().mean().sqrt())
    return error / scale if scale > 1e-12 else error


def _random(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator("cpu").manual_seed(sum(sum(s) for s in shapes))
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        for shape in shapes
    ]


def _attention_inputs(case: Case) -> list[Tensor]:
    """q, k, v and the gradient of the output, channels last in memory as in the modules."""
    b, m, n_l, n, d, shared = case.sizes
    return [t.mT for t in _random((b, n, m), (b, n, n_l), (1 if shared else b, d, n_l), (b, d, m))]


def _attention(
    ops: list[Callable[..., Any]], case: Case, tensors: list[Tensor], seed: Tensor | None
) -> Any:
    *qkv, grad = tensors
    options = (0.5 * qkv[0].shape[2] ** -0.5, case.dropout, seed)
    return [ops[0](*qkv, *options)], ops[1](grad, *qkv, *options)


def _released_inputs(case: Case) -> list[Tensor]:
    """query, key, value and the gradient of the output."""
    b, n, d, d_x = case.sizes
    return _random((b, n, d), (b, n, d_x), (b, n, d_x), (b, n, d))


def _released(
    ops: list[Callable[..., Any]], case: Case, tensors: list[Tensor], seed: Tensor | None
) -> Any:
    """Every backward gets the same T, for the reason given in :func:`_layer`."""
    *inputs, grad = tensors
    options: tuple[Any, ...] = (0.1 * case.sizes[1] ** -0.5, case.dropout, seed)
    wide: list[Any] = [t.double() for t in inputs]
    out = reference.released_attention(*wide, *options).to(grad.dtype)
    return [ops[0](*inputs, *options)], ops[1](grad, out, *inputs, *options)


def _affinity_inputs(case: Case) -> list[Tensor]:
    """q and k, channels last in memory as in the op, and the gradient of C."""
    b, m, n_l, n = case.sizes
    q, k, grad = _random((b, n, m), (b, n, n_l), (b, m, n_l))
    return [q.mT, k.mT, grad]


def _affinity(
    ops: list[Callable[..., Any]], case: Case, tensors: list[Tensor], seed: Tensor | None
) -> Any:
    """Every backward gets the same C, because near 1 its rounding would decide the slope."""
    q, k, grad = tensors
    scale = 0.5 * case.sizes[-1] ** -0.5
    c = reference.joint_affinity(q.double(), k.double(), scale).to(grad.dtype)
    return [ops[0](q, k, scale)], ops[1](grad, q, k, c, scale)


def _layer_inputs(case: Case) -> list[Tensor]:
    """Two inputs, the joints, the weights and the gradients of both outputs."""
    b, n, d_a, d_v, k, joints = case.sizes
    d = [24, 31] if joints == 2 else [50 if joints else d_a + d_v] * 2
    shapes = [(b, n, d_a), (b, n, d_v), *((b, n, d[i]) for i in range(joints))]
    weights = [(n, n), (n, n), (k, n), (k, n), (k, d[0]), (k, d[1]), (k, n), (k, n)]
    scaled = [t * 0.3 for t in _random(*weights)]
    return [*_random(*shapes), *scaled, *_random((b, n, d_a), (b, n, d_v))]


def _layer(
    ops: list[Callable[..., Any]], case: Case, tensors: list[Tensor], seed: Tensor | None
) -> Any:
    """Every backward gets the same H, because one rounding across the ReLU changes the gradient."""
    joints = case.sizes[-1]
    inputs = tensors[:2]
    given = tensors[2 : 2 + joints]
    weights = tensors[2 + joints : -2]
    grads = tensors[-2:]
    groups = (inputs, given, *(weights[i : i + 2] for i in (0, 2, 4, 6)))
    options: tuple[Any, ...] = ([0.2, 0.1], case.dropout, seed)
    wide: list[Any] = [[t.double() for t in group] for group in groups]
    everything: list[Any] = [*wide, *options, True]
    maps = [h.to(inputs[0].dtype) for h in reference.joint_coattention(*everything)[2:]]
    return ops[0](*groups, *options, True), ops[1](grads, maps, *groups, *options)


def _reduction_inputs(case: Case) -> list[Tensor]:
    """query, regions and the gradients of both outputs."""
    s, r, d = case.sizes
    return _random((s, d), (s, r, d), (s, d), (s, r))


def _reduction(
    ops: list[Callable[..., Any]], case: Case, tensors: list[Tensor], seed: Tensor | None
) -> Any:
    query, regions, *grads = tensors
    scale = case.sizes[-1] ** -0.5
    out = ops[0](query, regions, scale)
    return list(out), ops[1](*grads, query, regions, out[1], scale, True)


_INPUTS = {
    "tanh_attention": _attention_inputs,
    "released_attention": _released_inputs,
    "joint_affinity": _affinity_inputs,
    "joint_coattention": _layer_inputs,
    "visual_reduction": _reduction_inputs,
}
_CALLS = {
    "tanh_attention": _attention,
    "released_attention": _released,
    "joint_affinity": _affinity,
    "joint_coattention": _layer,
    "visual_reduction": _reduction,
}
