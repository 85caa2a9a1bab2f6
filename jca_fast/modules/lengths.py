"""Clips of different lengths in one batch: a mask of the segments in use, and zeros elsewhere.

A padded clip gives the result of the shorter clip without padding, with the N x N and k x N weights
cut to its length. For this the inputs, the joint feature after its Linear, and the features after
every layer are zero in the padding: a zero segment adds nothing to a sum over the segments.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..ops.checks import check_dense
from .checks import check_together

Lengths = Tensor | Sequence[int]


def used_segments(
    lengths: Lengths | None,
    key_padding_mask: Tensor | None,
    like: Tensor,
) -> Tensor | None:
    """A mask of the segments of ``like`` (B, N, ...) in use, bool (B, N, 1); None if all are.

    Args:
        lengths: (B,) integers, the number of segments at the front that are in use; 0 to N.
        key_padding_mask: (B, N) bool, True where a segment is padding, which may be anywhere.
        like: the feature that is padded.

    Raises:
        TypeError, ValueError: both are given, or one has the wrong dtype, shape or range. The range
            is checked where ``lengths`` is on the CPU, outside compilers and transforms of
            functions; elsewhere a larger length counts as N.
    """
    if lengths is None and key_padding_mask is None:
        return None
    if lengths is not None and key_padding_mask is not None:
        raise ValueError("give either lengths or key_padding_mask, not both")
    if key_padding_mask is not None:
        return ~_checked_mask(key_padding_mask, like)[..., None]
    counts = _checked_lengths(lengths, like)  # type: ignore[arg-type]
    steps = torch.arange(like.shape[1], device=like.device)  # (N,)
    return (steps < counts[:, None])[..., None]


def zero_padding(x: Tensor, used: Tensor | None) -> Tensor:
    """``x`` (B, N, ...) with zeros where ``used`` (B, N, 1) is False, in place of any NaN; the
    gradient there is 0.
    """
    if used is None:
        return x
    if x.ndim != used.ndim:
        used = used.view(*used.shape[:2], *(1,) * (x.ndim - 2))
    return torch.where(used, x, 0)


def without_padding(
    lengths: Lengths | None, key_padding_mask: Tensor | None, **features: Tensor
) -> tuple[Tensor | None, list[Tensor]]:
    """The mask of :func:`used_segments`, and the features (B, N, ...) with zeros elsewhere.

    Raises TypeError or ValueError where a feature has another device or dtype than the first one,
    or with a mask another B or N.
    """
    check_together(**features)
    (first, like), *_ = features.items()
    used = used_segments(lengths, key_padding_mask, like)
    if used is None:
        return None, list(features.values())
    for name, x in features.items():
        if x.shape[:2] != like.shape[:2]:
            needed = f"({like.shape[0]}, {like.shape[1]}, ...) to go with {first}"
            raise ValueError(f"{name} must have shape {needed}, got {tuple(x.shape)}")
    return used, [zero_padding(x, used) for x in features.values()]


def padding_mask(used: Tensor | None) -> dict[str, Tensor]:
    """``key_padding_mask`` as a keyword for a submodule; none if all segments are in use, so that
    a replaced submodule need not know it.
    """
    return {} if used is None else {"key_padding_mask": ~used[..., 0]}


def _checked_mask(mask: Tensor, like: Tensor) -> Tensor:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"key_padding_mask must be a bool tensor (B, N), got {got}")
    check_dense("key_padding_mask", mask, "(B, N)")
    if mask.shape != like.shape[:2]:
        needed = tuple(like.shape[:2])
        raise ValueError(f"key_padding_mask must have shape {needed}, got {tuple(mask.shape)}")
    return _on_device_of(like, "key_padding_mask", mask)


def as_counts(lengths: Lengths) -> Tensor:
    """``lengths`` as an int64 tensor; TypeError if they are no integers."""
    if isinstance(lengths, Tensor):
        counts = lengths  # its len() would fix the batch size of an exported program
        check_dense("lengths", counts, "(B,)")
    else:
        counts = _from_numbers(lengths)
    if counts.is_floating_point() or counts.is_complex() or counts.dtype == torch.bool:
        raise TypeError(f"lengths must be integers (B,), got {counts.dtype}")
    return counts.to(torch.int64)  # unsigned integers do not compare with others


def _from_numbers(lengths: Sequence[int]) -> Tensor:
    try:
        dtype = None if len(lengths) else torch.int64
        return torch.as_tensor(lengths, dtype=dtype, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        got = type(lengths).__name__
        raise TypeError(f"lengths must be integers (B,), got {got}: {error}") from None


def _checked_lengths(lengths: Lengths, like: Tensor) -> Tensor:
    counts = as_counts(lengths)
    if counts.shape != like.shape[:1]:
        raise ValueError(f"lengths must have shape ({like.shape[0]},), got {tuple(counts.shape)}")
    if (
        _are_known(counts)
        and counts.numel()
        and not 0 <= int(counts.min()) <= int(counts.max()) <= like.shape[1]
    ):
        raise ValueError(f"lengths must lie between 0 and {like.shape[1]}, got {counts.tolist()}")
    return _on_device_of(like, "lengths", counts)


def _are_known(counts: Tensor) -> bool:
    """Whether the numbers may be read: neither on a GPU, nor while a program is traced, nor inside
    a transform of functions.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return (
        type(counts) is Tensor
        and counts.is_cpu
        and not torch._C._len_torch_dispatch_stack()  # such as make_fx
        and not torch._C._functorch.is_functorch_wrapped_tensor(counts)
    )


def _on_device_of(like: Tensor, name: str, values: Tensor) -> Tensor:
    if values.is_meta and not like.is_meta:
        raise ValueError(f"{name} must be on {like.device} or another device, got meta")
    return values.to(like.device)
