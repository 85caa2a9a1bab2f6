"""The providers of the layer benchmarks.

As a program it times them in the caller's environment (allocator, kernels) and prints the summary
as JSON: python -m jca_fast.bench.layers paper 64,10,512,512,32 0.0 backward 10 plain
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch

from jca_fast import JointCoAttention
from jca_fast.bench.pairs import Provider, check_parity, interleave, summarise
from jca_fast.bench.plain import paper_layer, paper_loop, released_layer

STANDARD = (64, 10, 512, 512, 32)
"""B, N, d_a, d_v, k of the published model."""


def title(shape: tuple[int, ...]) -> str:
    """A shape in the notation of the table of results."""
    batch, n, audio, visual, k = shape
    return f"{batch}x{n} {audio}+{visual} k{k}"


def providers(
    form: str,
    shape: tuple[int, ...] = STANDARD,
    dropout: float = 0.0,
    backward: bool = False,
    compiled: bool = True,
    loop: bool = False,
    autotune: bool = False,
) -> dict[str, Provider]:
    """The providers of one layer, on the same weights and inputs: plain PyTorch (eager, compiled,
    compiled with max-autotune, or as a loop over the batch), and jca_fast.
    """
    batch, n, audio, visual, k = shape
    fusion = JointCoAttention(
        audio, visual, n, attention_dim=k, num_layers=1, form=form, dropout=dropout
    )
    layer: Any = fusion.layers[0].train(dropout > 0)
    inputs = [torch.randn(batch, n, d, requires_grad=True) for d in (audio, visual)]
    grads = [torch.randn_like(x) for x in inputs]
    leaves = [*inputs, *layer.parameters()]
    plain: Any = paper_layer if form == "paper" else released_layer

    def timed(function: Callable[[], Any]) -> Provider:
        def forward() -> Any:
            with torch.no_grad():
                return function()

        return (lambda: torch.autograd.grad(function(), leaves, grads)) if backward else forward

    functions: dict[str, Callable[[], Any]] = {"eager": lambda: plain(layer, inputs, dropout)}
    if compiled:
        compiled_plain = torch.compile(plain, dynamic=False)
        functions["compile"] = lambda: compiled_plain(layer, inputs, dropout)
    if autotune:
        tuned = torch.compile(plain, dynamic=False, mode="max-autotune-no-cudagraphs")
        functions["autotune"] = lambda: tuned(layer, inputs, dropout)
    if loop:
        functions["loop"] = lambda: paper_loop(layer, inputs)
    functions["jca_fast"] = lambda: layer(*inputs)
    return {name: timed(function) for name, function in functions.items()}


def main(form: str, shape: str, dropout: str, mode: str, rounds: str, compiled: str) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(min(2, torch.get_num_threads()))
    sizes = tuple(int(n) for n in shape.split(","))
    chosen = providers(form, sizes, float(dropout), mode == "backward", compiled == "compiled")
    if not float(dropout):
        check_parity(chosen)
    print(json.dumps(summarise(interleave(chosen, int(rounds)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
