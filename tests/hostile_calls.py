"""Hostile direct calls of the registered CPU ops: each is refused with a message or gives the
reference's result.

    python tests/hostile_calls.py --cases 20000     # the campaign; the tests draw a few hundred

Each case starts from a valid call of one op and damages one or two arguments: shape, rank, dtype,
device, storage, list length, probability or seed. Tensors lie inside larger ones filled with NaN: a
read beside them shows in the result, and a write beside them changes the NaN.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

import jca_fast.functional  # noqa: F401  (registers the ops)
from jca_fast.ops.backends import parity
from jca_fast.ops.library import SCHEMAS, overload

CASES = [case for case in parity.FULL if max(case.sizes) <= 130]
"""Small calls of every op."""
MARGIN = 64


def guarded(*shape: int) -> Tensor:
    """A random tensor of this shape in the middle of a buffer of NaN."""
    count = torch.Size(shape).numel()
    buffer = torch.full((count + 2 * MARGIN,), float("nan"))
    inner = buffer[MARGIN : MARGIN + count].view(shape)
    return inner.copy_(torch.randn(shape))


def valid_call(op: str, case: parity.Case) -> list[Any]:
    """The arguments of ``op``, forward or backward, in a case."""
    calls = parity.arguments(case, parity.tensors_of(case, torch.float32))
    args = list(calls[op.endswith("_backward")])
    return tree_map_only(Tensor, lambda t: guarded(*t.shape) if t.is_floating_point() else t, args)


def draw_call(rng: random.Random) -> tuple[str, list[Any]]:
    """A registered op and the arguments of a valid call, with or without dropout."""
    op = rng.choice(sorted(SCHEMAS))
    case = rng.choice([case for case in CASES if case.op == op.removesuffix("_backward")])
    return op, valid_call(op, case._replace(dropout=rng.choice((0.0, case.dropout))))


def resized(t: Tensor, rng: random.Random) -> Tensor:
    shape = list(t.shape)
    if shape:
        shape[rng.randrange(len(shape))] = rng.choice([0, 1, 2, 3, 64, 129])
    return guarded(*shape).to(t.dtype)


def huge(t: Tensor, rng: random.Random) -> Tensor:
    """Expanded to a size whose scratch or result cannot exist."""
    if not t.numel():
        return t
    dim = rng.randrange(t.dim()) if t.dim() else 0
    shape = list(t.shape) or [1]
    others = t.numel() // shape[dim]
    sizes = [2**40, 2**56, 2**61 // others]
    shape[dim] = rng.choice([size for size in sizes if size * others < 2**63])
    return t.reshape(-1)[:1].as_strided(shape, [0] * len(shape))


def emptied(t: Tensor, rng: random.Random) -> Tensor:
    """Its storage freed, wholly or in part, as sharding libraries do."""
    out = t.clone()
    size = out.untyped_storage().nbytes()
    out.untyped_storage().resize_(rng.choice([0, size // 2, max(size - 1, 0)]))
    return out


DTYPES = (torch.float64, torch.bfloat16, torch.int32, torch.int64, torch.bool, torch.complex64)
TENSOR_DAMAGE: dict[str, Callable[[Tensor, random.Random], Any]] = {
    "size": resized,
    "huge": huge,
    "rank down": lambda t, rng: t[0] if t.dim() and t.shape[0] else t,
    "rank up": lambda t, rng: t[None],
    "scalar": lambda t, rng: torch.ones(()),
    "dtype": lambda t, rng: t.nan_to_num(0.0).to(rng.choice(DTYPES)),
    "meta": lambda t, rng: t.to("meta"),
    "sparse": lambda t, rng: t.nan_to_num(0.0).to_sparse(),
    "storage": emptied,
    "transposed": lambda t, rng: t.mT if t.dim() > 1 else t,
    "strided": lambda t, rng: t.repeat_interleave(2, -1)[..., ::2] if t.dim() else t,
    "none": lambda t, rng: None,
}
NUMBERS = (-1.0, 1.5, float("nan"), float("inf"), 0.5, 1.0, 2.0**60)


def damaged_list(items: list[Any], rng: random.Random) -> tuple[str, list[Any]]:
    choice = rng.randrange(4)
    if choice == 0:
        return "list shorter", items[:-1]
    if choice == 1:
        return "list longer", [*items, items[-1]]
    if choice == 2:
        return "list empty", []
    index = rng.randrange(len(items))
    name, item = damaged(items[index], rng)
    return name, [*items[:index], item, *items[index + 1 :]]


def damaged(value: Any, rng: random.Random) -> tuple[str, Any]:
    """The kind of damage and the damaged argument."""
    if isinstance(value, list) and value:
        return damaged_list(value, rng)
    if isinstance(value, Tensor):
        name = rng.choice(sorted(TENSOR_DAMAGE))
        return name, TENSOR_DAMAGE[name](value, rng)
    if isinstance(value, float):
        return "number", rng.choice(NUMBERS)
    if value is None:
        seeds = (torch.tensor(3.0), torch.zeros(2, dtype=torch.int64), torch.tensor(3))
        return "seed", rng.choice([*seeds, torch.zeros(0, dtype=torch.int64)])
    return "untouched", value


def tensors_of(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return (
        [t for item in value for t in tensors_of(item)] if isinstance(value, (list, tuple)) else []
    )


def margins_hold(args: list[Any]) -> bool:
    """No tensor's guard changed."""
    for t in tensors_of(args):
        if t.dtype != torch.float32 or t.device.type != "cpu" or t.layout != torch.strided:
            continue
        count = t.untyped_storage().nbytes() // 4
        if count <= 2 * MARGIN:
            continue
        flat = torch.empty(0).set_(t.untyped_storage(), 0, (count,))
        edges = torch.cat([flat[:MARGIN], flat[-MARGIN:]])
        if t.storage_offset() == MARGIN and not edges.isnan().all():
            return False
    return True


