"""The providers of the drop-in benchmarks: modules of published code, and their replacements in
jca_fast.compat.

Both sides hold the same weights. The published CAM loops over the clips of the batch. The released
form is plain PyTorch on the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.looped import looped
from jca_fast.bench.pairs import Provider, flatten
from jca_fast.bench.plain import plain_model
from jca_fast.compat import (
    abaw8,
    cam,
    dynamic_crossattention,
    joint_cross_attention_for_audio_visual_fusion,
    jointcrossattentional_av_fusion,
    orig_cam,
    pkdot,
    recurrentjointattentionwithlstms,
    recursive_joint_co_attention,
    released,
    rjcaforspeakerverification,
    rjcma,
    speaker,
    spiro,
)

Forward = Callable[[], list[Tensor]]


class Case(NamedTuple):
    """A module, the shapes of its inputs for one clip, and the batch of the published recipe."""

    build: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    batch: int = 64


REGIONS = (49, 512)
FRAMES = (16, 512), (16, 49 * 512)  # as the emotion scripts pass them: audio, and flat regions
MODULES = {
    "cam_n8_attention": Case(lambda: cam.CAM(8, 128, None, heads=()), ((8, 128),) * 2),
    "cam_n16_attention": Case(lambda: cam.CAM(16, 128, None, heads=()), ((16, 128),) * 2),
    "cam_n8": Case(lambda: cam.CAM(8), ((8, 512),) * 2),
    "cam_n16": Case(lambda: cam.CAM(16), ((16, 512),) * 2),
    "jcam_512": Case(cam.Jcam_512, ((16, 512),) * 2),
    "dcn_n10_512_512": Case(lambda: released.DCNLayer(512, 512, 4, 0.3), ((10, 512),) * 2),
    "dcn_n16_512_512": Case(lambda: released.DCNLayer(512, 512, 1, 0.6, 16), ((16, 512),) * 2),
    "dcn_n8_512_192": Case(lambda: released.DCNLayer(512, 192, 2, 0.6, 8), ((8, 512), (8, 192))),
    "dcn_n300_256_128": Case(
        lambda: released.DCNLayer(256, 128, 2, 0.6, 300), ((300, 256), (300, 128)), 12
    ),
    "dcn_n300_256_128_128": Case(
        lambda: rjcma.DCNLayer(256, 128, 128, 2, 0.6), ((300, 256), (300, 128), (300, 128)), 12
    ),
    "released_model": Case(
        lambda: released.DCNWithRCNN(SimpleNamespace()), ((10, 128), (10, *REGIONS))
    ),
    "emotion_model": Case(orig_cam.CAM, ((16, 512), (16, *REGIONS))),
    "speaker_model": Case(speaker.CAM, ((8, 192), (8, 512))),
    "position_attn": Case(lambda: released.PositionAttn(512, 512), ((16, *REGIONS), (16, 512))),
}

TRAINED = {
    "Recursive-joint-co-attention": Case(
        lambda: recursive_joint_co_attention.DCNWithRCNN(SimpleNamespace()),
        ((10, 128), (10, *REGIONS)),
        64,
    ),
    "JointCrossAttentional-AV-Fusion": Case(
        jointcrossattentional_av_fusion.CAM, ((8, 512),) * 2, 96
    ),
    "Joint-Cross-Attention-for-Audio-Visual-Fusion": Case(
        joint_cross_attention_for_audio_visual_fusion.CAM, FRAMES, 64
    ),
    "RecurrentJointAttentionwithLSTMs": Case(recurrentjointattentionwithlstms.CAM, FRAMES, 64),
    "RJCAforSpeakerVerification": Case(rjcaforspeakerverification.CAM, ((8, 192), (8, 512)), 100),
    "RJCMA": Case(
        lambda: rjcma.DCNLayer(256, 128, 128, 2, 0.6),
        ((300, 256), (300, 128), (300, 128)),
        12,
    ),
    "ABAW8": Case(abaw8.GRJCA_cam, ((300, 256), (300, 128)), 12),
    "Dynamic-CrossAttention": Case(dynamic_crossattention.CAM, FRAMES, 64),
    "PKDOT": Case(pkdot.CAM, ((1, 512),) * 2, 128),
    "SPIRo": Case(lambda: spiro.DCNLayer(256, 128, 2, 0.6), ((300, 256), (300, 128)), 12),
}
"""What the import line of each repository replaces, at the batch size of its training script."""

CASES = {**MODULES, **TRAINED}


def providers(name: str, batch: int | None = None, training: bool = False) -> dict[str, Provider]:
    """Forward and backward to all weights and inputs (not to regions); ``training`` turns dropout
    on, so that the providers differ.
    """
    leaves, forwards = _forwards(name, batch, training)
    with torch.no_grad():
        cotangents = [torch.randn_like(y) for y in forwards["jca_fast"]()]

    def timed(forward: Forward) -> Provider:
        return lambda: torch.autograd.grad(forward(), leaves, cotangents, allow_unused=True)

    return {provider: timed(forward) for provider, forward in forwards.items()}


def evaluations(name: str, batch: int | None = None) -> dict[str, Provider]:
    """The forward of a model in evaluation, without gradients."""
    _, forwards = _forwards(name, batch, training=False)
    return {provider: torch.no_grad()(forward) for provider, forward in forwards.items()}


def _forwards(
    name: str, batch: int | None, training: bool
) -> tuple[list[Tensor], dict[str, Forward]]:
    """The leaves of a model and its forward by each provider."""
    case = CASES[name]
    model = case.build().train(training)
    inputs = [
        torch.randn(
            batch or case.batch, *shape, requires_grad=math.prod(shape[1:]) < math.prod(REGIONS)
        )
        for shape in case.shapes
    ]
    leaves = [x for x in (*inputs, *model.parameters()) if x.requires_grad]

    def as_published() -> list[Tensor]:
        if isinstance(model, cam.CAM):
            # the heads' outputs; without heads, both features
            return looped(model, *inputs)[: len(model.heads) or 2]
        with plain_model(model):
            return flatten(model(*inputs))

    return leaves, {"published": as_published, "jca_fast": lambda: flatten(model(*inputs))}


def products(segments: int) -> Provider:
    """The matrix products of ``position_attn``, forward and backward, without anything else."""
    rows, width = REGIONS
    regions, hidden = (torch.randn(segments * rows, width) for _ in range(2))
    weight, score = torch.randn(width, width), torch.randn(rows, width)

    def run() -> None:
        scores = torch.mm(hidden, score.mT)
        for left, right in (
            (regions, weight.mT),  # hidden code
            (scores, score),  # its gradient
            (hidden.mT, regions),  # gradients of both weights
            (scores.mT, hidden),
        ):
            torch.mm(left, right)

    return run
