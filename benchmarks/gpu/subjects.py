"""What is measured: layers, stacks, a training step and the visual reduction, ours and plain PyTorch's."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from jca_fast import AVELocalizer
from jca_fast.functional import joint_coattention, visual_reduction
from jca_fast.ops import reference

Call = Callable[[], Any]


def layers(batch: int, dtype: torch.dtype, device: str, count: int, tiny: bool) -> dict[str, Any]:
    """Inputs and weights of ``count`` layers of the paper: N = 10, 512 + 512 channels, k = 32."""
    n, d, k = (4, 8, 3) if tiny else (10, 512, 32)
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int, scale: float = 1.0) -> torch.Tensor:
        t = scale * torch.randn(shape, generator=generator)
        return t.to(device, dtype).requires_grad_()

    shapes = ((n, n), (k, n), (k, 2 * d), (k, n))
    weights = [[[random(*s, scale=s[1] ** -0.5) for _ in range(2)] for s in shapes] for _ in range(count)]
    return {"inputs": [random(batch, n, d) for _ in range(2)], "weights": weights, "scale": (2 * d) ** -0.5}


def fused(args: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    """The layers by the Triton kernels."""
    x = args["inputs"]
    for weights in args["weights"]:
        x = joint_coattention(x, *weights, scales=[args["scale"]] * 2, backend="triton")
    return tuple(x)


def plain(args: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    """The layers as PyTorch has them."""
    x = args["inputs"]
    for weights in args["weights"]:
        x = reference.joint_coattention(x, [], *weights, [args["scale"]] * 2, 0.0, None, False)
    return tuple(x)


def leaves(args: dict[str, Any]) -> list[torch.Tensor]:
    """All tensors that get a gradient."""
    return [*args["inputs"], *(w for layer in args["weights"] for group in layer for w in group)]


def with_backward(forward: Callable[[dict[str, Any]], tuple[torch.Tensor, ...]], args: dict[str, Any]) -> Call:
    """A call that computes outputs and all gradients."""
    grads = [torch.ones_like(x) for x in args["inputs"]]
    return lambda: torch.autograd.grad(forward(args), leaves(args), grads)


def training_step(batch: int, device: str, tiny: bool, dtype: torch.dtype) -> Callable[[str], Call]:
    """A training step of the whole network on one backend: forward, loss, backward, Adam."""
    n, regions = (4, 4) if tiny else (10, 49)
    torch.manual_seed(0)
    audio, visual = torch.randn(batch, n, 128, device=device), torch.randn(batch, n, regions, 512, device=device)
    labels = torch.randint(0, 29, (batch, n), device=device)

    def on(backend: str) -> Call:
        torch.manual_seed(0)
        model = AVELocalizer(num_segments=n).to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, capturable=device == "cuda")

        def step() -> None:
            os.environ["JCA_FAST_BACKEND"] = backend
            with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                scores = model.logits(audio, visual)
            loss = torch.nn.functional.cross_entropy(scores.float().flatten(0, 1), labels.flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            del os.environ["JCA_FAST_BACKEND"]

        return step

    return on


def reduction(segments: int, dtype: torch.dtype, device: str, tiny: bool, frozen: bool) -> dict[str, Call]:
    """Forward, and forward with backward, of the visual reduction: ours and plain PyTorch's."""
    count, width = (5, 32) if tiny else (49, 512)
    query = torch.randn(segments, width, device=device, dtype=dtype, requires_grad=True)
    regions = torch.randn(segments, count, width, device=device, dtype=dtype, requires_grad=not frozen)
    wanted = [query] if frozen else [query, regions]
    grad = torch.ones_like(query)

    def ours() -> torch.Tensor:
        return visual_reduction(query, regions, backend="triton")  # type: ignore[return-value]

    def theirs() -> torch.Tensor:
        return reference.visual_reduction(query, regions, width**-0.5)[0]

    return {
        "fused forward": lambda: _no_grad(ours),
        "eager forward": lambda: _no_grad(theirs),
        "fused forward+backward": lambda: torch.autograd.grad(ours(), wanted, grad),
        "eager forward+backward": lambda: torch.autograd.grad(theirs(), wanted, grad),
    }


def _no_grad(fn: Call) -> Any:
    with torch.no_grad():
        return fn()
