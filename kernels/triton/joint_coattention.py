"""Launchers of a whole paper layer, forward and backward, whatever the number of modalities.

The forward is one launch. The backward takes four:

1. the prepare kernel: Q and dH of all modalities, and partial sums of dW_x and dW_h;
2. the attention's backward for every pair of a modality and a part of its joint feature;
3. the finish kernel: dX, and partial sums of dW_j;
4. the sums of all partial results.

The exact tier takes one launch more. Sizes too large for one program use the kernels of tanh attention instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jca_fast.ops import reference
from jca_fast.ops.dropout import keep_scale, threshold

from . import table
from .joint_coattention_backward import Finish, Prepare, finish_kernel, prepare_kernel
from .joint_coattention_forward import Modality, layer_kernel
from .launch import alike, architecture, cdiv, launch, pad, tier
from .tanh_attention import (
    backward_config,
    dropout,
    group_sizes,
    launch_backward,
    launch_sums,
    partial_sum,
    single_pass,
    tanh_attention,
    tanh_attention_backward,
)
from .tanh_attention_backward import Problem, Sum
from .tiles import Operand, operand, shared, transposed

Tensors = Sequence[Tensor]


LARGEST = {"half": (32, 128), "tf32": (32, 64), "exact": (16, 32)}
"""Most segments, and most attention width, that the registers of one program can hold."""


def fits(inputs: Tensors, w_x: Tensors) -> bool:
    """Whether one program can hold all segments and all of the attention width."""
    segments, width = LARGEST[tier(inputs[0].dtype)]
    return inputs[0].shape[1] <= segments and widest(w_x) <= width


def widest(w_x: Tensors) -> int:
    """The largest attention width k of the modalities, each of which has its own."""
    return max(w.shape[0] for w in w_x)


def parts_of(inputs: Tensors, joints: Tensors) -> list[Tensors]:
    """The parts of each modality's joint feature: the modalities, or what was given."""
    if not joints:
        return [inputs] * len(inputs)
    return [[joints[i % len(joints)]] for i in range(len(inputs))]


def joint_coattention(
    inputs: Tensors, joints: Tensors, w_j: Tensors, w_x: Tensors, w_c: Tensors, w_h: Tensors,
    scales: Sequence[float], dropout_p: float, seed: Tensor | None, keep_maps: bool,
) -> list[Tensor]:  # fmt: skip
    """X' (B, N, d_i) of every modality; with ``keep_maps`` then H (B, k, d_i) of every modality."""
    if not fits(inputs, w_x):
        args = (inputs, joints, w_j, w_x, w_c, w_h, scales, dropout_p, seed, keep_maps)
        return [
            x.contiguous() for x in reference.joint_coattention(*args, attention=tanh_attention)
        ]
    level = tier(inputs[0].dtype)
    (batch, segments), width = inputs[0].shape[:2], widest(w_x)
    outs = [x.new_empty(x.shape) for x in inputs]
    maps = [
        x.new_empty((batch, w.shape[0], x.shape[2]))
        for x, w in zip(inputs, w_x, strict=True)
        if keep_maps
    ]
    modalities = tuple(
        Modality(
            transposed(x), tuple(transposed(part) for part in parts),
            shared(w_j[i]), shared(w_x[i]), transposed(w_c[i][None]), shared(w_h[i]), transposed(outs[i]),
            transposed((maps if keep_maps else outs)[i]), scales[i],
        )
        for i, (x, parts) in enumerate(zip(inputs, parts_of(inputs, joints), strict=True))
    )  # fmt: skip
    rows = [x.shape[2] for x in inputs]
    config = table.forward(
        architecture(inputs[0].device), level, batch * sum(rows), segments, width
    )
    launch(
        layer_kernel,
        (batch * cdiv(max(rows), config.rows), len(modalities)),
        modalities, batch, seed, threshold(dropout_p), keep_scale(dropout_p),
        ALIKE=alike(modalities), EXACT=level == "exact", KEEP_MAPS=keep_maps,
        DROPOUT=dropout(seed, (part.rows for m in modalities for part in m.parts[:-1])),
        BM=config.rows, BN=config.columns, BK=table.contraction_blocks(segments, level == "exact")["BK"],
        BO=pad(segments), BD=pad(width), num_warps=config.warps, num_stages=config.stages,
    )  # fmt: skip
    return outs + maps if keep_maps else outs


