"""The reasons against a call of GPU kernels, for any backend of CUDA kernels."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..constant import assume_constant_result
from ..tiers import DTYPES, tier
from . import trust
from .launchers import problem


@dataclass(frozen=True)
class GpuKernels:
    """The CUDA kernels of one backend and their limits.

    Attributes:
        name: the backend's name.
        module: its launchers.
        capability: the oldest compute capability they run on.
        region_channels: most channels of a region in the visual reduction; None for any.
        modalities: most modalities of a layer; None for any.
    """

    name: str
    module: str
    capability: tuple[int, int] = (8, 0)
    region_channels: int | None = None
    modalities: int | None = None

    def reasons(self, op: str, tensors: Sequence[Tensor]) -> list[str]:
        """Why the kernels cannot run ``op`` on these tensors; empty where they can."""
        found = [f"it runs on CUDA tensors, got {t.device}" for t in tensors if not t.is_cuda][:1]
        found += [
            f"it takes float32, bfloat16 and float16, got {t.dtype}"
            for t in tensors
            if t.dtype not in DTYPES
        ][:1]
        if op == "visual_reduction" and tensors and self.region_channels is not None:
            channels = tensors[0].shape[-1]
            if channels > self.region_channels:
                found.append(
                    f"it takes up to {self.region_channels} channels of a region, got {channels}"
                )
        if op == "joint_coattention" and self.modalities is not None:
            count = sum(t.dim() == 2 for t in tensors) // 4  # each has four weights
            if count > self.modalities:
                found.append(f"it takes up to {self.modalities} modalities, got {count}")
        if any(span >= 2**31 for span in (*map(_span, tensors), *_results(op, tensors))):
            found.append("one sample of a tensor spans 2^31 elements or more")
        if not found and tensors and (why := self.problem(op, tensors[0].device.index or 0)):
            found.append(why)
        return found

    def problem(self, op: str, index: int) -> str:
        """Why the kernel of ``op``, or any for "", cannot run on CUDA device ``index``; "" where
        it can.
        """
        return problem(self.module, op) or _old(index, self.capability)

    def cautions(self, op: str, tensors: Sequence[Tensor]) -> list[str]:
        """Why "auto" avoids the kernels: nothing has shown that they are correct on this device."""
        if not tensors:
            return []
        index = tensors[0].device.index or 0
        found = _caution(self.name, self.module, index, tensors[0].dtype)
        return [found] if found else []

    def verdicts(self, index: int) -> dict[str, str]:
        """For each tier, whether "auto" uses the kernels on CUDA device ``index``; starts
        no check.
        """
        why = self.problem("", index)
        if why:
            return {"all tiers": f"not used: {why}"}
        return trust.report(self.name, self.module, index)


@assume_constant_result
def _caution(backend: str, module: str, index: int, dtype: torch.dtype) -> str:
    return trust.caution(backend, module, index, tier(dtype))


@assume_constant_result
def _old(index: int, needed: tuple[int, int]) -> str:
    """Why CUDA device ``index`` is too old for the compute capability ``needed``; "" if it is
    not.
    """
    return _too_old(index, needed)


@functools.cache
def _too_old(index: int, needed: tuple[int, int]) -> str:
    capability = torch.cuda.get_device_capability(index)
    if capability >= needed:
        return ""
    have, least = (".".join(map(str, c)) for c in (capability, needed))
    return f"it needs compute capability {least} or newer, got {have}"


def _span(t: Tensor) -> int:
    """Elements in memory from the first to the last of one sample."""
    return sum(
        (size - 1) * stride for size, stride in zip(t.shape[1:], t.stride()[1:], strict=True)
    )


def _results(op: str, tensors: Sequence[Tensor]) -> list[int]:
    """Elements of one sample of the outputs and of the gradients, which are contiguous."""
    sizes = [t.numel() // (t.shape[0] or 1) for t in tensors]
    if op == "tanh_attention" and len(tensors) == 3:
        sizes.append(tensors[0].shape[1] * tensors[2].shape[2])  # out (M, D)
    if op == "joint_affinity" and len(tensors) == 2:
        sizes.append(tensors[0].shape[1] * tensors[1].shape[1])  # C (M, L)
    return sizes
