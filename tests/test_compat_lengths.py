"""Padded clips in the published modules: each gives the result of the shorter clip."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from jca_fast.compat import (
    abaw8,
    cam,
    dynamic_crossattention,
    orig_cam,
    pkdot,
    released,
    rjcma,
    speaker,
    spiro,
)

N, LENGTHS = 7, [7, 3, 1]
REGIONS = (49, 512)


def whole_model(n: int) -> nn.Module:
    options = {"audio_size": 6, "video_size": 8, "num_seq": 2, "num_classes": 3, "rnn": "GRU"}
    return released.DCNWithRCNN(SimpleNamespace(**options, num_segments=n))


def fusion_model(n: int) -> nn.Module:
    return speaker.FusionModel(speaker.CAM(n, 6, 8, unused_dims=(2, 2)), 4, hidden_dim=3)


MODELS = {
    "DenseCoAttn": (lambda n: released.DenseCoAttn(6, 8, 0.3, n), ((6,), (8,))),
    "DCNLayer": (lambda n: released.DCNLayer(6, 8, 2, 0.3, n), ((6,), (8,))),
    "plain query": (lambda n: spiro.DCNLayer(6, 8, 2, 0.3, n), ((6,), (8,))),
    "three modalities": (lambda n: rjcma.DCNLayer(6, 8, 4, 2, 0.3, n), ((6,), (8,), (4,))),
    "CAM": (lambda n: cam.CAM(n, 9, 6, 4, hidden_dim=3), ((9,), (9,))),
    "two heads": (
        lambda n: cam.CAM(n, 9, 6, 4, heads=("v", "a"), hidden_dim=3),
        ((9,), (9,)),
    ),
    "orig_cam": (lambda n: orig_cam.CAM(n, 6, 8), ((6,), REGIONS)),
    "without LSTM": (lambda n: orig_cam.CAM(n, 6, 8, unimodal_rnn=False), ((6,), REGIONS)),
    "gates": (lambda n: dynamic_crossattention.CAM(n, 6, 8), ((6,), REGIONS)),
    "one head": (lambda n: pkdot.CAM(n, 6, 8), ((6,), (512,))),
    "speaker": (fusion_model, ((6,), (8,))),
    "iterated gates": (lambda n: abaw8.GRJCA_cam(n, 6, 8), ((6,), (8,))),
    "hierarchical gates": (lambda n: abaw8.HGRJCA_cam(n, 6, 8), ((6,), (8,))),
    "DCNWithRCNN": (whole_model, ((128,), (7, 7, 512))),
    "PredictLayer": (lambda n: released.PredictLayer(6, 8, 3, 0.3), ((6,), (8,))),
}


def made(name: str) -> tuple[nn.Module, list[Tensor]]:
    """A model of N segments with biases that are not zero, and clips with NaN in their padding."""
    torch.manual_seed(1)
    build, shapes = MODELS[name]
    model = build(N).double().eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter)
    inputs = [torch.randn(len(LENGTHS), N, *shape, dtype=torch.double) for shape in shapes]
    for x in inputs:
        for b, length in enumerate(LENGTHS):
            x[b, length:] = torch.nan
    return model, [x.requires_grad_() for x in inputs]


def shorter(name: str, model: nn.Module, n: int) -> nn.Module:
    """The same model of ``n`` segments, its weights cut."""
    short = MODELS[name][0](n).double().eval()
    keys = ("key", "affine_a.", "affine_v.", "W_a.", "W_v.", "W_ha.", "W_hv.")
    state = {
        name: t[tuple(slice(n if size == N else None) for size in t.shape)]
        if any(key in name for key in keys)
        else t
        for name, t in model.state_dict().items()
    }
    short.load_state_dict(state if n != N else model.state_dict())
    return short


def as_tuple(out: Tensor | tuple) -> tuple:
    """The outputs; of a module that returns every iteration, the last one."""
    outs = (out,) if isinstance(out, Tensor) else out
    return tuple(y[-1] if isinstance(y, list) else y for y in outs)


@pytest.mark.parametrize("name", MODELS)
def test_a_padded_clip_is_the_shorter_clip(name):
    model, inputs = made(name)
    outs = as_tuple(model(*inputs, lengths=LENGTHS))
    grads = torch.autograd.grad(sum(y.square().sum() for y in outs), inputs)
    for b, n in enumerate(LENGTHS):
        alone = [x.detach()[b : b + 1, :n].requires_grad_() for x in inputs]
        expected = as_tuple(shorter(name, model, n)(*alone))
        short_grads = torch.autograd.grad(sum(y.square().sum() for y in expected), alone)
        for got, wanted in zip(outs, expected, strict=True):
            cut = got[b : b + 1, :n] if name != "speaker" else got[b : b + 1]
            torch.testing.assert_close(cut, wanted, rtol=1e-9, atol=1e-11)
            assert name == "speaker" or not got[b, n:].any()
        for got, wanted in zip(grads, short_grads, strict=True):
            torch.testing.assert_close(got[b : b + 1, :n], wanted, rtol=1e-9, atol=1e-11)
            assert not got[b, n:].any()


@pytest.mark.parametrize("name", [name for name in MODELS if name != "speaker"])
def test_a_mask_is_the_same_and_weights_learn(name):
    model, inputs = made(name)
    mask = torch.arange(N) >= torch.tensor(LENGTHS)[:, None]
    outs = as_tuple(model(*inputs, key_padding_mask=mask))
    for got, wanted in zip(outs, as_tuple(model(*inputs, lengths=LENGTHS)), strict=True):
        assert torch.equal(got, wanted)
    sum(y.square().sum() for y in outs).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_exported_with_lengths():
    model, inputs = made("CAM")
    inputs = tuple(x.detach().nan_to_num() for x in inputs)
    program = torch.export.export(model, inputs, {"lengths": torch.tensor(LENGTHS)}).module()
    lengths = torch.tensor([2, 7, 0])
    got = as_tuple(program(*inputs, lengths=lengths))
    torch.testing.assert_close(got, as_tuple(model(*inputs, lengths=lengths)))


@pytest.mark.filterwarnings("ignore")
def test_traced_with_lengths():
    model, inputs = made("DCNWithRCNN")
    inputs = tuple(x.detach().nan_to_num() for x in inputs)
    traced = torch.jit.trace(model, (*inputs, torch.tensor(LENGTHS)))
    lengths = torch.tensor([2, 7, 0])
    expected = as_tuple(model(*inputs, lengths=lengths))
    torch.testing.assert_close(as_tuple(traced(*inputs, lengths)), expected)


def test_attended_features_and_maps():
    model, inputs = made("CAM")
    attended = model.attend(*inputs, lengths=LENGTHS)
    maps = model.maps(*inputs, lengths=LENGTHS)
    alone = [x[1:2, :3] for x in inputs]
    short = shorter("CAM", model, 3)
    torch.testing.assert_close([y[1:2, :3] for y in attended], list(short.attend(*alone)))
    assert not any(y[1, 3:].any() for y in attended)
    for symbol, expected in short.maps(*alone).items():
        torch.testing.assert_close([m[1:2] for m in maps[symbol]], list(expected))


@pytest.mark.parametrize("name", ["CAM", "DCNLayer", "orig_cam"])
def test_called_linears_know_the_padding(name):
    """A hook makes a module call its Linears in place of reading them."""
    model, inputs = made(name)
    expected = as_tuple(model(*inputs, lengths=LENGTHS))
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda *_: None)
    torch.testing.assert_close(as_tuple(model(*inputs, lengths=LENGTHS)), expected)


@pytest.mark.parametrize("name", ["CAM", "DCNLayer", "orig_cam"])
def test_errors_name_the_argument(name):
    model, inputs = made(name)
    with pytest.raises(ValueError, match="lengths must lie between 0 and 7"):
        model(*inputs, lengths=[8, 1, 1])
    with pytest.raises(ValueError, match="either lengths or key_padding_mask"):
        model(*inputs, lengths=LENGTHS, key_padding_mask=torch.zeros(3, N, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"(visual|modality 2|f2_norm) must have shape"):
        model(inputs[0], inputs[1][:, :5], lengths=LENGTHS)
