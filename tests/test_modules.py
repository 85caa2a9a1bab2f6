"""The modules: the equations written out, every strategy and option, bad input."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from jca_fast import JointCoAttention
from jca_fast.modules import (
    JOINT_STRATEGIES,
    AdditiveReduction,
    AudioGuidedReduction,
    JointFeature,
    PooledReduction,
    ResidualRNN,
)


def features(batch=3, n=5, dims=(6, 4), dtype=torch.float64):
    return [torch.randn(batch, n, d, dtype=dtype) for d in dims]


def paper_equations(module, audio, visual):
    """Eqs. 3-8 with the module's own parameters, one sample at a time as the public code loops."""
    for layer in module.layers:
        new_audio, new_visual = [], []
        for a, v in zip(audio, visual, strict=True):
            joint = torch.cat((a, v), dim=-1)
            scale = joint.shape[-1] ** -0.5
            c_a, c_v = (
                torch.tanh(a.T @ layer.W_ja @ joint * scale),
                torch.tanh(v.T @ layer.W_jv @ joint * scale),
            )
            h_a = torch.relu(layer.W_a @ a + layer.W_ca @ c_a.T)
            h_v = torch.relu(layer.W_v @ v + layer.W_cv @ c_v.T)
            new_audio.append(a + layer.W_ha.T @ h_a)
            new_visual.append(v + layer.W_hv.T @ h_v)
        audio, visual = torch.stack(new_audio), torch.stack(new_visual)
    return audio, visual


def released_equations(module, first, second):
    """The released code's layer, modality by modality."""
    inputs = [first, second]
    for layer in module.layers:
        query = layer.joint.fc[0](torch.cat(inputs, dim=-1))
        out = []
        for x, key, value, output in zip(inputs, layer.key, layer.value, layer.output, strict=True):
            c = torch.tanh(key(x.mT) @ query * query.shape[-1] ** -0.5)
            out.append(x + torch.relu(output(torch.relu(torch.tanh(value(x) @ c)))))
        inputs = out
    return inputs


@pytest.mark.parametrize("n", [1, 5, 16])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("form", "equations"), [("paper", paper_equations), ("released", released_equations)]
)
def test_forms_follow_their_equations(form, equations, batch, n):
    module = JointCoAttention(6, 4, n, attention_dim=3, num_layers=3, form=form).double()
    inputs = features(batch, n)
    for got, expected in zip(module(*inputs), equations(module, *inputs), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("form", ["paper", "released"])
@pytest.mark.parametrize("joint", JOINT_STRATEGIES)
def test_every_strategy_trains_and_reaches_every_parameter(form, joint):
    module = JointCoAttention(6, 6, 5, 4, 2, form, joint, dropout=0.1)
    for batch in (0, 1, 3):
        audio, visual = features(batch, dims=(6, 6), dtype=torch.float32)
        out = module(audio, visual)
        assert [x.shape for x in out] == [audio.shape, visual.shape]
        sum(x.square().sum() for x in out).backward()
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize("form", ["paper", "released"])
def test_three_modalities(form):
    module = JointCoAttention(
        dims=(6, 4, 3), num_segments=5, num_layers=2, attention_dim=4, form=form
    ).double()
    inputs = features(dims=(6, 4, 3))
    out = module(*inputs)
    assert [x.shape for x in out] == [x.shape for x in inputs]
    changed = module(inputs[0], inputs[1], inputs[2] + 1)
    assert not torch.equal(out[0], changed[0])


def test_joint_features():
    a, v, w = features(dims=(6, 6, 6))
    assert torch.equal(JointFeature((6, 6, 6), "add")((a, v, w))[0], a + v + w)
    assert torch.equal(JointFeature((6, 6), "multiply")((a, v))[0], a * v)
    assert torch.equal(JointFeature((6, 6), "concat")((a, v))[0], torch.cat((a, v), -1))
    crossed = JointFeature((6, 6, 6), "cross")((a, v, w))
    assert torch.equal(crossed[1], torch.cat((a, w), -1))
    full = JointFeature((6, 4), "concat_fc").double()
    joint = torch.cat((a, v[..., :4]), -1)
    torch.testing.assert_close(full((a, v[..., :4]))[0], full.fc[0](joint))
    assert JointFeature((6, 4), "cross_fc").widths == (4, 6)


@pytest.mark.parametrize("form", ["paper", "released"])
@pytest.mark.parametrize("joint", ["concat", "cross", "add_fc"])
def test_iterations_and_maps(form, joint):
    module = JointCoAttention(6, 6, 5, 4, 3, form, joint).double()
    inputs = features(dims=(6, 6))
    iterations, maps = module(*inputs, return_all=True, return_maps=True)
    assert len(iterations) == len(maps) == 3
    for got, expected in zip(iterations[-1], module(*inputs), strict=True):
        assert torch.equal(got, expected)
    before = inputs
    for layer, after, m in zip(module.layers, iterations, maps, strict=True):
        for i in (0, 1):
            assert m["C"][i].abs().max() <= 1
            if form == "paper":
                update = layer.weights("W_h")[i].mT @ m["H"][i]
            else:
                update = torch.relu(layer.output[i](m["H"][i]))
            torch.testing.assert_close(before[i] + update, after[i])
        before = after


@pytest.mark.parametrize("form", ["paper", "released"])
def test_dropout_acts_in_training_only(form):
    module = JointCoAttention(6, 4, 5, 4, 2, form, dropout=0.5)
    inputs = features(dtype=torch.float32)
    assert not torch.equal(module(*inputs)[0], module(*inputs)[0])
    module.eval()
    assert torch.equal(module(*inputs)[0], module(*inputs)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"audio_dim": 6}, "give audio_dim and visual_dim, or dims"),
        ({"audio_dim": 6, "visual_dim": 4, "dims": (6, 4)}, "not both"),
        ({"dims": (6,)}, "two or more modalities"),
        ({"audio_dim": 6, "visual_dim": 0}, r"dims\[1\] must be an int of at least 1, got 0"),
        ({"dims": (6, 4), "num_segments": 0}, "num_segments must be an int of at least 1"),
        ({"dims": (6, 4), "num_layers": 0}, "num_layers must be"),
        ({"dims": (6, 4), "form": "papr"}, "form must be 'paper' or 'released', got 'papr'"),
        (
            {"dims": (6, 4), "joint": "add"},
            r"joint='add' needs modalities of one width, got widths \(6, 4\)",
        ),
        ({"dims": (6, 4), "joint": "sum"}, "joint must be one of add, multiply"),
        ({"dims": (6, 4), "dropout": 2}, "dropout must be a probability"),
    ],
)
def test_constructor_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        JointCoAttention(**arguments)


