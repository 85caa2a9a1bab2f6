"""The backend that recorded runs show to be the fastest for a call, for "auto" to try first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..constant import assume_constant_result
from ..tiers import device_class, tier
from .verified import FASTEST


def fastest(op: str, tensors: Sequence[Tensor]) -> str:
    """Its name; "" where no run has compared backends on this architecture in this tier.

    A size between two recorded ones counts as the smaller one.
    """
    if not FASTEST or not tensors or not tensors[0].is_cuda:
        return ""
    found, size = "", tensors[0].numel()
    for least, backend in _recorded(op, tensors[0].device.index or 0, tensors[0].dtype):
        if found and size < least:
            break
        found = backend
    return found


@assume_constant_result
def _recorded(op: str, index: int, dtype: torch.dtype) -> tuple[tuple[int, str], ...]:
    return FASTEST.get((op, device_class(index), tier(dtype)), ())
