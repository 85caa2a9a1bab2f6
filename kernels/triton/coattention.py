"""Launcher of the whole paper layer; sizes too large for one program take the attention's kernels instead."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from jca_fast.ops import reference
from jca_fast.ops.dropout import keep_scale, threshold

from . import table
from .attention import dropout, tanh_attention
from .launch import alike, architecture, cdiv, launch, pad, tier
from .layer import Modality, layer_kernel
from .tiles import shared, transposed

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
