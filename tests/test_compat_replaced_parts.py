"""Linears and Dropouts of the published modules that users replace, hook, prune or wrap."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from jca_fast.compat import cam, released


class LowRank(nn.Module):
    """A frozen Linear and a trainable update of rank 2."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


MODELS = {
    "CAM": (lambda: cam.CAM(5, 9, 6, 4, hidden_dim=3), ((5, 9), (5, 9))),
    "DCNLayer": (lambda: released.DCNLayer(6, 4, 1, 0.3, 5), ((5, 6), (5, 4))),
}
PARTS = {
    "CAM": ["encoder1", "affine_a", "W_v", "W_ca", "W_ha"],
    "DCNLayer": [
        f"dcn_layers.0.dense_coattn.{name}"
        for name in ("query_linear", "key1_linear", "value2_linear")
    ],
}
CASES = [(model, part) for model, parts in PARTS.items() for part in parts]


def made(name: str) -> tuple[nn.Module, list[Tensor]]:
    torch.manual_seed(1)
    build, shapes = MODELS[name]
    model = build().double().eval()
    return model, [torch.randn(2, *shape, dtype=torch.double) for shape in shapes]


def total(model: nn.Module, inputs: list[Tensor]) -> Tensor:
    out = model(*inputs)
    return out if isinstance(out, Tensor) else torch.cat([y.flatten() for y in out])


@pytest.mark.parametrize(("name", "part"), CASES)
def test_a_replaced_linear_is_used_and_trained(name, part):
    model, inputs = made(name)
    low = LowRank(model.get_submodule(part)).double()
    merged = low.base.weight + low.up.weight @ low.down.weight
    model.set_submodule(part, low)
    found = total(model, inputs)
    found.sum().backward()
    assert low.up.weight.grad.abs().sum() > 0
    plain, _ = made(name)
    plain.get_submodule(part).weight.data.copy_(merged)
    torch.testing.assert_close(found, total(plain, inputs), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("name", "part"), CASES)
def test_hooks_and_pruning_of_a_linear_apply(name, part):
    model, inputs = made(name)
    calls = []
    handle = model.get_submodule(part).register_forward_hook(lambda *args: calls.append(1))
    before = total(model, inputs)
    assert calls
    handle.remove()
    prune.l1_unstructured(model.get_submodule(part), "weight", amount=0.5)
    pruned = total(model, inputs)
    assert not torch.allclose(pruned, before)
    plain, _ = made(name)
    plain.get_submodule(part).weight.data.copy_(model.get_submodule(part).weight)
    torch.testing.assert_close(pruned, total(plain, inputs), rtol=1e-9, atol=1e-11)


def test_an_identity_in_place_of_a_dropout_switches_it_off():
    model, inputs = made("DCNLayer")
    expected = total(model, inputs)
    layer = model.dcn_layers[0]
    layer.dense_coattn.dropouts = nn.ModuleList(nn.Identity() for _ in range(2))
    for linears in layer.linears:
        linears[2] = nn.Identity()
    torch.testing.assert_close(total(model.train(), inputs), expected)
