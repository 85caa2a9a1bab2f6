"""Sub-modules that are replaced, wrapped, hooked or switched: every Linear and Dropout counts."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm

from jca_fast import AVELocalizer, JointCoAttention
from jca_fast.compat import cam, orig_cam, released, rjcma
from jca_fast.modules import AdditiveReduction, AudioGuidedReduction, ResidualRNN
from jca_fast.modules.joint_feature import JointFeature

N = 5


def localizer(form):
    sizes = {"audio_features": 10, "region_features": 14, "num_regions": 4}
    return AVELocalizer(8, 12, 2, N, 3, form, **sizes, dropout=0.0, rnn_dropout=0.0)


def features(*widths):
    return [torch.randn(3, N, width) for width in widths]


BUILD = {
    "paper": lambda: (JointCoAttention(6, 4, N, 3, 2, joint="concat_fc"), features(6, 4)),
    "released": lambda: (JointCoAttention(6, 4, N, 3, 2, "released"), features(6, 4)),
    "gru": lambda: (ResidualRNN(6, 4, cell="gru"), features(6)),
    "recurrent": lambda: (ResidualRNN(6, 4), features(6)),
    "guided": lambda: (AudioGuidedReduction(6, 4), [torch.randn(3, 6), torch.randn(3, 7, 4)]),
    "additive": lambda: (AdditiveReduction(6, 4, 8, 7), [torch.randn(3, 6), torch.randn(3, 7, 4)]),
    "localizer": lambda: (localizer("paper"), [*features(10), torch.randn(3, N, 4, 14)]),
    "released localizer": lambda: (
        localizer("released"),
        [*features(10), torch.randn(3, N, 4, 14)],
    ),
    "published": lambda: (released.DCNLayer(6, 4, 2, 0.0, N), features(6, 4)),
    "three": lambda: (rjcma.DCNLayer(6, 4, 4, 2, 0.0, N), features(6, 4, 4)),
    "cam": lambda: (cam.CAM(N, 6, 4, 3, dropout=0.0), features(6, 6)),
    "orig_cam": lambda: (
        orig_cam.CAM(N, 8, 6, dropout=0.0).eval(),
        [*features(8), torch.randn(3, N, 49, 512)],
    ),
}


@pytest.fixture(params=BUILD)
def built(request):
    torch.manual_seed(0)
    return BUILD[request.param]()


@pytest.fixture(autouse=True, params=[False, True], ids=["any machine", "amd"])
def onednn(request, monkeypatch):
    """Run with Linears on oneDNN and without it, at any size."""
    from jca_fast.modules import linear

    monkeypatch.setattr(linear, "prefers_onednn", lambda: request.param)
    monkeypatch.setattr(linear, "_PRODUCTS", 0)
    monkeypatch.setattr(linear, "_ROWS", 0)


def linears(module):
    """Every Linear that the module uses, with its name."""
    unused = [".query_linear"] if isinstance(module, rjcma.DCNLayer) else []
    return {
        name: child
        for name, child in module.named_modules()
        if isinstance(child, nn.Linear) and not any(name.endswith(end) for end in unused)
    }


def replace(module, name, new):
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, new)


def tensors(out):
    return [t for t in (out if isinstance(out, tuple) else (out,)) if t is not None]


def total(out):
    return sum(t.square().sum() for t in tensors(out))


class LowRank(nn.Module):
    """A Linear with a low-rank update, in the manner of LoRA."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        self.down = nn.Parameter(torch.randn(2, base.in_features))
        self.up = nn.Parameter(0.1 * torch.randn(base.out_features, 2))

    @property
    def weight(self):
        return self.base_layer.weight

    @property
    def bias(self):
        return self.base_layer.bias

    def forward(self, x):
        return self.base_layer(x) + x @ self.down.T @ self.up.T


