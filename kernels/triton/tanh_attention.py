"""Launchers of tanh attention, and the backward passes it shares with the layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from jca_fast.ops.dropout import keep_scale, threshold

from . import table
from .launch import alike, architecture, cdiv, launch, pad, tier
from .tanh_attention_backward import Problem, Sum, backward_kernel, sum_kernel
from .tanh_attention_forward import forward_kernel
from .tiles import operand

GROUPS = 16
"""Groups of samples that a gradient shared by the batch is first summed over: fixed, so that its bits do not depend on
the chip."""
SUM = {"ROWS": 32, "BLOCK": 64, "maxnreg": 64}
"""Partial results, and elements of each, that a program of a sum reads at a time: 16 numbers a thread, and registers to
wait for all of them at once."""


def dropout(seed: Tensor | None, firsts: Iterable[int] = (0,)) -> int:
    """The constant DROPOUT of the kernels: what all first columns in the mask are multiples of, 0 without dropout."""
    if seed is None:
        return 0
    return 1 if any(first % 32 for first in firsts) else 32


def group_sizes(batch: int) -> tuple[int, int]:
    """Samples in a group, and the number of groups."""
    per_group = cdiv(batch, GROUPS)
    return per_group, cdiv(batch, per_group)


def tanh_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, dropout_p: float, seed: Tensor | None
) -> Tensor:
    """q (B, M, N), k (B, L, N), v (B or 1, L, D) -> out (B, M, D)."""
    out = q.new_empty((*q.shape[:2], v.shape[2]))
    _forward(q, k, v, out, scale, dropout_p, seed, activate=False)
    return out


def released_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, dropout_p: float, seed: Tensor | None
) -> Tensor:
    """query (B, N, d), key and value (B, N, d_x) -> T (B, N, d), activated in the epilogue."""
    out = query.new_empty(query.shape)
    _forward(query.mT, key.mT, value.mT, out.mT, scale, dropout_p, seed, activate=True)
    return out


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
    activate: bool,
) -> None:
    """One launch that writes ``out`` (B, M, D), any strides."""
    (batch, rows, segments), width = q.shape, v.shape[2]
    level = tier(q.dtype)
    block = min(pad(width), table.FORWARD_BLOCK[level])
    config = table.forward(architecture(q.device), level, batch * rows, segments, width)
    launch(
        forward_kernel,
        (batch * cdiv(rows, config.rows), cdiv(width, block)),
        *(operand(x) for x in (q, k, v, out)), seed, scale, threshold(dropout_p), keep_scale(dropout_p),
        EXACT=level == "exact", DROPOUT=dropout(seed), ACTIVATE=activate,
        **table.contraction_blocks(segments, level == "exact"),
        BM=config.rows, BN=config.columns, BD=block, num_warps=config.warps, num_stages=config.stages,
    )  # fmt: skip


def single_pass(level: str, segments: int) -> bool:
    """Whether dq leaves the pass for dk and dv as partial sums, or gets a pass of its own.

    Partial sums take N / 32 of an (M, L) matrix. In the exact tier one pass needs more registers than there are.
    """
    return level != "exact" and segments <= 32


def launch_backward(
    problems: Sequence[Problem], config: table.Config, level: str, samples: tuple[int, int, int],
    sizes: tuple[int, int], dropout_p: float, seed: Tensor | None, wanted: str,
) -> None:  # fmt: skip
    """One backward pass over ``samples`` = (batch, samples in a group, groups), ``sizes`` = (N, D).

    ``config`` is the one by whose columns the caller sized dq. ``wanted``: "all" gradients, "dk dv", or "dq", in which
    case the problems have their roles swapped. All problems are one launch, but for wide ones of the exact tier, which
    leave no registers to choose a problem with.
    """
    (batch, per_group, groups), (segments, width) = samples, sizes
    if len(problems) > 1 and level == "exact" and segments > table.NARROW["exact"]:
        for problem in problems:
            launch_backward([problem], config, level, samples, sizes, dropout_p, seed, wanted)
        return
    block_n, block_d = (min(pad(size), table.BACKWARD_BLOCK[level]) for size in (segments, width))
    launch(
        backward_kernel,
        (
            cdiv(max(p.k.rows for p in problems), config.columns) * groups,
            max(cdiv(segments, block_n), cdiv(width, block_d) if wanted != "dq" else 1),
            len(problems),
        ),
        tuple(problems), batch, per_group, groups, seed, threshold(dropout_p), keep_scale(dropout_p),
        ALIKE=alike(problems), EXACT=level == "exact", DROPOUT=dropout(seed, (p.first for p in problems)),
        SWAPPED=wanted == "dq", WANT_DQ=wanted == "all", WANT_DV=wanted != "dq", VALUE_CHUNKS=cdiv(width, block_d),
        **table.contraction_blocks(segments, level == "exact"), BO=block_n, BD=block_d,
        BM=config.rows, BN=config.columns, num_warps=config.warps, num_stages=config.stages,
    )  # fmt: skip


def backward_config(
    device: torch.device, level: str, columns: int, segments: int, width: int
) -> table.Config:
    """The tile shape of a backward pass over ``columns`` columns in all samples."""
    return table.backward(architecture(device), level, columns, segments, width)


def launch_sums(sums: Sequence[Sum]) -> None:
    """Add up partial results, all in one launch."""
    if sums:
        blocks = max(cdiv(s.out.numel(), SUM["BLOCK"]) for s in sums)
        launch(sum_kernel, (blocks, len(sums)), tuple(sums), **SUM)


def partial_sum(partials: Tensor, out: Tensor) -> Sum:
    """``out`` as the sum of ``partials`` (count, *out.shape)."""
    return Sum(partials, out, 2 * (partials.numel() // out.numel()), 2 * out.numel())


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
    return _backward(grad_out, q, k, v, scale, dropout_p, seed, _plain)


def released_attention_backward(
    grad_out: Tensor, out: Tensor, query: Tensor, key: Tensor, value: Tensor, scale: float, dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """grad_out and out T (B, N, d) -> the gradients of query (B, N, d), key and value (B, N, d_x)."""
    grad_o = grad_out * (out > 0) * (1 - out * out)  # (B, N, d)
    grads = _backward(grad_o.mT, query.mT, key.mT, value.mT, scale, dropout_p, seed, _transposed)
    return grads[0].mT, grads[1].mT, grads[2].mT


def _plain(like: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """New memory, contiguous."""
    return like.new_empty(shape, dtype=dtype)


def _transposed(like: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """New memory whose transpose is contiguous."""
    return like.new_empty((shape[0], shape[2], shape[1]), dtype=dtype).mT


def _backward(
    grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float, dropout_p: float, seed: Tensor | None,
    empty: Callable[[Tensor, Sequence[int], torch.dtype], Tensor],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The passes and sums of one backward; ``empty`` lays out the results and their partial sums alike."""
    (batch, rows, segments), (columns, width) = q.shape, v.shape[1:]
    dq, dk, dv = (empty(x, x.shape, x.dtype) for x in (q, k, v))
    if batch == 0:
        return dq, dk, dv.zero_()
    level = tier(q.dtype)
    shared = v.shape[0] == 1
    per_group, groups = group_sizes(batch) if shared else (1, batch)
    sums = []
    dv_part = dv
    if shared and groups > 1:
        dv_part = empty(q, (groups, columns, width), torch.float32)
        sums.append(partial_sum(dv_part, dv))
    problem = Problem(*(operand(x) for x in (q, k, v, grad_out, dk, dv_part, dq)), scale, 0, 0)
    config = backward_config(q.device, level, batch * columns, segments, width)
    samples, args = (batch, per_group, groups), ((segments, width), dropout_p, seed)
    if single_pass(level, segments):
        tiles = cdiv(columns, config.columns)
        dq_part = empty(q, (tiles * batch, rows, segments), torch.float32)
        sums.append(partial_sum(dq_part, dq))
        launch_backward(
            [problem._replace(dq=operand(dq_part))], config, level, samples, *args, "all"
        )
    else:
        launch_backward([problem], config, level, samples, *args, "dk dv")
        swapped = problem._replace(
            q=problem.k, k=problem.q, v=problem.g, g=problem.v, dk=operand(dq)
        )
        launch_backward([swapped], config, level, (batch, 1, batch), *args, "dq")
    launch_sums(sums)
    return dq, dk, dv
