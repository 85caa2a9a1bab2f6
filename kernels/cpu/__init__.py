"""Native CPU kernels: the launcher of each op through ctypes.

Launchers are named and typed like the ops of :mod:`jca_fast.ops.library`. They allocate contiguous outputs and hand
pointers, sizes and strides to the C ABI of ``abi.h``; inputs are read through their strides, never copied. Where
PyTorch has the stable C shim, ``torch_ops.cpp`` does the same in its dispatcher with less overhead, and these are not
called.
"""

from __future__ import annotations

import struct
from itertools import chain

from torch import Tensor

from jca_fast.ops.dropout import threshold

from .native import DTYPES, call, describe, load

__all__ = [
    "describe",
    "joint_affinity",
    "joint_affinity_backward",
    "joint_coattention",
    "joint_coattention_backward",
    "problem",
    "released_attention",
    "released_attention_backward",
    "tanh_attention",
    "tanh_attention_backward",
    "visual_reduction",
    "visual_reduction_backward",
]

# The structs of abi.h, field by field: q int64, d double, P pointer.
Matrix = tuple[int, int, int, int]
_MATRIX, _WEIGHT = "Pqqq", "Pqq"
_NONE = (0, 0, 0, 0)
_TANH = struct.Struct("11qd" + 8 * _MATRIX)
_AFFINITY = struct.Struct("6qd" + 6 * _MATRIX)
_LAYER = struct.Struct("8q")
_MODALITY = struct.Struct("3qd" + 2 * _MATRIX + 4 * _WEIGHT + 4 * _MATRIX + 4 * _WEIGHT)
_REDUCTION = struct.Struct("5qd" + _WEIGHT + _MATRIX + 5 * _WEIGHT + _MATRIX)


def problem() -> str:
    """Why these kernels cannot run on this machine; "" where they can."""
    return load()[1]


def _matrix(t: Tensor) -> Matrix:
    if not t.is_cpu:
        raise RuntimeError(f"the cpu kernels serve CPU tensors, got {t.device}")
    return (t.data_ptr(), *t.stride())


def _dropout(p: float, seed: Tensor | None) -> tuple[int, int]:
    """Threshold in 1/65536 and the seed as an integer."""
    return (0, 0) if seed is None else (threshold(p), int(seed))


def _tanh_block(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    p: float,
    seed: Tensor | None,
    activate: bool,
    *rest: Matrix,
) -> bytes:
    (batch, m, n), (_, length, _), d = q.shape, k.shape, v.shape[2]
    sizes = (_TANH.size, DTYPES[q.dtype], batch, m, length, n, d, v.shape[0] != batch, activate)
    matrices = (_matrix(q), _matrix(k), _matrix(v), *rest, *(5 - len(rest)) * (_NONE,))
    return _TANH.pack(*sizes, *_dropout(p, seed), scale, *chain.from_iterable(matrices))


def tanh_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, dropout_p: float, seed: Tensor | None
) -> Tensor:
    """q (B, M, N), k (B, L, N), v (B or 1, L, D) -> out (B, M, D)."""
    out = q.new_empty((q.shape[0], q.shape[1], v.shape[2]))
    call(
        "jca_tanh_attention_forward",
        _tanh_block(q, k, v, scale, dropout_p, seed, False, _matrix(out)),
    )
    return out


def tanh_attention_backward(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """grad_out (B, M, D) -> dq (B, M, N), dk (B, L, N), dv (B or 1, L, D)."""
    grads = q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)
    targets = (_NONE, _matrix(grad_out), *map(_matrix, grads))
    call(
        "jca_tanh_attention_backward", _tanh_block(q, k, v, scale, dropout_p, seed, False, *targets)
    )
    return grads


def released_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, dropout_p: float, seed: Tensor | None
) -> Tensor:
    """query (B, N, d), key and value (B, N, d_x) -> relu(tanh(value tanh(scale keyᵀ query))) (B, N, d)."""
    out = query.new_empty(query.shape)
    block = _tanh_block(query.mT, key.mT, value.mT, scale, dropout_p, seed, True, _matrix(out.mT))
    call("jca_tanh_attention_forward", block)
    return out


def released_attention_backward(
    grad_out: Tensor, out: Tensor, query: Tensor, key: Tensor, value: Tensor, scale: float, dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """grad_out, out (B, N, d) -> the gradients of query (B, N, d), key and value (B, N, d_x)."""
    grads = query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)
    targets = (_matrix(t.mT) for t in (out, grad_out, *grads))
    block = _tanh_block(query.mT, key.mT, value.mT, scale, dropout_p, seed, True, *targets)
    call("jca_tanh_attention_backward", block)
    return grads


def _affinity_block(q: Tensor, k: Tensor, scale: float, *rest: object) -> bytes:
    return _AFFINITY.pack(_AFFINITY.size, DTYPES[q.dtype], *q.shape[:2], *k.shape[1:], scale, *rest)