def test_a_low_rank_wrapper_acts_and_learns(built):
    module, inputs = built
    for name, linear in linears(module).items():
        changed = copy.deepcopy(module)
        wrapper = LowRank(copy.deepcopy(linear))
        replace(changed, name, wrapper)
        out = changed(*inputs)
        total(out).backward()
        merged = copy.deepcopy(module)
        weight = merged.get_submodule(name).weight
        with torch.no_grad():
            weight += wrapper.up @ wrapper.down
        reference = merged(*inputs)
        total(reference).backward()
        torch.testing.assert_close(out, reference, rtol=1e-4, atol=1e-5)
        expected = weight.grad @ wrapper.down.T
        torch.testing.assert_close(wrapper.up.grad, expected, rtol=1e-3, atol=1e-4)


HOOKS = ("forward_pre_hook", "forward_hook", "full_backward_pre_hook", "full_backward_hook")


@pytest.mark.parametrize("kind", HOOKS)
def test_hooks_fire(built, kind):
    """Each kind alone."""
    module, inputs = built
    seen = set()
    for name, linear in linears(module).items():
        getattr(linear, f"register_{kind}")(lambda *_, name=name: seen.add(name))
    total(module(*[x.requires_grad_() for x in inputs])).backward()
    assert seen == set(linears(module))


def test_a_hook_may_change_the_result(built):
    module, inputs = built
    expected = tensors(module(*inputs))
    for name, linear in linears(module).items():
        handle = linear.register_forward_hook(lambda _module, _args, out: 3 - out)
        assert any(
            not torch.equal(a, b) for a, b in zip(tensors(module(*inputs)), expected, strict=True)
        ), name
        handle.remove()


def test_hooks_on_all_modules_fire(built):
    module, inputs = built
    seen = set()
    with torch.nn.modules.module.register_module_forward_hook(lambda m, *_: seen.add(m)):
        module(*inputs)
    assert set(linears(module).values()) <= seen


def test_a_replaced_forward_is_called(built):
    """Offloading libraries replace ``forward`` like this."""
    module, inputs = built
    called = set()
    for name, linear in linears(module).items():

        def forward(x, name=name, original=linear.forward):
            called.add(name)
            return original(x)

        linear.forward = forward
    module(*inputs)
    assert called == set(linears(module))


class Counted(torch.Tensor):
    """A weight with a product of its own, as in libraries that quantise by a subclass."""

    products = 0

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        cls.products += function is nn.functional.linear
        return super().__torch_function__(function, types, args, kwargs or {})


def test_a_weight_with_functions_of_its_kind_is_not_read(built, monkeypatch):
    module, inputs = built
    for linear in linears(module).values():
        weight = linear.weight.detach().as_subclass(Counted)
        del linear.weight
        linear.weight = weight
    monkeypatch.setattr(Counted, "products", 0)
    module(*inputs)
    assert Counted.products >= len(linears(module))


@pytest.mark.parametrize(
    "change",
    [
        lambda linear: prune.l1_unstructured(linear, "weight", 0.3),
        lambda linear: parametrizations.weight_norm(linear),
        pytest.param(weight_norm, marks=pytest.mark.filterwarnings("ignore::FutureWarning")),
        lambda linear: nn.utils.spectral_norm(linear),
    ],
    ids=["pruning", "weight_norm", "old weight_norm", "old spectral_norm"],
)
def test_reparametrised_weights_train(built, change):
    module, inputs = built
    for linear in linears(module).values():
        change(linear)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    before = [p.detach().clone() for p in module.parameters()]
    for _ in range(3):
        optimizer.zero_grad()
        total(module(*inputs)).backward()
        optimizer.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True)]
    assert sum(moved) >= len(linears(module))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_quantised_model_has_no_float_linear(built):
    module, inputs = built
    expected = tensors(module.eval()(*inputs))
    kinds = {nn.Linear, nn.LSTM, nn.GRU}
    quantised = torch.ao.quantization.quantize_dynamic(module, kinds, dtype=torch.qint8)
    assert not linears(quantised)
    for got, reference in zip(tensors(quantised(*inputs)), expected, strict=True):
        assert (got - reference).abs().max() < 0.2 * (reference.abs().max() + 1)