def row_tile(segments: int, width: int) -> dict[str, int]:
    """Rows and warps of one program of the prepare and finish kernels: the most that no chip spills."""
    return (
        {"BM": 32, "num_warps": 4} if segments <= 16 and width <= 32 else {"BM": 16, "num_warps": 8}
    )


def joint_coattention_backward(
    grad_outs: Tensors, maps: Tensors, inputs: Tensors, joints: Tensors, w_j: Tensors, w_x: Tensors, w_c: Tensors,
    w_h: Tensors, scales: Sequence[float], dropout_p: float, seed: Tensor | None,
) -> list[Tensor]:  # fmt: skip
    """Gradients in the order inputs, joints, w_j, w_x, w_c, w_h; ``maps`` are the H (B, k, d_i) of the forward."""
    groups = (inputs, joints, w_j, w_x, w_c, w_h)
    if inputs[0].shape[0] == 0:
        return [t.new_zeros(t.shape) for group in groups for t in group]
    if not fits(inputs, w_x):
        args = (grad_outs, maps, *groups, scales, dropout_p, seed)
        composed = reference.joint_coattention_backward(
            *args, attention_backward=tanh_attention_backward
        )
        return [g.contiguous() for g in composed]
    grads = [[t.new_empty(t.shape) for t in group] for group in groups]
    w_j, w_x, w_h, maps = ([t.contiguous() for t in group] for group in (w_j, w_x, w_h, maps))
    tile = row_tile(inputs[0].shape[1], widest(w_h))
    prepared, sums = _prepare(grad_outs, maps, inputs, w_j, w_x, w_h, scales, grads, tile)
    core = _attention_backward(prepared, inputs, joints, w_c, grads[1], dropout_p, seed)
    sums += [partial_sum(partial, out) for partial, out in zip(core.dw_c, grads[4], strict=True)]
    sums += _finish(prepared, core, joints, grads, tile)
    if len(joints) == 1:
        sums.append(partial_sum(core.dj, grads[1][0]))
    launch_sums(sums)
    return [g for group in grads for g in group]


def _over_rows(kernel: Any, modalities: Sequence[Prepare | Finish], **meta: Any) -> None:
    """Launch the prepare or the finish kernel over row tiles, groups of samples and modalities."""
    x, batch = modalities[0].x, modalities[0].x.p.shape[0]
    per_group, groups = group_sizes(batch)
    launch(
        kernel,
        (cdiv(max(m.x.rows for m in modalities), meta["BM"]), groups, len(modalities)),
        tuple(modalities), batch, per_group,
        EXACT=tier(x.p.dtype) == "exact", BO=pad(x.columns), num_stages=1, **meta,
    )  # fmt: skip


def _partials(x: Operand, grad: Tensor, rows: int) -> Tensor:
    """Room for one partial sum of the gradient of a small weight from each program of :func:`_over_rows`."""
    programs = cdiv(x.rows, rows) * group_sizes(x.p.shape[0])[1]
    return grad.new_empty((programs, *grad.shape), dtype=torch.float32)


def _prepare(
    grad_outs: Tensors, maps: Tensors, inputs: Tensors, w_j: Tensors, w_x: Tensors, w_h: Tensors,
    scales: Sequence[float], grads: Sequence[Tensors], tile: dict[str, int],
) -> tuple[list[Prepare], list[Sum]]:  # fmt: skip
    """The first launch; returns also the sums that are left to do for W_x and W_h."""
    prepared, sums = [], []
    for i, x in enumerate(inputs):
        batch, segments, d = x.shape
        channels = transposed(x)
        partials = [_partials(channels, grads[j][i], tile["BM"]) for j in (3, 5)]
        sums += [partial_sum(p, grads[j][i]) for p, j in zip(partials, (3, 5), strict=True)]
        q, dh = (x.new_empty((batch, d, size)) for size in (segments, w_h[i].shape[0]))
        dx = x.new_empty(x.shape, dtype=torch.float32)
        read = (channels, transposed(grad_outs[i]), maps[i], w_j[i], w_x[i], w_h[i])
        prepared.append(Prepare(*read, q, dh, dx, *partials, w_h[i].shape[0], scales[i]))
    _over_rows(prepare_kernel, prepared, ALIKE=alike(prepared), BD=pad(widest(w_h)), **tile)
    return prepared, sums


