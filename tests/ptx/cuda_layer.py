"""Plans of whole layers of the CUDA kernels, executed."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from jca_fast.ops.dropout import threshold

from . import cuda_device
from .cuda_device import TIERS, Matrix

MODALITIES = 12
"""``JCA_CUDA_MODALITIES``."""
GROUPS = ("inputs", "joints", "w_j", "w_x", "w_c", "w_h")


class Modality(ctypes.Structure):
    """``jca_cuda_modality``."""

    _fields_ = [
        ("d", ctypes.c_int64),
        ("k", ctypes.c_int64),
        ("scale", ctypes.c_double),
        *((name, Matrix) for name in ("x", "w_j", "w_x", "w_c", "w_h", "h", "out", "grad_out")),
        *((name, ctypes.c_uint64) for name in ("dx", "dw_j", "dw_x", "dw_c", "dw_h")),
    ]


class Joint(ctypes.Structure):
    """``jca_cuda_joint``."""

    _fields_ = [("d", ctypes.c_int64), ("x", Matrix), ("dx", ctypes.c_uint64)]


class JointCoattention(ctypes.Structure):
    """``jca_cuda_joint_coattention``."""

    _fields_ = [
        ("batch", ctypes.c_int64),
        ("n", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("tier", "modalities", "joints", "residual")),
        ("dropout_threshold", ctypes.c_int64),
        ("seed", ctypes.c_uint64),
        ("modality", Modality * MODALITIES),
        ("joint", Joint * MODALITIES),
        ("workspace", ctypes.c_uint64),
        ("workspace_size", ctypes.c_int64),
    ]


@dataclass
class Call(cuda_device.Call):
    """A layer; its tensors by their names below, like ``modality 0 w_j``."""

    values: JointCoattention
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def add(self, array: str, name: str, group: Sequence[Tensor]) -> None:
        self.tensors |= {f"{array} {i} {name}": t for i, t in enumerate(group)}

    def place(self, addresses: dict[int, int]) -> None:
        for where, t in self.tensors.items():
            array, i, name = where.split()
            start, strides = t.untyped_storage().data_ptr(), (0, *t.stride())[-3:]
            address = addresses[start] + t.data_ptr() - start
            matrix = Matrix(address, (ctypes.c_int64 * 3)(*strides))
            item = getattr(self.values, array)[int(i)]
            setattr(item, name, address if name.startswith("d") else matrix)


def layer_call(
    tier: str,
    groups: Sequence[Sequence[Tensor]],
    scales: Sequence[float],
    p: float,
    seed: Tensor | None,
    residual: bool,
) -> Call:
    """A call with its inputs, joints and weights; results are added to it."""
    inputs, joints, _, w_x, *_ = groups
    values = JointCoattention(
        batch=inputs[0].shape[0], n=inputs[0].shape[1], tier=TIERS.index(tier),
        modalities=len(inputs), joints=len(joints), residual=residual,
        dropout_threshold=threshold(p),
    )  # fmt: skip
    for i, (x, w, scale) in enumerate(zip(inputs, w_x, scales, strict=True)):
        m = values.modality[i]
        m.d, m.k, m.scale = x.shape[2], w.shape[0], scale
    for i, x in enumerate(joints):
        values.joint[i].d = x.shape[2]
    call = Call(values, seed=seed)
    for name, group in zip(GROUPS, groups, strict=True):
        place = ("joint", "x") if name == "joints" else ("modality", name.replace("inputs", "x"))
        call.add(*place, group)
    return call


def add_gradients(call: Call, grads: Sequence[Sequence[Tensor]]) -> None:
    """Where the backward writes: grouped like the inputs, joints and weights."""
    for name, group in zip(GROUPS, grads, strict=True):
        array = "joint" if name == "joints" else "modality"
        call.add(array, "dx" if name in ("inputs", "joints") else f"d{name}", group)


class Device(cuda_device.Device):
    """Executes whole layers too, with the signatures of the launchers."""

    def joint_coattention(self, *args: Any) -> list[Tensor]:
        groups, (scales, p, seed, keep_maps, *rest) = args[:6], args[6:]
        call = layer_call(self.tier, groups, scales, p, seed, *(rest or (True,)))
        outs = [torch.full_like(x, torch.nan) for x in groups[0]]  # transposed where x is
        call.add("modality", "out", outs)
        maps = []
        if keep_maps:
            maps = [
                cuda_device.poison(x.shape[0], w.shape[0], x.shape[2], like=x)
                for x, w in zip(groups[0], groups[3], strict=True)
            ]
        call.add("modality", "h", maps)
        self.run("joint_coattention", call)
        return outs + maps

    def joint_coattention_backward(self, *args: Any) -> list[Tensor]:
        grad_outs, maps, *groups = args[:8]
        scales, p, seed, *rest = args[8:]
        call = layer_call(self.tier, groups, scales, p, seed, *(rest or (True,)))
        call.add("modality", "grad_out", grad_outs)
        call.add("modality", "h", maps)
        grads = [[cuda_device.poison(*t.shape, like=t) for t in group] for group in groups]
        add_gradients(call, grads)
        self.run("joint_coattention_backward", call)
        return [t for group in grads for t in group]
