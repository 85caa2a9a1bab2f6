"""Random calls of every op: their errors, and those of their gradients, beside plain PyTorch's.

    python tests/sweep.py                           # 20,000 cases; the test suite draws 500
    python tests/sweep.py --first 1234 --cases 1    # the case of seed 1234 once more

A case draws the op, sizes, dtype, strides, the magnitude of each input, scores from 1e-6 to 1e6,
dropout, the instruction set and sometimes a NaN or an infinity. The error against a float64
oracle, relative to the largest oracle value, may be at most 2 (outputs) or 3 (gradients) times that
of plain PyTorch in the same dtype plus 2 units in the last place and 1e-30. In float64, where plain
PyTorch is the oracle, its error is that in float32 in proportion, or that with inputs beside the
given ones, and 64 units are allowed. NaN and infinity must be where plain PyTorch or the oracle has
them.

Plain PyTorch may be exact by luck, and a sum beside the kink of relu may fall on either side. So a
case over its bound is tried again with eight neighbours, whose inputs differ by up to 16 units in
the last place: it is a breach where the median of all nine is over the bound, and luck otherwise.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from numerics import error, value_and_grads
from sweep_cases import Case, draw_case
from torch import Tensor
from torch.overrides import TorchFunctionMode

FACTORS = {"out": 2.0}
GRADIENT_FACTOR = 3.0
NEIGHBOURS = 8


class Result(NamedTuple):
    """One output or gradient of one case."""

    op: str
    name: str
    double: bool
    ratio: float  # our error / max(plain PyTorch's, 1 unit); in float64 our error in units
    share: float  # our error / the allowed one
    seed: int


def neighbour(t: Tensor, generator: torch.Generator) -> Tensor:
    """``t`` with every element changed by at most 16 units in the last place."""
    noise = 32 * torch.rand(t.shape, generator=generator, dtype=torch.float64) - 16
    return (t.double() * (1 + noise * torch.finfo(t.dtype).eps)).to(t.dtype)


class Tanh(torch.autograd.Function):
    """tanh whose slope loses nothing where tanh is close to 1."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.tanh(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad / torch.cosh(ctx.saved_tensors[0]) ** 2


class ExactSlope(TorchFunctionMode):
    """torch.tanh is Tanh inside."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return (Tanh.apply if function is torch.tanh else function)(*args, **(kwargs or {}))


def same_kind(ours: Tensor, theirs: Tensor) -> Tensor:
    """Where both are finite, both NaN, or the same infinity."""
    finite = ours.isfinite() & theirs.isfinite()
    return finite | (ours.isnan() & theirs.isnan()) | (ours == theirs)


def finite_parts(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors with 0 where one of them is not finite."""
    finite = torch.stack([t.isfinite() for t in tensors]).all(0)
    return [torch.where(finite, t, 0) for t in tensors]


def oracle_of(case: Case, inputs: Sequence[Tensor]) -> list[Tensor]:
    with ExactSlope():
        return value_and_grads(case.plain, [t.double() for t in inputs], case.grad.double())


def finite_error(value: Tensor, oracle: Tensor) -> float:
    """The error where both are finite, without 1e-30 of the value."""
    value, oracle = finite_parts([value.double(), oracle])
    return max(error(value, oracle) - 1e-30 / max(oracle.abs().max().item(), 1e-300), 0.0)


def plain_errors(case: Case, inputs: list[Tensor], oracle: list[Tensor]) -> list[float]:
    """The errors of plain PyTorch, in the output and in each gradient."""
    return list(map(finite_error, value_and_grads(case.plain, inputs, case.grad), oracle))


def double_errors(case: Case, inputs: list[Tensor], beside: list[Tensor]) -> list[float]:
    """The error allowed to plain PyTorch in float64; ``beside`` are inputs next to the given
    ones."""
    oracle = oracle_of(case, inputs)
    singles = [t.float() for t in inputs]
    losses = plain_errors(case, singles, oracle_of(case, singles))
    unit = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
    changes = plain_errors(case, beside, oracle)
    return [max(loss * unit, change) for loss, change in zip(losses, changes, strict=True)]


