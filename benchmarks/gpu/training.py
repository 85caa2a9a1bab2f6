"""A training step of the whole network: fused, in plain PyTorch, and under torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.subjects import BACKEND
from jca_fast import AVELocalizer
from jca_fast.bench.plain import plain_forward
from jca_fast.ops import reference

Call = Callable[[], Any]


def subjects(
    batch: int, tier_dtype: torch.dtype, device: str, tiny: bool, modes: Sequence[str]
) -> dict[str, Call]:
    """One step for each subject, each with a separate network and optimizer on the
    same data.
    """
    n, regions = (4, 4) if tiny else (10, 49)
    torch.manual_seed(0)
    audio, visual = (
        torch.randn(batch, n, 128, device=device),
        torch.randn(batch, n, regions, 512, device=device),
    )
    labels = torch.randint(0, 29, (batch, n), device=device)

    def step(model: AVELocalizer, logits: Callable[..., Tensor]) -> Call:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, capturable=device == "cuda")

        def run() -> None:
            with torch.autocast(device, tier_dtype, enabled=tier_dtype != torch.float32):
                scores = logits(audio, visual)
            loss = torch.nn.functional.cross_entropy(scores.float().flatten(0, 1), labels.flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        return run

    ours, eager = network(n, tiny, device), plain_network(n, tiny, device)
    found = {"fused": step(ours, ours.logits), "eager": step(eager, eager.logits)}
    for mode in modes:
        model = plain_network(n, tiny, device)
        options: dict[str, Any] = {"backend": "aot_eager"} if tiny else {"mode": mode}
        found[mode] = step(
            model, torch.compile(model.logits, dynamic=False, **options)
        )  # an LSTM breaks the graph
    return found


def network(segments: int, tiny: bool, device: str) -> AVELocalizer:
    """The paper's network, its layers and its reduction by the measured backend."""
    torch.manual_seed(0)
    sizes = (8, 8, 1) if tiny else (512, 512, 4)
    return AVELocalizer(*sizes, num_segments=segments, backend=BACKEND[0]).to(device)


def plain_network(segments: int, tiny: bool, device: str) -> AVELocalizer:
    """The same network with the published arithmetic in the place of every module of the
    library.
    """
    model = network(segments, tiny, device)
    for module in model.modules():
        if formula := plain_forward(module):
            module.forward = formula  # type: ignore[method-assign]
    model.reduction.forward = _plain_reduction(model.reduction)  # type: ignore[method-assign, assignment]
    return model


def _plain_reduction(module: Any) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    def forward(audio: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        query = module.query(audio).flatten(0, 1)  # (S, D)
        out, weights = reference.visual_reduction(
            query, regions.flatten(0, 1).to(query.dtype), query.shape[-1] ** -0.5
        )
        return out.unflatten(0, audio.shape[:2]), weights.unflatten(0, audio.shape[:2])

    return forward
