"""The calls of every op, derived from the cases of the self-check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from jca_fast.ops.library import overload


def floating(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def as_function(op: str, args: Any) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """The registered ``op`` as a function of the floating-point tensors in ``args``, and these.

    The function takes the tensors and ``backend``; its result holds all outputs in one dimension.
    """
    values, tree = tree_flatten(args)
    places = [i for i, value in enumerate(values) if floating(value)]

    def function(*tensors: Tensor, backend: str) -> Tensor:
        filled = list(values)
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        out = overload(op, backend)(*tree_unflatten(filled, tree))
        return torch.cat([t.flatten() for t in ([out] if isinstance(out, Tensor) else out)])

    return function, [values[i] for i in places]
