"""The measured calls: layers, stacks and the visual reduction, fused, in plain PyTorch and
compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from jca_fast.functional import joint_coattention, visual_reduction
from jca_fast.ops import backends, reference
from jca_fast.ops.backends.launchers import load, missing, problem
from jca_fast.ops.library import overload


def measurable(row: backends.Backend) -> bool:
    """Whether a backend has the kernels of the measured calls, as far as can be told here."""
    try:
        kernels = load(row.module)
    except ImportError:  # Triton is not installed; a run that needs it says so
        return True
    return not any(missing(kernels, op) for op in ("joint_coattention", "visual_reduction"))


def first() -> str:
    """The table's first backend with the measured kernels that can run on this machine: a dry run
    has an interpreter for Triton's only.
    """
    rows = [row for row in backends.on_device("cuda") if measurable(row)]
    return next((row for row in rows if not problem(row.module or "")), rows[0]).name


BACKEND = [first()]
"""The name of the measured backend; :func:`benchmarks.gpu.measure.begin` replaces it."""
Call = Callable[[], Any]
Forward = Callable[[dict[str, Any]], tuple[torch.Tensor, ...]]


def layers(batch: int, dtype: torch.dtype, device: str, count: int, tiny: bool) -> dict[str, Any]:
    """Inputs and weights of ``count`` layers of the paper: N = 10, 512 + 512 channels, k = 32;
    tiny: one sample.
    """
    n, d, k = (4, 8, 3) if tiny else (10, 512, 32)
    batch, count = (1, min(count, 2)) if tiny else (batch, count)
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int, scale: float = 1.0) -> torch.Tensor:
        t = scale * torch.randn(shape, generator=generator)
        return t.to(device, dtype).requires_grad_()

    shapes = ((n, n), (k, n), (k, 2 * d), (k, n))
    weights = [
        [[random(*s, scale=s[1] ** -0.5) for _ in range(2)] for s in shapes] for _ in range(count)
    ]
    return {
        "inputs": [random(batch, n, d) for _ in range(2)],
        "weights": weights,
        "scale": (2 * d) ** -0.5,
    }


def fused(args: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    """The layers by the measured backend."""
    x = args["inputs"]
    for weights in args["weights"]:
        x = joint_coattention(x, *weights, scales=[args["scale"]] * 2, backend=BACKEND[0])
    return tuple(x)


def plain(args: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    """The layers in plain PyTorch."""
    x = args["inputs"]
    for weights in args["weights"]:
        x = reference.joint_coattention(x, [], *weights, [args["scale"]] * 2, 0.0, None, False)
    return tuple(x)


def leaves(args: dict[str, Any]) -> list[torch.Tensor]:
    """All tensors that get a gradient."""
    return [*args["inputs"], *(w for layer in args["weights"] for group in layer for w in group)]


def alone(forward: Forward, args: dict[str, Any]) -> Call:
    """A call that computes the outputs and saves nothing for a backward."""
    return torch.no_grad()(lambda: forward(args))


def with_backward(forward: Forward, args: dict[str, Any]) -> Call:
    """A call that computes outputs and all gradients."""
    grads = [torch.ones_like(x) for x in args["inputs"]]
    return lambda: torch.autograd.grad(forward(args), leaves(args), grads)


def only_backward(args: dict[str, Any]) -> Call:
    """The launches of the backward of one layer by the measured backend, without autograd around
    them.
    """
    inputs, (weights, *_) = args["inputs"], args["weights"]
    options = ([args["scale"]] * 2, 0.0, None)
    with torch.no_grad():
        maps = overload("joint_coattention", BACKEND[0])(inputs, [], *weights, *options, True)[2:]
    grads = [torch.ones_like(x) for x in inputs]
    op = overload("joint_coattention_backward", BACKEND[0])
    return torch.no_grad()(lambda: op(grads, maps, inputs, [], *weights, *options))


def compiled(mode: str, forward: Callable[..., Any], dry: bool) -> Callable[..., Any]:
    """``forward`` by torch.compile for static shapes; a graph break raises. A dry run traces it and
    compiles nothing.

    :func:`pin` promises fixed addresses, so that "reduce-overhead" copies no inputs.
    """
    options: dict[str, Any] = {"backend": "aot_eager"} if dry else {"mode": mode}
    call = torch.compile(forward, dynamic=False, fullgraph=True, **options)
    if mode != "reduce-overhead" or dry:
        return call

    def step(*args: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return call(*args)

    return step


def pin(tensors: list[torch.Tensor]) -> None:
    """Promise torch.compile that these tensors keep their addresses."""
    for tensor in tensors:
        torch._dynamo.mark_static_address(tensor, guard=False)


def visual_reduction_arguments(
    segments: int, dtype: torch.dtype, device: str, tiny: bool
) -> dict[str, Any]:
    """Arguments of the visual reduction: the paper's 49 regions of 512 channels."""
    count, width = (5, 32) if tiny else (49, 512)
    generator = torch.Generator(device).manual_seed(0)
    shapes = ((segments, width), (segments, count, width), (segments, width))
    query, regions, grad = (
        torch.randn(s, generator=generator, device=device, dtype=dtype) for s in shapes
    )
    return {"query": query.requires_grad_(), "regions": regions, "grad": grad, "scale": width**-0.5}


def fused_visual_reduction(args: dict[str, Any]) -> torch.Tensor:
    """The reduction by the measured backend."""
    return visual_reduction(args["query"], args["regions"], args["scale"], backend=BACKEND[0])  # type: ignore[return-value]


def plain_visual_reduction(args: dict[str, Any]) -> torch.Tensor:
    """The reduction in plain PyTorch."""
    return reference.visual_reduction(args["query"], args["regions"], args["scale"])[0]


def visual_reduction_with_backward(
    forward: Callable[..., torch.Tensor], args: dict[str, Any], frozen: bool
) -> Call:
    """Forward and backward; with ``frozen`` regions only the query gets a gradient."""
    args = {**args, "regions": args["regions"].detach().requires_grad_(not frozen)}
    wanted = [args["query"]] if frozen else [args["query"], args["regions"]]
    return lambda: torch.autograd.grad(forward(args), wanted, args["grad"])


def only_visual_reduction_backward(args: dict[str, Any], frozen: bool) -> Call:
    """The launch of the reduction's backward by the measured backend."""
    query, regions, grad, scale = args.values()
    with torch.no_grad():
        weights = overload("visual_reduction", BACKEND[0])(query, regions, scale)[1]
    op, grad_weights = overload("visual_reduction_backward", BACKEND[0]), torch.zeros_like(weights)
    return torch.no_grad()(
        lambda: op(grad, grad_weights, query, regions, weights, scale, not frozen)
    )
