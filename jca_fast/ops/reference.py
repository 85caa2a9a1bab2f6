"""The oracle: every op in plain PyTorch, on any device, in any floating dtype, differentiable to
any order.

Shapes: B batch, N segments, M and L channels (rows and columns of the affinity matrix), D value
width, S segments of the whole batch, R regions, d_x channels of one modality, d channels of the
joint feature, k attention width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .dropout import fold_seed, keep_mask, keep_scale, threshold

Tensors = Sequence[Tensor]


def _apply_dropout(c: Tensor, dropout_p: float, seed: Tensor | None) -> Tensor:
    """The affinity matrix (B, M, L) with dropout; ``seed`` is None without dropout."""
    if seed is None:
        return c
    return c.masked_fill(~keep_mask(seed, dropout_p, *c.shape), 0) * keep_scale(dropout_p)


def tanh_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, dropout_p: float, seed: Tensor | None
) -> Tensor:
    c = torch.tanh(q @ k.mT * scale)  # (B, M, L)
    return _apply_dropout(c, dropout_p, seed) @ v  # (B, M, D)


def tanh_attention_backward(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    c = torch.tanh(q @ k.mT * scale)  # (B, M, L)
    grad_c = _apply_dropout(grad_out @ v.mT, dropout_p, seed)  # (B, M, L)
    grad_s = grad_c * (1 - c * c) * scale  # (B, M, L)
    grad_v = _apply_dropout(c, dropout_p, seed).mT @ grad_out  # (B, L, D)
    if v.shape[0] == 1 and q.shape[0] != 1:
        grad_v = grad_v.sum(0, keepdim=True)  # (1, L, D)
    return grad_s @ k, grad_s.mT @ q, grad_v


def released_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
    attention: Callable[..., Tensor] = tanh_attention,
) -> Tensor:
    o = attention(query.mT, key.mT, value.mT, scale, dropout_p, seed)  # (B, d, N)
    return torch.relu(torch.tanh(o.mT))  # (B, N, d)


def released_attention_backward(
    grad_out: Tensor,
    out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
    attention_backward: Callable[..., tuple[Tensor, Tensor, Tensor]] = tanh_attention_backward,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_o = grad_out.masked_fill(out <= 0, 0) * (1 - out * out)  # (B, N, d)
    grads = attention_backward(grad_o.mT, query.mT, key.mT, value.mT, scale, dropout_p, seed)
    return grads[0].mT, grads[1].mT, grads[2].mT


def tanh_dropout(scores: Tensor, scale: float, dropout_p: float, seed: Tensor | None) -> Tensor:
    return _apply_dropout(torch.tanh(scores * scale), dropout_p, seed)  # (B, M, L)


def tanh_dropout_backward(
    grad_out: Tensor, out: Tensor, scale: float, dropout_p: float, seed: Tensor | None
) -> Tensor:
    c = out if seed is None else out * (1 - threshold(dropout_p) / 65536)  # tanh, where kept
    return _apply_dropout(grad_out, dropout_p, seed) * (1 - c * c) * scale  # (B, M, L)


def joint_affinity(q: Tensor, k: Tensor, scale: float) -> Tensor:
    return torch.tanh(q @ k.mT * scale)  # (B, M, L)


def joint_affinity_backward(
    grad_c: Tensor, q: Tensor, k: Tensor, c: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    grad_s = grad_c * (1 - c * c) * scale  # (B, M, L)
    return grad_s @ k, grad_s.mT @ q


def joints_of(inputs: Tensors, joints: Tensors) -> list[Tensor]:
    """The joint feature each modality attends to: one concatenation for all, one given for all, or
    one for each.
    """
    if len(joints) == len(inputs):
        return list(joints)
    shared = joints[0] if joints else torch.cat(list(inputs), dim=-1)  # (B, N, d)
    return [shared] * len(inputs)


def joint_coattention(
    inputs: Tensors,
    joints: Tensors,
    w_j: Tensors,
    w_x: Tensors,
    w_c: Tensors,
    w_h: Tensors,
    scales: Sequence[float],
    dropout_p: float,
    seed: Tensor | None,
    keep_maps: bool,
    residual: bool = True,
    attention: Callable[..., Tensor] = tanh_attention,
) -> list[Tensor]:
    """X' of every modality, without its first term X where ``residual`` is False. With
    ``keep_maps`` the H (B, k, d_x) of every modality follow.
    """
    out, maps = [], []
    for i, (x, joint) in enumerate(zip(inputs, joints_of(inputs, joints), strict=True)):
        key = w_j[i] @ joint  # (B, N, d)
        o = attention(
            x.mT, key.mT, w_c[i].mT[None], scales[i], dropout_p, _fold(seed, i)
        )  # (B, d_x, k)
        maps.append(torch.relu(w_x[i] @ x + o.mT))  # (B, k, d_x)
        update = w_h[i].mT @ maps[-1]  # (B, N, d_x)
        out.append(x + update if residual else update)
    return out + maps if keep_maps else out


def _fold(seed: Tensor | None, index: int) -> Tensor | None:
    return None if seed is None else fold_seed(seed, index)


def joint_coattention_backward(
    grad_outs: Tensors,
    maps: Tensors,
    inputs: Tensors,
    joints: Tensors,
    w_j: Tensors,
    w_x: Tensors,
    w_c: Tensors,
    w_h: Tensors,
    scales: Sequence[float],
    dropout_p: float,
    seed: Tensor | None,
    residual: bool = True,
    attention_backward: Callable[..., tuple[Tensor, Tensor, Tensor]] = tanh_attention_backward,
) -> list[Tensor]:
    """Gradients in the order inputs, joints, w_j, w_x, w_c, w_h."""
    grad_x = []
    grad_joint = []
    grad_w = []
    for i, (x, joint) in enumerate(zip(inputs, joints_of(inputs, joints), strict=True)):
        seed_i = _fold(seed, i)
        key = w_j[i] @ joint  # (B, N, d)
        grad_h = (w_h[i] @ grad_outs[i]).masked_fill(maps[i] <= 0, 0)  # (B, k, d_x)
        grad_q, grad_k, grad_v = attention_backward(
            grad_h.mT, x.mT, key.mT, w_c[i].mT[None], scales[i], dropout_p, seed_i
        )  # (B, d_x, N), (B, d, N), (1, d, k)
        direct = grad_outs[i] + w_x[i].mT @ grad_h if residual else w_x[i].mT @ grad_h
        grad_x.append(direct + grad_q.mT)  # (B, N, d_x)
        grad_joint.append(w_j[i].mT @ grad_k.mT)  # (B, N, d)
        grad_w.append(
            (
                (grad_k.mT @ joint.mT).sum(0),  # (N, N)
                (grad_h @ x.mT).sum(0),  # (k, N)
                grad_v[0].mT,  # (k, d)
                (maps[i] @ grad_outs[i].mT).sum(0),  # (k, N)
            )
        )
    if len(joints) != len(inputs):
        grad_joint = [torch.stack(grad_joint).sum(0)]
    if not joints:
        parts = grad_joint[0].split([x.shape[-1] for x in inputs], dim=-1)
        grad_x, grad_joint = [g + part for g, part in zip(grad_x, parts, strict=True)], []
    return [*grad_x, *grad_joint, *(g for group in zip(*grad_w, strict=True) for g in group)]


def visual_reduction(query: Tensor, regions: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    scores = (regions @ query[:, :, None])[..., 0] * scale  # (S, R)
    weights = torch.softmax(scores, dim=-1)  # (S, R)
    return (weights[:, None] @ regions)[:, 0], weights  # (S, D), (S, R)


def visual_reduction_backward(
    grad_out: Tensor,
    grad_weights: Tensor,
    query: Tensor,
    regions: Tensor,
    weights: Tensor,
    scale: float,
    need_regions: bool,
) -> tuple[Tensor, Tensor]:
    grad_a = grad_weights + (regions @ grad_out[:, :, None])[..., 0]  # (S, R)
    grad_s = weights * (grad_a - (weights * grad_a).sum(-1, keepdim=True)) * scale  # (S, R)
    grad_query = (grad_s[:, None] @ regions)[:, 0]  # (S, D)
    if not need_regions:
        return grad_query, regions.new_empty(0)
    grad_regions = weights[..., None] * grad_out[:, None] + grad_s[..., None] * query[:, None]
    return grad_query, grad_regions  # (S, D), (S, R, D)
