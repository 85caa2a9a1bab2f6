"""The random cases of the sweep: one call of one op, drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jca_fast.kernels.cpu import native
from torch import Tensor

from jca_fast.functional import joint_affinity, joint_coattention, tanh_attention, visual_reduction
from jca_fast.ops import reference
from jca_fast.ops.released_attention import released_attention
from jca_fast.ops.tanh_dropout import tanh_dropout

LEVELS = native.library().jca_isa_available().decode().split(",")
DTYPES = (torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16)
SIZES = (1, 2, 3, 7, 10, 16, 31, 64, 70, 129)
SEGMENTS = (1, 2, 7, 8, 10, 16)
SPECIALS = (float("inf"), -float("inf"), float("nan"))


@dataclass
class Case:
    """One call. ``ours`` and ``plain`` take ``inputs`` and give one tensor like ``grad``."""

    op: str
    names: Sequence[str]
    inputs: list[Tensor]
    ours: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    settings: str
    seed: int = 0
    isa: str = ""
    grad: Tensor = field(default_factory=lambda: torch.empty(0))

    @contextmanager
    def level(self) -> Iterator[None]:
        """Every kernel of this process on the instruction set of the case."""
        library = native.library()
        before = library.jca_isa_name()
        library.jca_isa_select(self.isa.encode())
        try:
            yield
        finally:
            library.jca_isa_select(before)

    def __str__(self) -> str:
        shapes = ", ".join(str(tuple(t.shape)) for t in self.inputs)
        dtype = str(self.inputs[0].dtype).removeprefix("torch.")
        return f"seed {self.seed}: {self.op} {dtype} on {self.isa}, {shapes}; {self.settings}"


class Draw:
    """The random choices of one case."""

    def __init__(self, seed: int):
        self.rng = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype = self.rng.choice(DTYPES)
        self.widest = 1.0 if self.dtype == torch.float16 else 4.0
        self.scores = 10 ** self.exponent(1.0 if self.rng.random() < 0.5 else 6.0)
        self.p = self.rng.choice((0.0, 0.0, 0.0, 0.3, 0.5, 1.0))
        self.mask = torch.tensor(self.rng.getrandbits(62)) if self.p else None

    def exponent(self, largest: float) -> float:
        return self.rng.uniform(-largest, largest)

    def size(self, choices: Sequence[int] = SIZES) -> int:
        return self.rng.choice(choices)

    def tensor(self, *shape: int) -> Tensor:
        """Normal numbers of a random magnitude in a random layout."""
        size = 10 ** self.exponent(self.widest / 2 if self.rng.random() < 0.5 else 0.0)
        t = (torch.randn(shape, generator=self.generator) * size).to(self.dtype)
        layout = self.rng.choice(("contiguous", "contiguous", "transposed", "sliced"))
        if layout == "transposed":
            return t.mT.contiguous().mT
        if layout == "sliced":
            wide = t.new_full((*shape[:-1], 2 * shape[-1] + 1), float("nan"))
            wide[..., 1::2] = t
            return wide[..., 1::2]
        return t

    def scale(self, scores: Tensor) -> float:
        """A factor with a random sign that gives the scores the magnitude of this case."""
        size = scores.std().item() if scores.numel() > 1 else scores.abs().max().item()
        return self.rng.choice((-1, 1)) * self.scores / max(size, 1e-30)

    def settings(self, scale: float) -> str:
        return f"scale {scale:.3g}, scores about {self.scores:.2g}, dropout {self.p}"


def dropout_case(
    op: Callable[..., Tensor], names: Sequence[str], inputs: list[Tensor], scale: float, draw: Draw
) -> Case:
    """The case of an op that takes its inputs, a scale and dropout."""
    formula = getattr(reference, op.__name__)
    return Case(
        op.__name__,
        names,
        inputs,
        lambda *t: op(*t, scale, dropout_p=draw.p, seed=draw.mask, backend="cpu"),
        lambda *t: formula(*t, scale, draw.p, draw.mask),
        draw.settings(scale),
    )


def attention_case(draw: Draw) -> Case:
    b, n = draw.size((1, 2, 3)), draw.size(SEGMENTS)
    m = draw.size()
    length = draw.size()
    d = draw.size()
    q, k = draw.tensor(b, m, n), draw.tensor(b, length, n)
    v = draw.tensor(draw.rng.choice((1, b)), length, d)
    scale = draw.scale(q.double() @ k.double().mT)
    return dropout_case(tanh_attention, ("dq", "dk", "dv"), [q, k, v], scale, draw)


def released_case(draw: Draw) -> Case:
    b = draw.size((1, 2, 3))
    n = draw.size(SEGMENTS)
    d = draw.size()
    d_x = draw.size()
    query = draw.tensor(b, n, d)
    key = draw.tensor(b, n, d_x)
    value = draw.tensor(b, n, d_x)
    scale = draw.scale(key.double().mT @ query.double())
    names = "dquery", "dkey", "dvalue"
    return dropout_case(released_attention, names, [query, key, value], scale, draw)


def tanh_dropout_case(draw: Draw) -> Case:
    scores = draw.tensor(draw.size((1, 2, 3)), draw.size(), draw.size())
    return dropout_case(tanh_dropout, ("dscores",), [scores], draw.scale(scores.double()), draw)


def affinity_case(draw: Draw) -> Case:
    b = draw.size((1, 2, 3))
    n = draw.size(SEGMENTS)
    d_x = draw.size()
    d = draw.size()
    inputs = [draw.tensor(b, n, d_x), draw.tensor(b, n, d)]
    weighted = draw.rng.random() < 0.5
    if weighted:
        inputs.append(draw.tensor(n, n))

    def key(joint: Tensor, weight: Sequence[Tensor]) -> Tensor:
        return weight[0] @ joint if weight else joint

    x, joint, *weight = [t.double() for t in inputs]
    scale = draw.scale(x.mT @ key(joint, weight))
    return Case(
        "joint_affinity", ("dx", "djoint", "dW_j")[: len(inputs)], inputs,
        lambda *t: joint_affinity(*t, scale=scale, backend="cpu"),
        lambda x, joint, *w: reference.joint_affinity(x.mT, key(joint, w).mT, scale),
        f"scale {scale:.3g}, scores about {draw.scores:.2g}",
    )  # fmt: skip


def layer_case(draw: Draw) -> Case:
    """The paper form for two or three modalities, with the concatenation or one joint feature."""
    b = draw.size((1, 2, 3))
    n = draw.size(SEGMENTS)
    k = draw.size((1, 2, 9, 32))
    count = draw.rng.choice((2, 2, 3))
    dims = [draw.size() for _ in range(count)]
    joint_width = draw.rng.choice((0, draw.size()))
    width = joint_width or sum(dims)
    inputs = [draw.tensor(b, n, size) for size in dims]
    joints = [draw.tensor(b, n, joint_width)] if joint_width else []
    shapes = ((n, n), (k, n), (k, width), (k, n))
    groups = [[draw.tensor(*shape) for _ in dims] for shape in shapes]
    joint = joints[0] if joints else torch.cat(inputs, -1)
    scales = [
        draw.scale(x.double().mT @ (w.double() @ joint.double()))
        for x, w in zip(inputs, groups[0], strict=True)
    ]  # fmt: skip

    def split(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
        sizes = (count, len(joints), *4 * (count,))
        return [list(part) for part in _cut(tensors, sizes)]

    def ours(*t: Tensor) -> Tensor:
        xs, js, *weights = split(t)
        rest = {"scales": scales, "dropout_p": draw.p, "seed": draw.mask, "backend": "cpu"}
        return torch.cat(joint_coattention(xs, *weights, joints=js, **rest), -1)

    def plain(*t: Tensor) -> Tensor:
        return torch.cat(
            reference.joint_coattention(*split(t), scales, draw.p, draw.mask, False), -1
        )

    names = ("dX", "dJ", "dW_j", "dW_x", "dW_c", "dW_h")
    parts = (inputs, joints, *groups)
    return Case(
        "joint_coattention",
        [name for name, part in zip(names, parts, strict=True) for _ in part],
        [t for part in parts for t in part], ours, plain, draw.settings(scales[0]),
    )  # fmt: skip


def _cut(tensors: Sequence[Tensor], sizes: Sequence[int]) -> Iterator[Sequence[Tensor]]:
    first = 0
    for size in sizes:
        yield tensors[first : first + size]
        first += size


def reduction_case(draw: Draw) -> Case:
    s = draw.size()
    r = draw.size((1, 2, 9, 49))
    d = draw.size()
    query, regions = draw.tensor(s, d), draw.tensor(s, r, d)
    if draw.dtype == torch.float64:  # the oracle loses the gradients of weights of nearly 1
        draw.scores = min(draw.scores, 1.0)
    scale = abs(draw.scale(regions.double() @ query.double()[..., None]))
    return Case(
        "visual_reduction", ("dquery", "dregions"), [query, regions],
        lambda *t: visual_reduction(*t, scale, backend="cpu"),
        lambda *t: reference.visual_reduction(*t, scale)[0],
        f"scale {scale:.3g}, scores about {draw.scores:.2g}",
    )  # fmt: skip


CASES: dict[str, Callable[[Draw], Case]] = {
    "tanh_attention": attention_case,
    "released_attention": released_case,
    "tanh_dropout": tanh_dropout_case,
    "joint_affinity": affinity_case,
    "joint_coattention": layer_case,
    "visual_reduction": reduction_case,
}


def pick(seed: int, names: Iterable[str]) -> str:
    """The name with the largest of the numbers that each name has for a seed.

    A further name is picked for some seeds and leaves the pick of all others as it was.
    """
    return max(names, key=lambda name: random.Random(f"{seed} {name}").random())


def draw_case(seed: int) -> Case:
    draw = Draw(seed)
    case = CASES[pick(seed, CASES)](draw)
    case.seed, case.isa = seed, pick(seed, LEVELS)
    shape = case.plain(*(t.double() for t in case.inputs)).shape
    case.grad = torch.randn(shape, generator=draw.generator).to(draw.dtype)
    if draw.rng.random() < 0.1:
        index = draw.rng.randrange(len(case.inputs))
        special = draw.rng.choice(SPECIALS)
        element = [draw.rng.randrange(size) for size in case.inputs[index].shape]
        case.inputs[index][tuple(element)] = special
        case.settings += f", {special} in input {index}"
    return case