@pytest.mark.parametrize("name", ["released", "released localizer", "published"])
def test_peft(name):
    peft = pytest.importorskip("peft")
    module, inputs = BUILD[name]()
    expected = tensors(module(*inputs))
    config = peft.LoraConfig(target_modules=list(linears(module)), r=2, init_lora_weights=False)
    wrapped = peft.inject_adapter_in_model(config, module)
    out = tensors(wrapped(*inputs))
    assert not torch.equal(out[0], expected[0])
    total(tuple(out)).backward()
    learned = {n: p.grad for n, p in wrapped.named_parameters() if "lora_" in n}
    assert len(learned) == 2 * len(linears(BUILD[name]()[0]))
    assert all(grad is not None for grad in learned.values())


@pytest.fixture
def one_process():
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["paper", "released", "released localizer", "published"])
def test_every_linear_a_unit_of_fsdp(one_process, name):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    module, inputs = BUILD[name]()
    twin = copy.deepcopy(module)
    mesh = init_device_mesh("cpu", (1,))
    for linear in linears(module).values():
        fully_shard(linear, mesh=mesh)
    fully_shard(module, mesh=mesh)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.01) for m in (module, twin)]
    for _ in range(2):
        for m, optimizer in zip((module, twin), optimizers, strict=True):
            optimizer.zero_grad()
            total(m(*inputs)).backward()
            optimizer.step()
    torch.testing.assert_close(module(*inputs), twin(*inputs), rtol=1e-4, atol=1e-5)


def test_a_replaced_linear_of_another_kind():
    module, inputs = BUILD["released"]()
    module.layers[0].key[0] = nn.Linear(N, N, bias=False)
    weight = module.layers[0].key[0].weight
    expected = copy.deepcopy(module)
    expected.layers[0].key[0] = nn.Linear(N, N)
    with torch.no_grad():
        expected.layers[0].key[0].weight.copy_(weight)
        expected.layers[0].key[0].bias.zero_()
    torch.testing.assert_close(module(*inputs), expected(*inputs))


# ---- dropout


def dropped(form, p=0.5):
    return JointCoAttention(6, 4, N, 3, 1, form, dropout=p).eval(), features(6, 4)


FORMS = pytest.mark.parametrize("form", ["paper", "released"])


@FORMS
def test_dropout_follows_its_own_mode(form):
    """Monte-Carlo dropout: the module evaluates, its Dropouts train."""
    module, inputs = dropped(form)
    certain = module(*inputs)
    for child in module.modules():
        if isinstance(child, nn.Dropout):
            child.train()
    samples = torch.stack([module(*inputs)[0] for _ in range(3)])
    assert not torch.equal(samples[0], samples[1])
    module.train()
    for child in module.modules():
        if isinstance(child, nn.Dropout):
            child.eval()
    assert torch.equal(module(*inputs)[0], certain[0])


@FORMS
def test_dropout_follows_its_own_probability(form):
    module, inputs = dropped(form)
    certain = module(*inputs)
    module.train()
    for layer in module.layers:
        layer.dropout.p = 0.0
    assert torch.equal(module(*inputs)[0], certain[0])
    for layer in module.layers:
        layer.dropout.p = 1.0
    a = module(*inputs)[0]
    if form == "released":
        assert torch.equal(a, inputs[0])
    else:
        layer = module.layers[0]
        expected = inputs[0] + layer.W_ha.mT @ torch.relu(layer.W_a @ inputs[0])
        torch.testing.assert_close(a, expected)


@FORMS
def test_dropout_may_be_left_out(form):
    module, inputs = dropped(form)
    certain = module(*inputs)
    module.train()
    for layer in module.layers:
        layer.dropout = nn.Identity()
    assert torch.equal(module(*inputs)[0], certain[0])


class Half(nn.Module):
    """A deterministic dropout, which keeps the even columns."""

    def forward(self, x):
        return x * (torch.arange(x.shape[-1]) % 2 == 0)


