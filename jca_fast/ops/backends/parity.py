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
from torch.utils._pytree import tree_map_only

from .. import reference
from ..tiers import precision
from .launchers import missing

FLOOR = {"exact": 3e-7, "tf32": 4e-3, "bfloat16": 4e-3, "float16": 5e-4}
"""Relative RMS error that always passes: one rounding of the tier, for results in which PyTorch
rounds nothing.

TF32 may take three products in a row, which reach 2.8e-3: PyTorch on a CPU has no TF32 to compare
with."""
FACTOR = {"out": 2.0, "grad": 3.0}
"""The largest ratio of an error to the error of PyTorch."""
Arguments = tuple[Any, ...]


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
    Case("joint_coattention", (2, 7, 30, 40, 33, 1), 0.3),  # fails if ptxas 12.8 compiled it
    Case("joint_coattention", (3, 10, 48, 65, 9, 0), 0.3),
    Case("released_attention", (2, 10, 70, 65), 0.3),
    Case("tanh_dropout", (2, 70, 65), 0.3),
    Case("joint_affinity", (2, 70, 65, 10)),
    Case("visual_reduction", (5, 49, 64)),
)
"""The self-check. Sizes: tanh_attention (B, M, L, N, D, v shared), joint_coattention
(B, N, d_a, d_v, k, joints), released_attention (B, N, d, d_x), tanh_dropout (B, M, L),
joint_affinity (B, M, L, N), visual_reduction (S, R, D)."""
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
    Case("joint_coattention", (2, 7, 30, 40, 33, 2)),
    Case("joint_coattention", (2, 70, 30, 40, 9, 0), 0.3),
    Case("released_attention", (2, 200, 100, 70), 0.3),
    Case("tanh_dropout", (1, 1, 1)),
    Case("tanh_dropout", (3, 384, 256), 0.6),
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


def with_kernels(cases: Sequence[Case], kernels: ModuleType) -> list[Case]:
    """The cases of the ops for which ``kernels`` has launchers, forward and backward."""
    return [case for case in cases if not missing(kernels, case.op)]


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


def tensors_of(case: Case, dtype: torch.dtype, device: torch.device | str = "cpu") -> list[Tensor]:
    """Random inputs of the op, then a gradient for each of its outputs."""
    return [t.to(device, dtype) for t in _OPS[case.op][0](case)]


def arguments(case: Case, tensors: Sequence[Tensor]) -> tuple[Arguments, Arguments]:
    """The arguments of the op and of its backward, in the order of their schemas."""
    seed = torch.tensor(2**40 + 17, device=tensors[0].device) if case.dropout else None
    return _OPS[case.op][1](case, seed, *tensors)


def _run_case(
    case: Case, tier: str, dtype: torch.dtype, device: torch.device, launchers: ModuleType
) -> list[Result]:
    tensors = tensors_of(case, dtype, device)
    given, wide = arguments(case, tensors), arguments(case, [t.double() for t in tensors])
    got, again = (_results(launchers, case.op, given) for _ in range(2))
    plain, exact = _results(reference, case.op, given), _results(reference, case.op, wide)
    same = all(
        torch.equal(a, b) for a, b in zip((*got[0], *got[1]), (*again[0], *again[1]), strict=True)
    )
    results = [Result(case, "repeats", 0.0 if same else float("inf"), 0.0, 0.0)]
    for what, *groups in zip(("out", "grad"), got, plain, exact, strict=True):
        error = max(relative_error(a, b) for a, b in zip(groups[0], groups[2], strict=True))
        baseline = max(relative_error(a, b) for a, b in zip(groups[1], groups[2], strict=True))
        results.append(Result(case, what, error, baseline, FACTOR[what] * baseline + FLOOR[tier]))
    return results


def _results(
    functions: ModuleType, op: str, given: tuple[Arguments, Arguments]
) -> list[list[Tensor]]:
    """The outputs and the gradients."""
    calls = zip((op, f"{op}_backward"), given, strict=True)
    found = [getattr(functions, name)(*args) for name, args in calls]
    return [[out] if isinstance(out, Tensor) else list(out) for out in found]


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


def _exact(formula: Callable[..., Any], *args: Any) -> Any:
    """The result of a formula in float64.

    Every backward gets the same saved results: where tanh is near 1, a softmax weight is small, or
    a ReLU is near its kink, one rounding of them would decide the gradient.
    """
    wide = tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, args)
    return formula(*wide)


def _tanh_attention_tensors(case: Case) -> list[Tensor]:
    """q, k, v and the gradient of the output, channels last in memory as in the modules."""
    b, m, n_l, n, d, shared = case.sizes
    return [t.mT for t in _random((b, n, m), (b, n, n_l), (1 if shared else b, d, n_l), (b, d, m))]


