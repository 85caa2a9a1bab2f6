"""What the Triton backend can serve, in words: its row in the table of backends."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from ..ops.constant import assume_constant_result

OPS = (
    "tanh_attention",
    "released_attention",
    "joint_affinity",
    "joint_coattention",
    "visual_reduction",
)
DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
CHANNELS = 8192
"""Channels of a region that the visual kernel holds in registers."""


def reasons(op: str, tensors: Sequence[Tensor]) -> list[str]:
    """Why the kernels cannot serve ``op`` on these tensors; empty where they can."""
    found = []
    if op not in OPS:
        found.append(f"it has no kernel for {op}")
    found += [
        f"it serves CUDA tensors, got {t.device}" for t in tensors if t.device.type != "cuda"
    ][:1]
    found += [
        f"it serves float32, bfloat16 and float16, got {t.dtype}"
        for t in tensors
        if t.dtype not in DTYPES
    ][:1]
    if op == "visual_reduction" and tensors and tensors[0].shape[-1] > CHANNELS:
        found.append(f"it serves up to {CHANNELS} channels of a region, got {tensors[0].shape[-1]}")
    if any(span >= 2**31 for span in (*map(_span, tensors), *_results(op, tensors))):
        found.append("one sample of a tensor spans 2^31 elements or more")
    if not found and tensors and (why := problem(tensors[0].device.index or 0)):
        found.append(why)
    return found


def doubts(op: str, tensors: Sequence[Tensor]) -> list[str]:
    """Why "auto" does not use the kernels although they could serve: nothing has shown that they are right here."""
    found = _doubt(tensors[0].device.index or 0, DTYPES[tensors[0].dtype])
    return [found] if found else []


@assume_constant_result
def _doubt(index: int, dtype: str) -> str:
    """Why "auto" must not use the kernels on CUDA device ``index`` for a dtype; "" where it may."""
    from .trust import doubt

    return doubt(index, float32_tier() if dtype == "float32" else dtype)


def float32_tier() -> str:
    """The tier of float32 under the present setting of cuBLAS: "exact" or "tf32".

    ``torch.set_float32_matmul_precision`` sets it too; the function that reads that one raises where each backend has
    a setting of its own.
    """
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "exact"


def _span(t: Tensor) -> int:
    """Elements from the first to the last of one sample, in memory."""
    return sum(
        (size - 1) * stride for size, stride in zip(t.shape[1:], t.stride()[1:], strict=True)
    )


def _results(op: str, tensors: Sequence[Tensor]) -> list[int]:
    """Elements of one sample of what an op allocates and of the gradients, which are contiguous."""
    sizes = [t.numel() // (t.shape[0] or 1) for t in tensors]
    if op == "tanh_attention" and len(tensors) == 3:
        sizes.append(tensors[0].shape[1] * tensors[2].shape[2])  # out (M, D)
    if op == "joint_affinity" and len(tensors) == 2:
        sizes.append(tensors[0].shape[1] * tensors[1].shape[1])  # C (M, L)
    return sizes


@assume_constant_result
def problem(index: int) -> str:
    """Why no kernel can run on CUDA device ``index``; "" where they can."""
    return _found_problem(index)


@functools.cache
def _found_problem(index: int) -> str:
    if torch.version.hip:
        return "it is not offered on ROCm"
    try:
        import triton  # noqa: F401
    except ImportError as error:
        return f"triton cannot be imported: {error}"
    capability = torch.cuda.get_device_capability(index)
    if capability < (8, 0):
        return f"it needs compute capability 8.0 or newer, got {capability[0]}.{capability[1]}"
    return ""
