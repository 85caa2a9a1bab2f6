"""Launchers of tanh attention and of the released form, and the backward passes of a layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import table
from .launch import alike, architecture, cdiv, launch, pad, tier
from .mask import Dropout, aligned, dropout_argument
from .operands import operand
from .sums import group_sizes, launch_sums, partial_sum
from .tanh_attention_backward import (
    COLUMN_PASS,
    ONE_PASS,
    ROW_PASS,
    Pass,
    Problem,
    Samples,
    tanh_attention_backward_kernel,
)
from .tanh_attention_forward import tanh_attention_forward_kernel

Empty = Callable[[Tensor, Sequence[int], torch.dtype], Tensor]
"""New memory on the device of a tensor, of this shape and dtype."""


def tanh_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, dropout_p: float, seed: Tensor | None
) -> Tensor:
    """q (B, M, N), k (B, L, N), v (B or 1, L, D) -> out (B, M, D)."""
    out = q.new_empty((*q.shape[:2], v.shape[2]))
    _forward(q, k, v, out, scale, dropout_argument(dropout_p, seed), activate=False)
    return out


def released_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, dropout_p: float, seed: Tensor | None
) -> Tensor:
    """query (B, N, d), key and value (B, N, d_x) -> T (B, N, d), activated in the epilogue."""
    out = query.new_empty(query.shape)
    dropout = dropout_argument(dropout_p, seed)
    _forward(query.mT, key.mT, value.mT, out.mT, scale, dropout, activate=True)
    return out


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    scale: float,
    dropout: Dropout,
    activate: bool,
) -> None:
    """One launch that writes ``out`` (B, M, D), any strides."""
    batch, rows, segments = q.shape
    width = v.shape[2]
    level = tier(q.dtype)
    block = min(pad(width), table.FORWARD_BLOCK[level])
    config = table.forward(architecture(q.device), level, batch * rows, segments, width)
    slots, chunks = table.contraction_blocks(segments, level == "exact")
    tile = table.Tile(
        BM=config.rows,
        BN=config.columns,
        BD=block,
        EXACT=level == "exact",
        DROPOUT=dropout.p_seed is not None,
        ALIGNED=True,
        BK=slots,
        CHUNKS=chunks,
    )
    launch(
        tanh_attention_forward_kernel,
        (batch * cdiv(rows, config.rows), cdiv(width, block)),
        *(operand(x) for x in (q, k, v, out)),
        dropout,
        scale,
        ACTIVATE=activate,
        TILE=tile,
        num_warps=config.warps,
        num_stages=config.stages,
    )


def launch_backward(
    problems: Sequence[Problem],
    config: table.Config,
    level: str,
    samples: Samples,
    sizes: tuple[int, int],
    dropout: Dropout,
    which: Pass,
) -> None:
    """One backward pass in the tier ``level``, with ``sizes`` = (N, D).

    The caller sized dq by the columns of ``config``. All problems share one launch, except wide
    ones of the exact tier: they use too many registers to select a problem at run time.
    """
    segments, width = sizes
    if len(problems) > 1 and level == "exact" and segments > table.NARROW["exact"]:
        for problem in problems:
            launch_backward([problem], config, level, samples, sizes, dropout, which)
        return
    block_n = min(pad(segments), table.BACKWARD_BLOCK[level])
    block_d = min(pad(width), table.BACKWARD_BLOCK[level])
    value_chunks = cdiv(width, block_d)
    slots, chunks = table.contraction_blocks(segments, level == "exact")
    tile = table.Tile(
        BM=config.rows,
        BN=config.columns,
        BO=block_n,
        BD=block_d,
        VALUE_CHUNKS=value_chunks,
        EXACT=level == "exact",
        DROPOUT=dropout.p_seed is not None,
        ALIGNED=aligned(p.first for p in problems),
        BK=slots,
        CHUNKS=chunks,
    )
    grid = (
        cdiv(max(p.k.rows for p in problems), config.columns) * samples.groups,
        max(cdiv(segments, block_n), value_chunks if which.WANT_DV else 1),
        len(problems),
    )
    launch(
        tanh_attention_backward_kernel,
        grid,
        tuple(problems),
        samples,
        dropout,
        ALIKE=alike(problems),
        PASS=which,
        TILE=tile,
        num_warps=config.warps,
        num_stages=config.stages,
    )


def swap_roles(problem: Problem) -> Problem:
    """The problem of the second of two passes, whose dk is the gradient of q."""
    return problem._replace(q=problem.k, k=problem.q, v=problem.g, g=problem.v, dk=problem.dq)


def backward_config(
    device: torch.device, level: str, columns: int, segments: int, width: int
) -> table.Config:
    """The tile shape of a backward pass over ``columns`` columns in all samples."""
    return table.backward(architecture(device), level, columns, segments, width)


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
    return _backward(grad_out, q, k, v, scale, dropout_argument(dropout_p, seed), _empty_contiguous)


def released_attention_backward(
    grad_out: Tensor,
    out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """grad_out and out T (B, N, d) -> gradients of query (B, N, d), key and value (B, N, d_x)."""
    grad_o = torch.where(out <= 0, 0, grad_out) * (1 - out * out)  # (B, N, d)
    dropout = dropout_argument(dropout_p, seed)
    grads = _backward(grad_o.mT, query.mT, key.mT, value.mT, scale, dropout, _empty_transposed)
    return grads[0].mT, grads[1].mT, grads[2].mT


def _empty_contiguous(like: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Contiguous new memory."""
    return like.new_empty(shape, dtype=dtype)


def _empty_transposed(like: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """New memory whose transpose is contiguous."""
    return like.new_empty((shape[0], shape[2], shape[1]), dtype=dtype).mT


def _backward(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    dropout: Dropout,
    empty: Empty,
) -> tuple[Tensor, Tensor, Tensor]:
    """The passes and sums of a backward; ``empty`` allocates results and partial sums."""
    batch, rows, segments = q.shape
    columns, width = v.shape[1:]
    dq, dk, dv = (empty(x, x.shape, x.dtype) for x in (q, k, v))
    if batch == 0:
        return dq, dk, dv.zero_()
    level = tier(q.dtype)
    is_shared = v.shape[0] == 1
    samples = Samples(batch, *group_sizes(batch)) if is_shared else Samples(batch, 1, batch)
    sums = []
    dv_part = dv
    if is_shared and samples.groups > 1:
        dv_part = empty(q, (samples.groups, columns, width), torch.float32)
        sums.append(partial_sum(dv_part, dv))
    problem = Problem(
        q=operand(q),
        k=operand(k),
        v=operand(v),
        g=operand(grad_out),
        dk=operand(dk),
        dv=operand(dv_part),
        dq=operand(dq),
        scale=scale,
        modality2=0,
        first=0,
    )
    config = backward_config(q.device, level, batch * columns, segments, width)
    sizes = (segments, width)
    if table.single_pass(level, segments):
        tiles = cdiv(columns, config.columns)
        dq_part = empty(q, (tiles * batch, rows, segments), torch.float32)
        sums.append(partial_sum(dq_part, dq, scale * dropout.keep_scale))
        problem = problem._replace(dq=operand(dq_part))
        launch_backward([problem], config, level, samples, sizes, dropout, ONE_PASS)
    else:
        alone = Samples(batch, 1, batch)
        launch_backward([problem], config, level, samples, sizes, dropout, COLUMN_PASS)
        launch_backward([swap_roles(problem)], config, level, alone, sizes, dropout, ROW_PASS)
    launch_sums(sums)
    return dq, dk, dv