def _tanh_attention(
    case: Case, seed: Tensor | None, q: Tensor, k: Tensor, v: Tensor, grad: Tensor
) -> tuple[Arguments, Arguments]:
    options = (0.5 * q.shape[2] ** -0.5, case.dropout, seed)
    return (q, k, v, *options), (grad, q, k, v, *options)


def _released_attention_tensors(case: Case) -> list[Tensor]:
    """query, key, value and the gradient of the output."""
    b, n, d, d_x = case.sizes
    return _random((b, n, d), (b, n, d_x), (b, n, d_x), (b, n, d))


def _released_attention(
    case: Case, seed: Tensor | None, query: Tensor, key: Tensor, value: Tensor, grad: Tensor
) -> tuple[Arguments, Arguments]:
    inputs = (query, key, value, 0.1 * case.sizes[1] ** -0.5, case.dropout, seed)
    out = _exact(reference.released_attention, *inputs).to(grad.dtype)
    return inputs, (grad, out, *inputs)


def _tanh_dropout_tensors(case: Case) -> list[Tensor]:
    """The scores and the gradient of the output."""
    return _random(case.sizes, case.sizes)


def _tanh_dropout(
    case: Case, seed: Tensor | None, scores: Tensor, grad: Tensor
) -> tuple[Arguments, Arguments]:
    options = (0.5, case.dropout, seed)
    out = _exact(reference.tanh_dropout, scores, *options).to(grad.dtype)
    return (scores, *options), (grad, out, *options)


def _joint_affinity_tensors(case: Case) -> list[Tensor]:
    """q and k, channels last in memory as in the op, and the gradient of C."""
    b, m, n_l, n = case.sizes
    q, k, grad = _random((b, n, m), (b, n, n_l), (b, m, n_l))
    return [q.mT, k.mT, grad]


def _joint_affinity(
    case: Case, seed: Tensor | None, q: Tensor, k: Tensor, grad: Tensor
) -> tuple[Arguments, Arguments]:
    scale = 0.5 * case.sizes[-1] ** -0.5
    c = _exact(reference.joint_affinity, q, k, scale).to(grad.dtype)
    return (q, k, scale), (grad, q, k, c, scale)


def _joint_coattention_tensors(case: Case) -> list[Tensor]:
    """Two inputs, the joints, the weights and the gradients of both outputs."""
    b, n, d_a, d_v, k, joints = case.sizes
    d = [24, 31] if joints == 2 else [50 if joints else d_a + d_v] * 2
    shapes = [(b, n, d_a), (b, n, d_v), *((b, n, d[i]) for i in range(joints))]
    weights = [(n, n), (n, n), (k, n), (k, n), (k, d[0]), (k, d[1]), (k, n), (k, n)]
    scaled = [t * 0.3 for t in _random(*weights)]
    return [*_random(*shapes), *scaled, *_random((b, n, d_a), (b, n, d_v))]


def _joint_coattention(
    case: Case, seed: Tensor | None, *tensors: Tensor
) -> tuple[Arguments, Arguments]:
    first = 2 + case.sizes[-1]  # of the weights
    *weights, grads = (list(tensors[i : i + 2]) for i in range(first, first + 10, 2))
    groups = (list(tensors[:2]), list(tensors[2:first]), *weights)
    layer = (*groups, [0.2, 0.1], case.dropout, seed)
    maps = _exact(reference.joint_coattention, *layer, True)[2:]
    return (*layer, True), (grads, [h.to(grads[0].dtype) for h in maps], *layer)


def _visual_reduction_tensors(case: Case) -> list[Tensor]:
    """query, regions and the gradients of both outputs."""
    s, r, d = case.sizes
    return _random((s, d), (s, r, d), (s, d), (s, r))


def _visual_reduction(
    case: Case, seed: Tensor | None, query: Tensor, regions: Tensor, *grads: Tensor
) -> tuple[Arguments, Arguments]:
    scale = case.sizes[-1] ** -0.5
    weights = _exact(reference.visual_reduction, query, regions, scale)[1].to(query.dtype)
    return (query, regions, scale), (*grads, query, regions, weights, scale, True)


_OPS: dict[str, tuple[Callable[..., list[Tensor]], Callable[..., Any]]] = {
    "tanh_attention": (_tanh_attention_tensors, _tanh_attention),
    "released_attention": (_released_attention_tensors, _released_attention),
    "tanh_dropout": (_tanh_dropout_tensors, _tanh_dropout),
    "joint_affinity": (_joint_affinity_tensors, _joint_affinity),
    "joint_coattention": (_joint_coattention_tensors, _joint_coattention),
    "visual_reduction": (_visual_reduction_tensors, _visual_reduction),
}
"""The tensors and the arguments of a case of each op."""
