"""The representative launches, which ``python -m benchmarks.audit`` compiles and a tuning run
measures.

Every entry of the table of launch configurations has at least one case, at the sizes that need most
registers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from jca_fast.kernels import triton as kernels
from jca_fast.kernels.triton.table import LARGEST, WIDE
from torch import Tensor

from jca_fast.ops.tiers import TIERS

KERNEL_DTYPES = {tier.kernel: tier.dtype for tier in reversed(TIERS.values())}
"""The dtype that represents each tier of a launch table."""
ODD = (515, 510)
"""Odd numbers of channels, which rule out vector accesses."""
APART = (1, 20)
"""Channels of modalities that are compiled separately, because Triton makes a size of 1 a constant.
The compilation takes long.
"""
Key = tuple[str, str, str]


class Case(NamedTuple):
    """One call of a launcher.

    ``key`` is its entry of the table, None where it has none. ``kernels`` names, without "_kernel",
    the kernels that no other case compiles alike; an empty one means all. ``elements`` counts the
    elements of the affinity matrices of all samples. ``start(device)`` calls the launcher; on "cpu"
    tensors are shapes.
    """

    name: str
    tier: str
    key: Key | None
    kernels: tuple[str, ...]
    elements: int
    start: Callable[[str], Any]

    @property
    def precision(self) -> str:
        """The argument of :func:`jca_fast.ops.tiers.precision` for the call."""
        return "tf32" if self.tier == "tf32" else "exact"


def cases() -> list[Case]:
    """All cases, tier by tier."""
    found = []
    for tier, dtype in KERNEL_DTYPES.items():
        found += [*_forward(tier, dtype), *_backward(tier, dtype), *_joint_affinity(tier, dtype)]
    return [*found, *(_visual_reduction(dtype) for dtype in (torch.float32, torch.bfloat16))]


def _forward(tier: str, dtype: torch.dtype) -> list[Case]:
    def case(what: str, size: str, call: Callable[..., Any], *args: Any) -> Case:
        start = partial(call, dtype, False, *args)
        return Case(
            f"{tier} {what}", tier, ("forward", tier, size), (), _elements(call, *args), start
        )

    return [
        case("layer forward, paper", "narrow", joint_coattention, (64, 10, 32), 0.0),
        case("layer forward, dropout", "narrow", joint_coattention, (64, 10, 32), 0.3),
        case("layer forward, odd, B=1", "small", joint_coattention, (1, 9, 20), 0.3, ODD),
        case("layer forward, widest", "wide", joint_coattention, (64, *LARGEST[tier]), 0.3),
        case("attention forward, N=200 D=512", "blocked", tanh_attention, (64, 200, 512)),
        *(
            [case("attention forward, released", "narrow", released_attention)]
            if tier == "half"
            else []
        ),
        *(
            [case("layer forward, apart", "small", joint_coattention, (3, 7, 5), 0.0, APART)]
            if tier == "half"
            else []
        ),
    ]


def _backward(tier: str, dtype: torch.dtype) -> list[Case]:
    core = ("tanh_attention_backward",)
    rest = (*core, "joint_coattention_prepare", "joint_coattention_finish")

    def case(
        what: str, size: str, only: tuple[str, ...], call: Callable[..., Any], *args: Any
    ) -> Case:
        start = partial(call, dtype, True, *args)
        return Case(
            f"{tier} {what}", tier, ("backward", tier, size), only, _elements(call, *args), start
        )

    found = [
        case("layer backward, paper", "narrow", (), joint_coattention, (64, 10, 32), 0.0),
        case("layer backward, dropout", "narrow", core, joint_coattention, (64, 10, 32), 0.3),
        case("layer backward, odd, B=1", "small", core, joint_coattention, (1, 9, 20), 0.3, ODD),
        case("attention backward, N=200 D=512", "blocked", core, tanh_attention, (64, 200, 512)),
    ]
    if tier == "half":
        found.append(
            case("layer backward, apart", "small", rest, joint_coattention, (3, 7, 5), 0.0, APART)
        )
    if LARGEST[tier] == WIDE[tier]:
        return [
            *found,
            case(
                "layer backward, widest", "wide", rest, joint_coattention, (64, *LARGEST[tier]), 0.3
            ),
        ]
    return [
        *found,
        case("attention backward, wide", "wide", core, tanh_attention, (64, *WIDE[tier])),
        case(
            "layer backward, widest", "blocked", rest, joint_coattention, (64, *LARGEST[tier]), 0.3
        ),
    ]


def _joint_affinity(tier: str, dtype: torch.dtype) -> list[Case]:
    """The paper's matrix, and in the tier with most registers one with more segments than a block
    holds.
    """
    return [
        Case(
            f"{tier} affinity, N={n}",
            tier,
            None,
            (),
            _elements(joint_affinity, (64, n)),
            partial(joint_affinity, dtype, (64, n)),
        )
        for n in ((10, 200) if tier == "exact" else (10,))
    ]


def _visual_reduction(dtype: torch.dtype) -> Case:
    return Case(
        f"visual {str(dtype).removeprefix('torch.')}, aligned",
        "half",
        None,
        (),
        0,
        partial(visual_reduction, dtype),
    )


def _elements(
    call: Callable[..., Any],
    sizes: tuple[int, ...] = (64,),
    dropout: float = 0.0,
    dims: tuple[int, int] = (512, 512),
) -> int:
    """Elements of the affinity matrices of ``call``, one of the functions below, with these
    arguments.
    """
    return sizes[0] * (sum(dims) ** 2 if call is joint_coattention else 1024 * 512)


def tensor(device: str, dtype: torch.dtype, *shape: int) -> Tensor:
    """Random numbers on a GPU; uninitialised on the CPU, where nothing is computed."""
    return (
        torch.empty(shape, dtype=dtype)
        if device == "cpu"
        else torch.randn(shape, dtype=dtype, device=device)
    )


def joint_coattention(
    dtype: torch.dtype,
    backward: bool,
    sizes: tuple[int, int, int],
    dropout: float,
    dims: tuple[int, int] = (512, 512),
    device: str = "cpu",
) -> Any:
    """A layer of two modalities with sizes (B, N, k); the paper's has N = 10, 512 + 512 channels, k
    = 32.
    """
    batch, n, k = sizes
    new = partial(tensor, device, dtype)
    seed = torch.zeros((), dtype=torch.int64, device=device) if dropout else None
    inputs = [new(batch, n, d) for d in dims]
    weights = [[new(*shape) for _ in dims] for shape in ((n, n), (k, n), (k, sum(dims)), (k, n))]
    args = (inputs, [], *weights, [1 / 32] * 2, dropout, seed)
    if backward:
        return kernels.joint_coattention_backward(inputs, [new(batch, k, d) for d in dims], *args)
    return kernels.joint_coattention(*args, False)


def released_attention(dtype: torch.dtype, backward: bool, device: str = "cpu") -> Any:
    """The released form's attention at the paper's size: 1,024 rows, 512 columns, values of each
    sample, dropout.
    """
    new = partial(tensor, device, dtype, 64, 10)
    query = new(1024)
    key = new(512)
    value = new(512)
    args = (query, key, value, 1 / 32, 0.3, torch.zeros((), dtype=torch.int64, device=device))
    return (
        kernels.released_attention_backward(query, query, *args)
        if backward
        else kernels.released_attention(*args)
    )


def tanh_attention(
    dtype: torch.dtype, backward: bool, sizes: tuple[int, int, int], device: str = "cpu"
) -> Any:
    """tanh attention with sizes (B, N, D), 1,024 rows, 512 columns and dropout."""
    batch, n, d = sizes
    q, k, v, grad = (
        tensor(device, dtype, batch, *s) for s in ((1024, n), (512, n), (512, d), (1024, d))
    )
    args = (q, k, v, 1 / 32, 0.3, torch.zeros((), dtype=torch.int64, device=device))
    return (
        kernels.tanh_attention_backward(grad, *args) if backward else kernels.tanh_attention(*args)
    )


def joint_affinity(dtype: torch.dtype, sizes: tuple[int, int], device: str = "cpu") -> Any:
    """The affinity matrix of (B, N), 512 rows and 1,024 columns, and its backward."""
    batch, n = sizes
    q, k = tensor(device, dtype, batch, n, 512).mT, tensor(device, dtype, batch, n, 1024).mT
    c = kernels.joint_affinity(q, k, 1 / 32)
    return kernels.joint_affinity_backward(c, q, k, c, 1 / 32)


def visual_reduction(dtype: torch.dtype, device: str = "cpu") -> Any:
    """The paper's reduction: 49 regions of 512 channels; forward, backward of frozen features, and
    with dK.
    """
    query, regions = tensor(device, dtype, 640, 512), tensor(device, dtype, 640, 49, 512)
    _, weights = kernels.visual_reduction(query, regions, 1.0)
    args = (query, weights, query, regions, weights, 1.0)
    return [kernels.visual_reduction_backward(*args, wanted) for wanted in (False, True)]
