"""The namespaces of the published repositories: initial weights, inputs, iterations and gates."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import published_start as start
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jca_fast import compat
from jca_fast.bench.plain import published_layer
from jca_fast.compat import (
    abaw8,
    dynamic_crossattention,
    joint_cross_attention_for_audio_visual_fusion,
    jointcrossattentional_av_fusion,
    orig_cam,
    pkdot,
    recurrentjointattentionwithlstms,
    released,
    rjcma,
    speaker,
    spiro,
)

TINY = SimpleNamespace(audio_size=6, video_size=8, num_seq=2)
STARTS = {
    "released": (lambda: released.DCNWithRCNN(TINY), start.released_model),
    "DCNLayer": (lambda: released.DCNLayer(8, 6, 3, 0.3), lambda s: start.stack(s, (8, 6), 3, 10)),
    "three": (
        lambda: rjcma.DCNLayer(8, 6, 4, 2, 0.6, 7),
        lambda s: start.stack(s, (8, 6, 4), 2, 7),
    ),
    "emotion": (lambda: orig_cam.CAM(4, 6, 8, 2, hidden_dim=5), start.emotion_model),
    "emotion without LSTM": (
        lambda: joint_cross_attention_for_audio_visual_fusion.CAM(
            4, audio_dim=6, visual_dim=8, num_layers=2, hidden_dim=5
        ),
        lambda s: start.emotion_model(s, rnn=False),
    ),
    "gated emotion": (
        lambda: dynamic_crossattention.CAM(4, 6, 8, 2, hidden_dim=5),
        lambda s: start.emotion_model(s, gates=True),
    ),
    "one segment": (lambda: pkdot.CAM(1, 6, 8, 2, hidden_dim=5), start.one_segment_model),
    "speaker": (
        lambda: speaker.CAM(3, 4, 6, num_speakers=7, unused_dims=(2, 4)),
        start.speaker_model,
    ),
    "GRJCA": (lambda: abaw8.GRJCA_cam(5, 8, 6), lambda s: start.gated_model(s, False)),
    "HGRJCA": (lambda: abaw8.HGRJCA_cam(5, 8, 6), lambda s: start.gated_model(s, True)),
    "paper, N = 8": (
        lambda: jointcrossattentional_av_fusion.CAM(in_dim=9, dim=6),
        lambda s: start.paper_cam(s, 8, ("regressor",), 15),
    ),
    "paper, N = 16": (
        lambda: recurrentjointattentionwithlstms.PaperCAM(in_dim=9, dim=6),
        lambda s: start.paper_cam(s, 16, ("vregressor", "aregressor"), 15),
    ),
}


@pytest.mark.parametrize("name", STARTS)
def test_a_seed_gives_the_published_initial_weights_bit_for_bit(name):
    build, published = STARTS[name]
    expected = published(7)
    after = torch.rand(1)
    torch.manual_seed(7)
    found = build().state_dict()
    assert torch.equal(torch.rand(1), after)  # as many draws
    assert set(found) == set(expected)
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []


def test_recurrent_block_alone_starts_as_published():
    expected = start.Start(3)
    expected.block("x", 7, 6)
    torch.manual_seed(3)
    found = released.LSTM(7, 6, 2, 0.1).state_dict()
    assert all(torch.equal(found[key], expected.weights[f"x.{key}"]) for key in found)


LAYOUTS = {
    "25088": (25088,),
    "49 x 512": (49, 512),
    "7 x 7 x 512": (7, 7, 512),
    "7 x 3584": (7, 3584),
    "25088 x 1": (25088, 1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("strided", [False, True])
def test_any_layout_of_the_regions_is_normalised_over_its_last_axis(layout, strided):
    model = orig_cam.CAM(4, 6, 8, 1, hidden_dim=5).double().eval()
    audio = torch.rand(2, 4, 6, dtype=torch.double)
    visual = torch.rand(2, 4, *LAYOUTS[layout], dtype=torch.double)
    if strided:
        visual = visual.transpose(0, 1).contiguous().transpose(0, 1)
    found = model(audio, visual)
    unit = visual / visual.norm(dim=-1, keepdim=True)
    a = model.audio_extract(audio / audio.norm(dim=-1, keepdim=True))
    v = model.video_extract(model.video_attn(unit.reshape(2, 4, 49, 512), a))
    joint = model.Joint(torch.cat(model.coattn(v, a), dim=-1))
    expected = model.vregressor(joint)[..., 0], model.aregressor(joint)[..., 0]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_buffer_of_25088_is_not_the_same_as_one_of_49_regions():
    model = orig_cam.CAM(4, 6, 8, 1, hidden_dim=5).eval()
    audio, visual = torch.rand(2, 4, 6), torch.rand(2, 4, 49, 512)
    whole, regions = model(audio, visual.flatten(2))[0], model(audio, visual)[0]
    assert (whole - regions).abs().max() > 1e-4


@pytest.mark.parametrize("shape", [(2, 4, 25087), (2, 4, 48, 512), (2, 25088), (2, 4, 0)])
def test_other_sizes_of_the_video_are_refused_with_the_shape_that_came(shape):
    attention = released.PositionAttn(6, 8)
    with pytest.raises(ValueError, match=r"with 49 x 512 numbers .*got \(2, "):
        attention(torch.zeros(shape), torch.zeros(2, 4, 6))


@pytest.mark.parametrize("shape", [(2, 3, 6), (1, 4, 6), (2, 4, 5), (6,)])
def test_an_audio_of_another_number_of_segments_is_refused(shape):
    attention = released.PositionAttn(6, 8)
    with pytest.raises(ValueError, match=r"audio must have shape \(B, N, 6\) with B, N = \(2, 4\)"):
        attention(torch.zeros(2, 4, 25088), torch.zeros(shape))


def test_regions_take_any_number_of_positions_where_the_hidden_width_is_one():
    model = pkdot.CAM(1, 6, 8, 2, hidden_dim=5).eval()
    audio = torch.rand(3, 1, 6)
    assert model(audio, torch.rand(3, 1, 512)).shape == (3, 1, 2)
    assert model(audio, torch.rand(3, 1, 5, 512)).shape == (3, 1, 2)
    assert model(audio[:0], torch.rand(0, 1, 512)).shape == (0, 1, 2)
    with pytest.raises(ValueError, match="with 1 x 512 numbers in each segment"):
        model(audio, torch.rand(3, 1, 511))


STACKS = {
    "released": lambda **o: released.DCNLayer(6, 4, 3, 0.3, 5, **o),
    "abaw8": lambda **o: abaw8.DCNLayer(6, 4, 3, 0.3, 5, **o),
    "spiro": lambda **o: spiro.DCNLayer(6, 4, 3, 0.3, 5, **o),
    "pkdot": lambda **o: pkdot.DCNLayer(6, 4, 3, 0.3, 5, **o),
    "rjcma": lambda **o: rjcma.DCNLayer(6, 4, 2, 3, 0.3, 5, **o),
}


@pytest.mark.parametrize("name", STACKS)
def test_return_all_gives_one_list_for_each_modality(name):
    stack = STACKS[name]().double().eval()
    dims = stack.dcn_layers[0].dense_coattn.dims
    inputs = [torch.randn(2, 5, d, dtype=torch.double) for d in dims]
    expected: list[list[Tensor]] = [[] for _ in dims]
    data = inputs
    for layer in stack.dcn_layers:
        data = published_layer(layer, data)
        for feature, x in zip(expected, data, strict=True):
            feature.append(x)
    found = stack(*inputs, return_all=True)
    assert isinstance(found, tuple)
    assert all(isinstance(feature, list) and len(feature) == 3 for feature in found)
    torch.testing.assert_close(list(found), expected, rtol=1e-11, atol=1e-11)
    last = stack(*inputs, return_all=False)
    torch.testing.assert_close(list(last), [feature[-1] for feature in expected])


def test_return_all_in_the_constructor_and_as_each_repository_has_it():
    x = torch.randn(2, 5, 6), torch.randn(2, 5, 4)
    assert isinstance(STACKS["released"]()(*x)[0], Tensor)
    assert isinstance(STACKS["released"](return_all=True)(*x)[0], list)
    assert isinstance(STACKS["abaw8"]()(*x)[0], list)
    assert isinstance(STACKS["abaw8"](return_all=False)(*x)[0], Tensor)


def mix(gate: nn.Linear, guide: Tensor, *features: Tensor) -> Tensor:
    w = torch.softmax(F.linear(guide, gate.weight, gate.bias) * 10, dim=-1)
    return sum(w[..., i, None] * x for i, x in enumerate(features)).clamp_min(0)


@pytest.mark.parametrize("name", ["GRJCA_cam", "HGRJCA_cam"])
def test_gated_models_compute_the_published_formula(name):
    model = getattr(abaw8, name)(5, 8, 6).double().eval()
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    inputs = [torch.randn(2, 5, d, dtype=torch.double, requires_grad=True) for d in (8, 6)]
    units = [x / x.norm(dim=-1, keepdim=True) for x in inputs]
    first = published_layer(model.coattn.dcn_layers[0], units)
    second = published_layer(model.coattn.dcn_layers[1], first)
    expected = []
    for kind, x, y, z in zip(("video", "audio"), units, first, second, strict=True):
        if name == "GRJCA_cam":
            expected.append(mix(getattr(model, f"{kind}_gating_fc_layer"), z, x, y, z))
            continue
        gates = [
            getattr(model, f"{kind}_gating_fc_layer_{s}") for s in ("stage1", "stage2", "stage")
        ]
        stage1, stage2 = mix(gates[0], y, x, y), mix(gates[1], z, x, y, z)
        expected.append(mix(gates[2], z, stage1, stage2))
    found = model(*inputs)
    torch.testing.assert_close(found, torch.cat(expected, dim=-1), rtol=1e-11, atol=1e-12)
    cotangent = torch.randn_like(found)
    grads = [
        torch.autograd.grad(y, inputs, cotangent) for y in (found, torch.cat(expected, dim=-1))
    ]
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-11)
    model.zero_grad()
    model(*inputs).sum().backward()
    unused = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is None}
    text = {n for n, _ in model.named_children() if n.startswith("text_gating")}
    assert unused == {"vregressor", "aregressor", "Joint", *text}


def test_a_single_layer_has_no_two_iterations_to_gate():
    with pytest.raises(ValueError, match="num_layers must be at least 2, got 1"):
        abaw8.GRJCA_cam(5, 8, 6, num_layers=1)


def test_the_gated_emotion_model_mixes_input_and_update():
    model = dynamic_crossattention.CAM(4, 6, 8, 2, hidden_dim=5).double().eval()
    audio, visual = (torch.rand(2, 4, *s, dtype=torch.double) for s in ((6,), (25088,)))
    a = model.audio_extract(F.normalize(audio, dim=-1))
    v = model.video_extract(model.video_attn(F.normalize(visual, dim=-1), a))
    attended = [v, a]
    for layer in model.coattn.dcn_layers:
        attended = published_layer(layer, attended)
    gates = model.video_gating_fc_layer, model.audio_gating_fc_layer
    mixed = [mix(g, y, x, y) for g, x, y in zip(gates, (v, a), attended, strict=True)]
    joint = model.Joint(torch.cat(mixed, dim=-1))
    expected = model.vregressor(joint)[..., 0], model.aregressor(joint)[..., 0]
    torch.testing.assert_close(model(audio, visual), expected, rtol=1e-11, atol=1e-12)


def test_every_namespace_can_be_imported_and_pickled():
    for repository in compat.REPOSITORIES:
        assert getattr(compat, repository).__name__ == f"jca_fast.compat.{repository}"
    for model in (STACKS["spiro"](), STACKS["abaw8"](), pkdot.CAM(1, 6, 8, 2, hidden_dim=5)):
        again = pickle.loads(pickle.dumps(model))
        assert type(again) is type(model)


def test_the_layer_without_a_query_is_the_published_default_of_its_repository():
    stack = spiro.DCNLayer(6, 4, 2, 0.6)
    assert stack.dcn_layers[0].dense_coattn.num_segments == 300
    assert not stack.dcn_layers[0].dense_coattn.use_query
    assert spiro.DCNLayer(6, 4, 2, 0.6, use_query=True).dcn_layers[0].dense_coattn.use_query
