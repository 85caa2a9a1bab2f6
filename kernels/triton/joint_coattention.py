"""Launchers of a whole paper layer, forward and backward, for any number of modalities.

The forward is one launch. The backward takes four:

1. the prepare kernel: Q and dH of all modalities, and partial sums of dW_x and dW_h;
2. the attention's backward for every pair of a modality and a part of its joint feature;
3. the finish kernel: dX, and partial sums of dW_j;
4. the sums of all partial results.

The exact tier takes one more launch. A layer too large for one program uses the kernels of tanh
attention instead.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from jca_fast.ops import reference

from . import table
from .joint_coattention_forward import Modality, joint_coattention_forward_kernel
from .joint_coattention_layer import Layer, Tensors
from .joint_coattention_passes import attention_backward, finish, prepare
from .launch import alike, architecture, cdiv, launch, pad
from .mask import Dropout, aligned, dropout_argument
from .operands import shared, transposed
from .sums import launch_sums, partial_sum
from .tanh_attention import tanh_attention, tanh_attention_backward


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
) -> list[Tensor]:
    """X' (B, N, d_i) of every modality; with ``keep_maps`` then H (B, k, d_i) of every modality."""
    layer = Layer(inputs, joints, w_j, w_x, w_c, w_h)
    if not layer.fits:
        composed = reference.joint_coattention(
            *layer, scales, dropout_p, seed, keep_maps, residual, attention=tanh_attention
        )
        return [x.contiguous() for x in composed]
    outs = [x.new_empty(x.shape) for x in inputs]
    maps = []
    if keep_maps:
        maps = [
            x.new_empty((x.shape[0], w.shape[0], x.shape[2]))
            for x, w in zip(inputs, w_x, strict=True)
        ]
    modalities = _modalities(layer, scales, outs, maps)
    _launch_forward(layer, modalities, dropout_argument(dropout_p, seed), keep_maps, residual)
    return outs + maps


def _modalities(
    layer: Layer, scales: Sequence[float], outs: Tensors, maps: Tensors
) -> tuple[Modality, ...]:
    """The argument of the forward kernel."""
    return tuple(
        Modality(
            x=transposed(x),
            parts=tuple(transposed(part) for part in layer.parts[i]),
            w_j=shared(layer.w_j[i]),
            w_x=shared(layer.w_x[i]),
            w_c=transposed(layer.w_c[i][None]),
            w_h=shared(layer.w_h[i]),
            out=transposed(outs[i]),
            h=transposed(maps[i] if maps else outs[i]),
            scale=scales[i],
        )
        for i, x in enumerate(layer.inputs)
    )


def _launch_forward(
    layer: Layer,
    modalities: tuple[Modality, ...],
    dropout: Dropout,
    keep_maps: bool,
    residual: bool,
) -> None:
    """The one launch of the forward."""
    x, level = layer.inputs[0], layer.tier
    batch, segments = x.shape[:2]
    rows = [m.x.rows for m in modalities]
    config = table.forward(architecture(x.device), level, batch * sum(rows), segments, layer.width)
    slots, chunks = table.contraction_blocks(segments, level == "exact")
    tile = table.Tile(
        BM=config.rows,
        BN=config.columns,
        BO=pad(segments),
        BD=pad(layer.width),
        EXACT=level == "exact",
        DROPOUT=dropout.p_seed is not None,
        ALIGNED=aligned(part.rows for m in modalities for part in m.parts[:-1]),
        BK=slots,
        CHUNKS=chunks,
    )
    launch(
        joint_coattention_forward_kernel,
        (batch * cdiv(max(rows), config.rows), len(modalities)),
        modalities,
        batch,
        dropout,
        ALIKE=alike(modalities),
        KEEP_MAPS=keep_maps,
        RESIDUAL=residual,
        TILE=tile,
        num_warps=config.warps,
        num_stages=config.stages,
    )


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
) -> list[Tensor]:
    """Gradients of inputs, joints, w_j, w_x, w_c, w_h; ``maps``: the forward's H (B, k, d_i)."""
    layer = Layer(inputs, joints, w_j, w_x, w_c, w_h)
    if inputs[0].shape[0] == 0:
        return [t.new_zeros(t.shape) for group in layer for t in group]
    if not layer.fits:
        composed = reference.joint_coattention_backward(
            grad_outs,
            maps,
            *layer,
            scales,
            dropout_p,
            seed,
            residual,
            attention_backward=tanh_attention_backward,
        )
        return [g.contiguous() for g in composed]
    grads = Layer(*([t.new_empty(t.shape) for t in group] for group in layer))
    dropout = dropout_argument(dropout_p, seed)
    tile = table.layer_rows(inputs[0].shape[1], layer.width)
    prepared, sums = prepare(layer, grad_outs, maps, scales, grads, tile, residual)
    core = attention_backward(layer, prepared, grads.joints, dropout)
    sums += [partial_sum(partial, out) for partial, out in zip(core.dw_c, grads.w_c, strict=True)]
    sums += finish(layer, prepared, core, grads, tile)
    if joints and core.dj is not None:
        sums.append(partial_sum(core.dj, grads.joints[0]))
    launch_sums(sums)
    return [g for group in grads for g in group]