def joint_affinity(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """q (B, M, N), k (B, L, N) -> C (B, M, L)."""
    out = q.new_empty((*q.shape[:2], k.shape[1]))
    block = (*_matrix(q), *_matrix(k), *_matrix(out), *3 * _NONE)
    call(
        "jca_affinity_forward",
        _AFFINITY.pack(_AFFINITY.size, DTYPES[q.dtype], *q.shape[:2], *k.shape[1:], scale, *block),
    )
    return out


def joint_affinity_backward(
    grad_c: Tensor, q: Tensor, k: Tensor, c: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """grad_c (B, M, L) -> dq (B, M, N), dk (B, L, N)."""
    grads = q.new_empty(q.shape), k.new_empty(k.shape)
    block = (x for t in (q, k, c, grad_c, *grads) for x in _matrix(t))
    call(
        "jca_affinity_backward",
        _AFFINITY.pack(_AFFINITY.size, DTYPES[q.dtype], *q.shape[:2], *k.shape[1:], scale, *block),
    )
    return grads


def joint_coattention(
    inputs: list[Tensor], joints: list[Tensor], w_j: list[Tensor], w_x: list[Tensor], w_c: list[Tensor],
    w_h: list[Tensor], scales: list[float], dropout_p: float, seed: Tensor | None, keep_maps: bool,
) -> list[Tensor]:  # fmt: skip
    """inputs (B, N, d_i) -> X' (B, N, d_i) of every modality, with ``keep_maps`` followed by every H (B, k, d_i)."""
    outs = [x.new_empty(x.shape) for x in inputs]
    maps = [
        x.new_empty((x.shape[0], w.shape[0], x.shape[2])) for x, w in zip(inputs, w_x, strict=True)
    ]
    blocks = []
    for i, weights in enumerate(zip(w_j, w_x, w_c, w_h, strict=True)):
        kept = _matrix(maps[i]) if keep_maps else _NONE
        tensors = (
            *_operands(inputs, joints, weights, i),
            *kept,
            *_matrix(outs[i]),
            *2 * _NONE,
            *12 * (0,),
        )
        blocks.append(_MODALITY.pack(*_modality_sizes(inputs[i], weights, scales[i]), *tensors))
    call("jca_coattention_forward", _layer_head(inputs, joints, dropout_p, seed) + b"".join(blocks))
    return outs + maps if keep_maps else outs


def joint_coattention_backward(
    grad_outs: list[Tensor], maps: list[Tensor], inputs: list[Tensor], joints: list[Tensor], w_j: list[Tensor],
    w_x: list[Tensor], w_c: list[Tensor], w_h: list[Tensor], scales: list[float], dropout_p: float, seed: Tensor | None,
) -> list[Tensor]:  # fmt: skip
    """The gradients of inputs, joints, w_j, w_x, w_c and w_h, in this order."""
    groups = (inputs, joints, w_j, w_x, w_c, w_h)
    grads = [[t.new_empty(t.shape) for t in group] for group in groups]
    blocks = []
    for i, weights in enumerate(zip(w_j, w_x, w_c, w_h, strict=True)):
        grad_joint = _matrix(grads[1][i]) if i < len(joints) else _NONE
        targets = (
            *_matrix(grads[0][i]),
            *grad_joint,
            *(x for group in grads[2:] for x in _matrix(group[i])),
        )
        tensors = (
            *_operands(inputs, joints, weights, i),
            *_matrix(maps[i]),
            *_matrix(grad_outs[i]),
            *targets,
        )
        blocks.append(_MODALITY.pack(*_modality_sizes(inputs[i], weights, scales[i]), *tensors))
    call(
        "jca_coattention_backward", _layer_head(inputs, joints, dropout_p, seed) + b"".join(blocks)
    )
    return [t for group in grads for t in group]


def _layer_head(inputs: list[Tensor], joints: list[Tensor], p: float, seed: Tensor | None) -> bytes:
    count, first = len(inputs), inputs[0]
    size = _LAYER.size + count * _MODALITY.size
    return _LAYER.pack(
        size, DTYPES[first.dtype], *first.shape[:2], count, len(joints), *_dropout(p, seed)
    )


def _modality_sizes(
    x: Tensor, weights: tuple[Tensor, ...], scale: float
) -> tuple[int, int, int, float]:
    attention, joint_width = weights[2].shape
    return x.shape[2], joint_width, attention, scale


def _operands(
    inputs: list[Tensor], joints: list[Tensor], weights: tuple[Tensor, ...], i: int
) -> tuple[int, ...]:
    joint = _matrix(joints[i if len(joints) > 1 else 0]) if joints else _NONE
    return (*_matrix(inputs[i]), *joint, *(x for w in weights for x in _matrix(w)))


def visual_reduction(query: Tensor, regions: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """query (S, D), regions (S, R, D) -> out (S, D), weights (S, R)."""
    out, weights = query.new_empty(query.shape), query.new_empty(regions.shape[:2])
    block = (
        *_matrix(query),
        *_matrix(regions),
        *_matrix(weights),
        *_matrix(out),
        *9 * (0,),
        *_NONE,
    )
    call(
        "jca_reduction_forward",
        _REDUCTION.pack(_REDUCTION.size, DTYPES[query.dtype], *regions.shape, scale, *block),
    )
    return out, weights


def visual_reduction_backward(
    grad_out: Tensor, grad_weights: Tensor, query: Tensor, regions: Tensor, weights: Tensor, scale: float,
    need_regions: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """grad_out (S, D), grad_weights (S, R) -> dquery (S, D), dregions (S, R, D) or empty."""
    grad_query = query.new_empty(query.shape)
    grad_regions = regions.new_empty(regions.shape if need_regions else (0,))
    tensors = (query, regions, weights, None, grad_out, grad_weights, grad_query)
    block = [x for t in tensors for x in ((0, 0, 0) if t is None else _matrix(t))]
    block += _matrix(grad_regions) if need_regions else _NONE
    call(
        "jca_reduction_backward",
        _REDUCTION.pack(_REDUCTION.size, DTYPES[query.dtype], *regions.shape, scale, *block),
    )
    return grad_query, grad_regions