def kinds_hold(ours: Tensor, plain: Tensor, oracle: Tensor) -> bool:
    rounded = oracle.to(ours.dtype)
    return bool((same_kind(ours, plain) | same_kind(ours, rounded)).all())


def compare(case: Case, inputs: list[Tensor], beside: list[Tensor]) -> Iterator[tuple]:
    """(name, ratio, share) of the output and of each gradient."""
    double = inputs[0].dtype == torch.float64
    eps, units = torch.finfo(inputs[0].dtype).eps, 64 if double else 2
    oracle = oracle_of(case, inputs)
    plain = value_and_grads(case.plain, inputs, case.grad)
    ours = value_and_grads(case.ours, inputs, case.grad)
    theirs = (
        double_errors(case, inputs, beside) if double else list(map(finite_error, plain, oracle))
    )
    names = ("out", *case.names)
    for name, mine, kinds, exact, loss in zip(names, ours, plain, oracle, theirs, strict=True):
        my_error = finite_error(mine, exact)
        allowed = FACTORS.get(name, GRADIENT_FACTOR) * loss + units * eps
        share = my_error / allowed if kinds_hold(mine, kinds, exact) else float("inf")
        yield name, my_error / (eps if double else max(loss, eps)), share


def run_case(seed: int) -> tuple[Case, list[Result]]:
    case = draw_case(seed)
    generator = torch.Generator().manual_seed(seed)

    def tried(inputs: list[Tensor]) -> list[tuple]:
        beside = [neighbour(t, generator) for t in inputs]
        with case.level():
            return list(compare(case, inputs, beside))

    first = tried(case.inputs)
    shares = [share for _, _, share in first]
    if max(shares) > 1:
        near = [tried([neighbour(t, generator) for t in case.inputs]) for _ in range(NEIGHBOURS)]
        shares = [statistics.median(run[i][2] for run in (first, *near)) for i in range(len(first))]
    double = case.inputs[0].dtype == torch.float64
    return case, [
        Result(case.op, name, double, ratio, share, seed)
        for (name, ratio, _), share in zip(first, shares, strict=True)
    ]


def sweep(first: int, count: int, report: Callable[[str], None] = print) -> list[Result]:
    """The results of the cases ``first``, ``first + 1``, ...; breaches are reported at once."""
    results = []
    for seed in range(first, first + count):
        case, rows = run_case(seed)
        results.extend(rows)
        for row in rows:
            if row.share > 1:
                report(f"breach: {row.name} at {row.share:.2f} of its bound in {case}")
    return results


def table(results: list[Result]) -> str:
    """The worst ratio, the worst share of the bound and their seeds, per op and quantity."""
    groups: dict[tuple[str, str, bool], list[Result]] = {}
    for row in results:
        groups.setdefault((row.op, row.name, row.double), []).append(row)
    head = f"{'op':18} {'quantity':9} {'precision':9} {'cases':>6}"
    lines = [f"{head}  worst ratio (seed)    of the bound (seed)"]
    for (op, name, double), rows in sorted(groups.items()):
        ratio = max(rows, key=lambda row: row.ratio)
        share = max(rows, key=lambda row: row.share)
        ratio_text = f"{ratio.ratio:9.2f} ({ratio.seed})"
        precision = "float64" if double else "others"
        lines.append(
            f"{op:18} {name:9} {precision:9} {len(rows):6}  {ratio_text:20}"
            f" {share.share:6.2f} ({share.seed})"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Errors of random calls beside plain PyTorch's.")
    parser.add_argument("--cases", type=int, default=20_000, help="how many cases to draw")
    parser.add_argument("--first", type=int, default=0, help="seed of the first case")
    options = parser.parse_args()
    results = sweep(options.first, options.cases)
    print(table(results))
    breaches = {row.seed for row in results if row.share > 1}
    print(f"{options.cases} cases, {len(breaches)} over their bound")
    return 1 if breaches else 0


if __name__ == "__main__":
    raise SystemExit(main())