def same(ours: Any, reference: Any) -> bool:
    pairs = zip(tensors_of(ours), tensors_of(reference), strict=True)
    return all(
        a.shape == b.shape and torch.allclose(a.double(), b.double(), 0.05, 0.05, equal_nan=True)
        for a, b in pairs
    )


def fails(op: str, args: list[Any]) -> bool:
    """Whether the shape functions, in Python, refuse a call with tensors on the meta device."""
    try:
        overload(op, "cpu")(*args)
    except Exception:
        return True
    return False


def judge(op: str, args: list[Any]) -> str:
    """The outcome of one call: "refused", "as the reference", or a fault."""
    if any(t.device.type == "meta" for t in tensors_of(args)):
        return "refused" if fails(op, args) else "fake"
    try:
        ours = overload(op, "cpu")(*args)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        return "refused" if str(error).strip() else "refused without words"
    try:
        reference = overload(op, "reference")(*args)
    except (RuntimeError, TypeError, ValueError) as error:
        return f"answered where the reference refuses: {error}"
    if not margins_hold(args):
        return "wrote beside an argument"
    return "as the reference" if same(ours, reference) else "differs from the reference"


def campaign(cases: int, seed: int = 0) -> tuple[Counter[str], list[str]]:
    """The number of calls per outcome, and all faults."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    ends: Counter[str] = Counter()
    bad = []
    for case in range(cases):
        op, args = draw_call(rng)
        kinds = []
        for index in rng.sample(range(len(args)), rng.choice([1, 1, 2])):
            kind, args[index] = damaged(args[index], rng)
            kinds.append(f"{kind} of argument {index}")
        end = judge(op, args)
        ends[end.split(":")[0]] += 1
        if end not in ("refused", "as the reference", "fake"):
            bad.append(f"case {case}: {op} with {', '.join(kinds)}: {end}")
    return ends, bad


def main() -> int:
    parser = argparse.ArgumentParser(description="Hostile direct calls of the registered CPU ops.")
    parser.add_argument("--cases", type=int, default=20_000, help="how many calls to draw")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    options = parser.parse_args()
    ends, bad = campaign(options.cases, options.seed)
    print(", ".join(f"{count} {end}" for end, count in sorted(ends.items())))
    print("\n".join(bad))
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
