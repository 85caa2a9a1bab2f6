"""The passes of a paper layer's backward: prepare, attention and finish."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import table
from .joint_coattention_backward import (
    Finish,
    Prepare,
    joint_coattention_finish_kernel,
    joint_coattention_prepare_kernel,
)
from .joint_coattention_layer import Layer, Tensors
from .launch import alike, cdiv, launch, pad, tier
from .mask import Dropout
from .operands import Operand, operand, transposed
from .sums import Sum, group_sizes, partial_sum
from .tanh_attention import backward_config, launch_backward, swap_roles
from .tanh_attention_backward import COLUMN_PASS, ONE_PASS, ROW_PASS, Problem, Samples


def _launch_rows(kernel: Any, modalities: Sequence[Prepare | Finish], **meta: Any) -> None:
    """Launch the prepare or the finish kernel over row tiles, groups of samples and modalities."""
    x = modalities[0].x
    batch = x.p.shape[0]
    per_group, groups = group_sizes(batch)
    launch(
        kernel,
        (cdiv(max(m.x.rows for m in modalities), meta["BM"]), groups, len(modalities)),
        tuple(modalities),
        batch,
        per_group,
        EXACT=tier(x.p.dtype) == "exact",
        BO=pad(x.columns),
        num_stages=1,
        **meta,
    )


def _partials(x: Operand, grad: Tensor, rows: int) -> Tensor:
    """Memory for the partial sums of a small weight's gradient, one per program."""
    programs = cdiv(x.rows, rows) * group_sizes(x.p.shape[0])[1]
    return grad.new_empty((programs, *grad.shape), dtype=torch.float32)


def prepare(
    layer: Layer,
    grad_outs: Tensors,
    maps: Tensors,
    scales: Sequence[float],
    grads: Layer,
    tile: dict[str, int],
    residual: bool,
) -> tuple[list[Prepare], list[Sum]]:
    """The first launch. It also returns the pending sums of W_x and W_h."""
    prepared, sums = [], []
    for i, x in enumerate(layer.inputs):
        batch, segments, d = x.shape
        width = layer.w_h[i].shape[0]
        channels = transposed(x)
        dw_x = _partials(channels, grads.w_x[i], tile["BM"])
        dw_h = _partials(channels, grads.w_h[i], tile["BM"])
        sums += [partial_sum(dw_x, grads.w_x[i]), partial_sum(dw_h, grads.w_h[i])]
        prepared.append(
            Prepare(
                x=channels,
                grad_out=transposed(grad_outs[i]),
                h=maps[i].contiguous(),
                w_j=layer.w_j[i].contiguous(),
                w_x=layer.w_x[i].contiguous(),
                w_h=layer.w_h[i].contiguous(),
                q=x.new_empty((batch, d, segments)),
                dh=x.new_empty((batch, d, width)),
                dx=x.new_empty(x.shape, dtype=torch.float32),
                dw_x=dw_x,
                dw_h=dw_h,
                width=width,
                scale=scales[i],
            )
        )
    _launch_rows(
        joint_coattention_prepare_kernel,
        prepared,
        ALIKE=alike(prepared),
        BD=pad(layer.width),
        RESIDUAL=residual,
        **tile,
    )
    return prepared, sums


class Core(NamedTuple):
    """Results of the attention's backward, mostly as partial sums over their first dimension.

    dq[i] (tiles * B, d_x, N), whose sum lacks the factor ``dq_factor``; dw_c[i] (groups, k, d);
    dj (modalities, B, N, d) if J consists of the modalities or is shared. Otherwise dj is None, and
    the gradients of J are already final.
    """

    dq_factor: float
    dq: list[Tensor]
    dw_c: list[Tensor]
    dj: Tensor | None


