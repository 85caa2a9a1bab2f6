"""The baselines: the published arithmetic in plain PyTorch, in batches and as a Python loop.

They use the parameters of the library's layers, so that every provider of a benchmark computes the
same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jca_fast.compat.layers import PublishedLayer
from jca_fast.modules import PaperLayer, ReleasedLayer


def paper_layer(layer: PaperLayer, inputs: Sequence[Tensor], p: float = 0.0) -> tuple[Tensor, ...]:
    """Eqs. 3-6 for all modalities X (B, N, d_x)."""
    joint = torch.cat(list(inputs), dim=-1)  # (B, N, d)
    out = []
    for i, x in enumerate(inputs):
        w_j, w_x, w_c, w_h = (layer.weights(symbol)[i] for symbol in ("W_j", "W_", "W_c", "W_h"))
        c = torch.tanh(x.mT @ (w_j @ joint) / joint.shape[-1] ** 0.5)  # (B, d_x, d)
        if p:
            c = F.dropout(c, p)
        h = torch.relu(w_x @ x + w_c @ c.mT)  # (B, k, d_x)
        out.append(x + w_h.mT @ h)
    return tuple(out)


def paper_loop(layer: PaperLayer, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The loop of most published code: one clip of the batch after the other."""
    clips = [paper_layer(layer, [x[b : b + 1] for x in inputs]) for b in range(inputs[0].shape[0])]
    return tuple(torch.cat(parts) for parts in zip(*clips, strict=True))


def released_layer(
    layer: ReleasedLayer, inputs: Sequence[Tensor], p: float = 0.0
) -> tuple[Tensor, ...]:
    """The released code's layer for all modalities X (B, N, d_x)."""
    query: nn.Linear = layer.joint.fc[0]  # type: ignore[index, assignment]
    return _released(inputs, query, layer.key, layer.value, layer.output, p)


def published_layer(
    layer: PublishedLayer, inputs: Sequence[Tensor], p: float = 0.0
) -> tuple[Tensor, ...]:
    """:func:`released_layer` with weights under published names, for two or more modalities."""
    dense: Any = layer.dense_coattn
    keys, values = (
        [getattr(dense, f"{kind}{i}_linear") for i in range(1, len(inputs) + 1)]
        for kind in ("key", "value")
    )
    outputs = [linear[0] for linear in layer.linears]  # type: ignore[index]
    return _released(
        inputs, dense.query_linear if dense.use_query else None, keys, values, outputs, p
    )


def _released(
    inputs: Sequence[Tensor],
    query_linear: nn.Linear | None,
    keys: Any,
    values: Any,
    outputs: Any,
    p: float,
) -> tuple[Tensor, ...]:
    """A released layer with ``F.linear``; without a query Linear Q is the joint feature itself."""
    joint = torch.cat(list(inputs), dim=-1)  # (B, N, d)
    query = F.linear(joint, query_linear.weight, query_linear.bias) if query_linear else joint
    out = []
    for x, key, value, output in zip(inputs, keys, values, outputs, strict=True):
        k = F.linear(x.mT, key.weight, key.bias)  # (B, d_x, N)
        c = torch.tanh(k @ query / query.shape[-1] ** 0.5)  # (B, d_x, d)
        if p:
            c = F.dropout(c, p)
        t = torch.relu(torch.tanh(F.linear(x, value.weight, value.bias) @ c))  # (B, N, d)
        update = torch.relu(F.linear(t, output.weight, output.bias))
        out.append(x + (F.dropout(update, p) if p else update))
    return tuple(out)


def plain_forward(module: nn.Module) -> Callable[..., Any] | None:
    """The published arithmetic of a module of the library; None if the module is plain PyTorch."""
    if isinstance(module, PaperLayer):
        return lambda *x: paper_layer(module, x, module.dropout.p if module.training else 0.0)
    if isinstance(module, ReleasedLayer):
        return lambda *x: released_layer(module, x, module.dropout.p if module.training else 0.0)
    if isinstance(module, PublishedLayer):
        rate: Any = module.dense_coattn.dropouts[0].p
        return lambda *x: published_layer(module, x, rate if module.training else 0.0)
    if isinstance(module, nn.Linear):
        return lambda x: F.linear(x, module.weight, module.bias)
    return None


@contextmanager
def plain_model(model: nn.Module) -> Iterator[nn.Module]:
    """Inside the context, every Joint Co-Attention layer and every Linear of ``model`` runs the
    published arithmetic.
    """
    formulas = [
        (module, formula) for module in model.modules() if (formula := plain_forward(module))
    ]
    for module, formula in formulas:
        module.forward = formula
    try:
        yield model
    finally:
        for module, _ in formulas:
            del module.forward