class Core(NamedTuple):
    """Results of the attention's backward, mostly as partial sums over their first dimension.

    dq[i] (tiles * B, d_x, N); dw_c[i] (groups, k, d); dj (modalities, B, N, d) where J is the modalities or is shared,
    else None: then the gradients of J are final.
    """

    dq: list[Tensor]
    dw_c: list[Tensor]
    dj: Tensor | None


def _attention_backward(
    prepared: Sequence[Prepare], inputs: Tensors, joints: Tensors, w_c: Tensors, grad_joints: Tensors,
    dropout_p: float, seed: Tensor | None,
) -> Core:  # fmt: skip
    """The second launch: every modality with every part of its joint feature."""
    (batch, segments), width, level = inputs[0].shape[:2], widest(w_c), tier(inputs[0].dtype)
    per_group, groups = group_sizes(batch)
    once = single_pass(level, segments)

    def scratch(*shape: int) -> Tensor:
        return inputs[0].new_empty(shape, dtype=torch.float32)

    own = len(joints) == len(inputs)
    dj = None if own else scratch(len(inputs), batch, segments, w_c[0].shape[1])
    all_parts = parts_of(inputs, joints)
    columns = batch * sum(p.shape[2] for parts in all_parts for p in parts)
    config = backward_config(inputs[0].device, level, columns, segments, width)
    problems, dqs, dw_cs = [], [], []
    for i, (m, parts) in enumerate(zip(prepared, all_parts, strict=True)):
        dw_cs.append(scratch(groups, *w_c[i].shape))
        firsts = [0, *accumulate(p.shape[2] for p in parts)]
        target = grad_joints[i] if own else dj[i]  # (B, N, d)
        slots = [
            0,
            *accumulate(cdiv(p.shape[2], config.columns) * batch if once else batch for p in parts),
        ]
        dqs.append(scratch(slots[-1], m.x.rows, segments))
        q, g = operand(m.q), operand(m.dh)
        for j, part in enumerate(parts):
            first, size = firsts[j], part.shape[2]
            v, dk, dv = (t.narrow(-1, first, size) for t in (w_c[i][None], target, dw_cs[i]))
            k, v, dk, dv = (transposed(t) for t in (part, v, dk, dv))
            dq = operand(dqs[i].narrow(0, slots[j], slots[j + 1] - slots[j]))
            problems.append(Problem(q, k, v, g, dk, dv, dq, 1.0, 2 * i, first))
    args = ((segments, width), dropout_p, seed)
    launch_backward(
        problems, config, level, (batch, per_group, groups), *args, "all" if once else "dk dv"
    )
    if not once:
        swapped = [p._replace(q=p.k, k=p.q, v=p.g, g=p.v, dk=p.dq) for p in problems]
        launch_backward(swapped, config, level, (batch, 1, batch), *args, "dq")
    return Core(dqs, dw_cs, dj)


def _finish(
    prepared: Sequence[Prepare],
    core: Core,
    joints: Tensors,
    grads: Sequence[Tensors],
    tile: dict[str, int],
) -> list[Sum]:
    """The third launch; returns the sums that are left to do for W_j."""
    finishes, sums = [], []
    firsts = [0, *accumulate(m.x.rows for m in prepared)]
    for i, m in enumerate(prepared):
        dw_j = _partials(m.x, grads[2][i], tile["BM"])
        sums.append(partial_sum(dw_j, grads[2][i]))
        dj = () if joints else tuple(d.narrow(-1, firsts[i], m.x.rows) for d in core.dj)
        tiles = core.dq[i].shape[0] // m.q.shape[0]
        finishes.append(
            Finish(m.x, m.w_j, m.dx, core.dq[i], dj, grads[0][i], dw_j, tiles, firsts[-1], m.scale)
        )
    same = alike(finishes)
    # Without a limit ptxas takes 80 or 96 registers to fit one program more on an SM, and spills a few others.
    _over_rows(finish_kernel, finishes, ALIKE=same, maxnreg=128 if same else 168, **tile)
    return sums