def attention_backward(
    layer: Layer, prepared: Sequence[Prepare], grad_joints: Tensors, dropout: Dropout
) -> Core:
    """The second launch: each pair of a modality and a part of its joint feature."""
    x, level = layer.inputs[0], layer.tier
    batch, segments = x.shape[:2]
    samples = Samples(batch, *group_sizes(batch))
    once = table.single_pass(level, segments)
    columns = batch * sum(part.shape[2] for parts in layer.parts for part in parts)
    config = backward_config(x.device, level, columns, segments, layer.width)
    one_joint_each = len(layer.joints) == len(layer.inputs)
    dj = None
    if not one_joint_each:
        shape = (len(layer.inputs), batch, segments, layer.w_c[0].shape[1])
        dj = x.new_empty(shape, dtype=torch.float32)
    core = Core(dropout.keep_scale if once else 1.0, [], [], dj)
    problems = []
    for i, m in enumerate(prepared):
        target = grad_joints[i] if dj is None else dj[i]  # (B, N, d)
        problems += _problems(layer, i, m, target, samples, config.columns if once else 0, core)
    sizes = (segments, layer.width)
    which = ONE_PASS if once else COLUMN_PASS
    launch_backward(problems, config, level, samples, sizes, dropout, which)
    if not once:
        swapped = [swap_roles(problem) for problem in problems]
        alone = Samples(batch, 1, batch)
        launch_backward(swapped, config, level, alone, sizes, dropout, ROW_PASS)
    return core


def _problems(
    layer: Layer,
    i: int,
    m: Prepare,
    grad_joint: Tensor,
    samples: Samples,
    column_tile: int,
    core: Core,
) -> list[Problem]:
    """Modality ``i`` with each part of its joint feature; appends its dq and dw_c to ``core``.

    ``column_tile``: the columns of a tile that writes a partial sum of dq, or 0 if no tile does.
    """
    batch, segments = layer.inputs[i].shape[:2]
    sizes = [part.shape[2] for part in layer.parts[i]]
    firsts = [0, *accumulate(sizes)]
    tiles = [cdiv(size, column_tile) * batch if column_tile else batch for size in sizes]
    slots = [0, *accumulate(tiles)]
    dw_c = m.dx.new_empty((samples.groups, *layer.w_c[i].shape))
    dq = m.dx.new_empty((slots[-1], m.x.rows, segments))
    core.dw_c.append(dw_c)
    core.dq.append(dq)
    q, g = operand(m.q), operand(m.dh)
    found = []
    for j, part in enumerate(layer.parts[i]):
        v, dk, dv = (
            transposed(t.narrow(-1, firsts[j], sizes[j]))
            for t in (layer.w_c[i][None], grad_joint, dw_c)
        )
        dq_part = operand(dq.narrow(0, slots[j], tiles[j]))
        found.append(Problem(q, transposed(part), v, g, dk, dv, dq_part, 1.0, 2 * i, firsts[j]))
    return found


def finish(
    layer: Layer,
    prepared: Sequence[Prepare],
    core: Core,
    grads: Layer,
    tile: dict[str, int],
) -> list[Sum]:
    """The third launch. It returns the pending sums of W_j."""
    finishes, sums = [], []
    firsts = [0, *accumulate(m.x.rows for m in prepared)]
    for i, m in enumerate(prepared):
        dw_j = _partials(m.x, grads.w_j[i], tile["BM"])
        sums.append(partial_sum(dw_j, grads.w_j[i]))
        dj: tuple[Tensor, ...] = ()
        if core.dj is not None and not layer.joints:
            dj = tuple(d.narrow(-1, firsts[i], m.x.rows) for d in core.dj)
        finishes.append(
            Finish(
                x=m.x,
                w_j=m.w_j,
                dx0=m.dx,
                dq=core.dq[i],
                dj=dj,
                dx=grads.inputs[i],
                dw_j=dw_j,
                tiles=core.dq[i].shape[0] // m.q.shape[0],
                joint_width=firsts[-1],
                scale=m.scale * core.dq_factor,
            )
        )
    same = alike(finishes)
    registers = table.FINISH_REGISTERS if same else table.FINISH_REGISTERS_APART
    _launch_rows(joint_coattention_finish_kernel, finishes, ALIKE=same, maxnreg=registers, **tile)
    return sums