@FORMS
def test_dropout_of_another_kind_acts_on_the_affinity(form):
    module, (audio, visual) = dropped(form)
    layer = module.layers[0]
    layer.dropout = Half()
    out = module(audio, visual)
    c = layer.maps(audio, visual)["C"]
    assert c[0].shape == (3, 6, 10)
    if form == "paper":
        h = torch.relu(layer.W_a @ audio + layer.W_ca @ Half()(c[0]).mT)
        expected = audio + layer.W_ha.mT @ h
    else:
        t = torch.relu(torch.tanh(layer.value[0](audio) @ Half()(c[0])))
        expected = audio + Half()(torch.relu(layer.output[0](t)))
    torch.testing.assert_close(out[0], expected)


@FORMS
def test_a_hook_on_dropout_sees_the_affinity(form):
    module, inputs = dropped(form)
    seen = []
    module.layers[0].dropout.register_forward_hook(
        lambda _m, args, _out: seen.append(args[0].shape)
    )
    out = module(*inputs)
    assert (3, 6, 10) in seen
    module.layers[0].dropout._forward_hooks.clear()
    torch.testing.assert_close(out, module(*inputs))


@FORMS
def test_maps_are_made_inside_the_call_of_a_layer(form):
    """Hooks that prepare a layer's weights before a call, such as pruning, have run by then."""
    module, inputs = dropped(form)
    layer = module.layers[0]
    target = (layer, "W_ha") if form == "paper" else (layer.value[0], "weight")
    prune.random_unstructured(*target, 0.5)
    for _ in range(2):
        _, maps = module(*inputs, return_maps=True)
        maps[0]["H"][0].sum().backward()


# ---- other parts that the fused path could pass by


class OtherJoint(nn.Module):
    """A joint feature of the user's, with none of the attributes of :class:`JointFeature`."""

    def forward(self, inputs, used=None):
        return [2 * torch.cat(list(inputs), dim=-1)]


class Doubled(JointFeature):
    def forward(self, inputs, used=None):
        return [2 * joint for joint in super().forward(inputs, used)]


@pytest.mark.parametrize("form", ["paper", "released"])
@pytest.mark.parametrize("kind", [OtherJoint, lambda: Doubled((4, 2), "concat")])
def test_a_replaced_joint_feature_is_called(form, kind):
    module = JointCoAttention(4, 2, 3, 2, 1, form, "concat").double()
    inputs = [torch.randn(2, 3, width, dtype=torch.float64) for width in (4, 2)]
    expected = copy.deepcopy(module)
    for name, parameter in expected.named_parameters():
        if "W_j" in name or "key" in name:
            parameter.data *= 2  # the scores are linear in J and in its weight
    module.layers[0].joint = kind()
    torch.testing.assert_close(module(*inputs), expected(*inputs))
    maps = module(*inputs, return_maps=True)[1][0]
    torch.testing.assert_close(maps, expected(*inputs, return_maps=True)[1][0])


@pytest.mark.parametrize("form", ["paper", "released"])
def test_a_hook_on_the_joint_feature_fires(form):
    module = JointCoAttention(4, 2, 3, 2, 1, form)
    seen = []
    module.layers[0].joint.register_forward_hook(lambda *args: seen.append(args[0]))
    module(torch.randn(2, 3, 4), torch.randn(2, 3, 2))
    assert seen


def test_a_part_that_an_ablation_leaves_out_may_be_replaced():
    sizes = {"audio_features": 3, "region_features": 4, "num_regions": 2, "num_segments": 5}
    model = AVELocalizer(4, 4, 1, joint_rnn=False, unimodal_rnn=False, **sizes)
    inputs = torch.randn(2, 5, 3), torch.randn(2, 5, 2, 4)
    seen = []
    for part in (model.audio_network, model.visual_network, model.joint_network, model.head):
        part.register_forward_hook(lambda *args: seen.append(args[0]))
    model(*inputs)
    assert len(seen) == 4