def test_input_errors():
    module = JointCoAttention(6, 4, 5)
    audio, visual = features(dtype=torch.float32)
    with pytest.raises(ValueError, match=r"visual must have shape \(B, 5, 4\), got \(3, 5, 6\)"):
        module(audio, audio)
    message = r"audio must have shape \(B, 5, 6\), or fewer segments, got \(3, 6, 6\); cut_windows"
    with pytest.raises(ValueError, match=message):
        module(torch.zeros(3, 6, 6), torch.zeros(3, 6, 4))
    with pytest.raises(ValueError, match=r"visual must have shape \(3, 5, 4\) to go with audio"):
        module(audio, visual[:, :4])
    with pytest.raises(ValueError, match="one feature for each of the 2 modalities, got 1"):
        module(audio)


def test_guided_reduction_follows_its_formula():
    module = AudioGuidedReduction(6, 8).double()
    audio, regions = torch.randn(2, 3, 6).double(), torch.randn(2, 3, 5, 8).double()
    out, weights = module(audio, regions)
    query = module.query(audio)
    expected = torch.softmax(torch.einsum("bnd,bnrd->bnr", query, regions) / 8**0.5, -1)
    torch.testing.assert_close(weights, expected)
    torch.testing.assert_close(out, torch.einsum("bnr,bnrd->bnd", expected, regions))


def test_additive_reduction_follows_its_formula():
    module = AdditiveReduction(6, 8, 4, num_regions=9).double()
    audio, regions = torch.randn(2, 3, 6).double(), torch.randn(2, 3, 9, 8).double()
    out, weights = module(audio, regions)
    hidden = F.relu(module.regions(regions)) @ module.score_regions.weight.T
    hidden = torch.tanh(
        hidden + (F.relu(module.audio(audio)) @ module.score_audio.weight.T).unsqueeze(-1)
    )
    expected = torch.softmax((hidden @ module.score.weight.T).squeeze(-1), -1)
    torch.testing.assert_close(weights, expected)
    torch.testing.assert_close(out, module.output((expected.unsqueeze(-1) * regions).sum(-2)))
    with pytest.raises(ValueError, match="regions must have 9 positions"):
        module(audio, regions[..., :8, :])


def test_pooling():
    regions = torch.randn(2, 3, 5, 8)
    assert torch.equal(PooledReduction("average")(None, regions)[0], regions.mean(2))
    assert torch.equal(PooledReduction("max")(None, regions)[0], regions.amax(2))
    with pytest.raises(ValueError, match="kind must be 'average' or 'max'"):
        PooledReduction("mean")


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
def test_recurrent_block(cell, residual, normalize):
    module = ResidualRNN(5, 6, cell=cell, residual=residual, normalize=normalize).double()
    x = torch.randn(3, 7, 5).double()
    states = module.init_hidden.unsqueeze(1).expand(-1, 3, -1).contiguous()
    y, _ = module.rnn(x, states if cell == "gru" else (states[:4], states[4:]))
    expected = module.linear(torch.cat((x, y), -1) if residual else y)
    expected = expected / expected.norm(dim=-1, keepdim=True) if normalize else expected
    torch.testing.assert_close(module(x), expected)
    assert module(x[:0]).shape == (0, 7, 6)
    module(x).sum().backward()
    assert module.init_hidden.grad.any()


def test_recurrent_block_errors():
    with pytest.raises(ValueError, match="dim must be even, half for each direction; got 7"):
        ResidualRNN(5, 7)
    with pytest.raises(ValueError, match="cell must be 'lstm' or 'gru'"):
        ResidualRNN(5, 6, cell="rnn")
