"""The modules of jca_fast.compat against published names, sizes and arithmetic."""

from __future__ import annotations

import copy
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.looped import looped
from jca_fast.bench.plain import published_layer
from jca_fast.compat import cam, orig_cam, released, rjcma, speaker
from jca_fast.heads import AttentiveStatisticsPooling

WHOLE = {
    "tuffr5 models.DCNWithRCNN(da=512,dv=512,l=4)": (
        lambda: released.DCNWithRCNN(SimpleNamespace()),
        126,
        22_776_510,
    ),
    "tuffr5 models.DCNWithRCNN(da=256,dv=1024,l=4)": (
        lambda: released.DCNWithRCNN(SimpleNamespace(audio_size=256, video_size=1024)),
        126,
        50_736_830,
    ),
    "JointCrossAttentional-AV-Fusion models.cam.CAM (HEAD: regressor 640 in, cannot run)": (
        lambda: cam.CAM(8, head_input="visual"),
        16,
        231_041,
    ),
    "RecurrentJointAttentionwithLSTMs models.cam.CAM": (lambda: cam.CAM(16), 20, 314_626),
    "... models.Jcam_512.CAM": (cam.Jcam_512, 12, 199_425),
    "RecurrentJointAttentionwithLSTMs models.orig_cam.CAM": (orig_cam.CAM, 88, 15_947_859),
    "Joint-Cross-Attention-for-Audio-Visual-Fusion models.orig_cam.CAM": (
        lambda: orig_cam.CAM(unimodal_rnn=False),
        50,
        8_586_323,
    ),
    "RJCAforSpeakerVerification orig_cam.CAM (checkpoint prefix JCA_model.)": (
        speaker.CAM,
        117,
        18_378_511,
    ),
    "RJCMA models.av_crossatten.DCNLayer(256,128,128,2,0.6) (prefix coattn.)": (
        lambda: rjcma.DCNLayer(256, 128, 128, 2, 0.6),
        40,
        1_790_056,
    ),
}
"""How to build a published model, and the number of its keys and of its parameters.

The reference data beside the checkout has the keys of some of them, under the same names.
"""


def shapes(model: nn.Module) -> dict[str, list[int]]:
    return {key: list(value.shape) for key, value in model.state_dict().items()}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_models_have_the_published_number_of_keys_and_parameters(name):
    build, keys, parameters = WHOLE[name]
    with torch.device("meta"):
        model = build()
    assert len(model.state_dict()) == keys
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_whole_models_have_the_published_names_shapes_and_order(shared):
    """The order matters because the state of an optimizer depends on it."""
    published = json.loads((shared / "golden" / "keys" / "state_dicts_published.json").read_text())
    assert set(published) <= set(WHOLE)
    for name, keys in published.items():
        with torch.device("meta"):
            model = WHOLE[name][0]()
        assert list(shapes(model).items()) == list(keys.items()), name
        assert {key for key, _ in model.named_parameters()} == set(keys), name


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize(
    ("dims", "n", "use_query"),
    [
        ((6, 4), 10, True),
        ((32, 48), 1, True),
        ((5, 9), 300, True),
        ((7, 3), 8, False),
        ((8, 4, 5), 12, False),
    ],
)
def test_layers_compute_the_published_formula(dims, n, batch, use_query):
    if len(dims) == 3:
        stack = rjcma.DCNLayer(*dims, 2, 0.6, num_segments=n)
    else:
        stack = released.DCNLayer(*dims, 2, 0.3, n, use_query=use_query)
    stack = stack.double().eval()
    ours = [torch.randn(batch, n, d, dtype=torch.double, requires_grad=True) for d in dims]
    theirs = [x.detach().clone().requires_grad_() for x in ours]
    out, expected = stack(*ours), theirs
    for layer in stack.dcn_layers:
        expected = published_layer(layer, expected)
    torch.testing.assert_close(list(out), list(expected), rtol=1e-11, atol=1e-11)
    grads = torch.autograd.grad(sum((y * y).sum() for y in out), ours)
    expected_grads = torch.autograd.grad(sum((y * y).sum() for y in expected), theirs)
    torch.testing.assert_close(grads, expected_grads, rtol=1e-9, atol=1e-11)


def test_unused_query_gets_no_gradient():
    stack = rjcma.DCNLayer(4, 3, 2, 1, 0.6, num_segments=5)
    sum(
        y.sum() for y in stack(torch.randn(2, 5, 4), torch.randn(2, 5, 3), torch.randn(2, 5, 2))
    ).backward()
    without = {name for name, p in stack.named_parameters() if p.grad is None}
    assert without == {
        f"dcn_layers.0.dense_coattn.query_linear.{part}" for part in ("weight", "bias")
    }


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_segments": 8, "in_dim": 9, "dim": 6, "attention_dim": 5},
        {"num_segments": 16, "in_dim": (9, 7), "dim": (6, 4), "attention_dim": 3},
        {"num_segments": 1, "in_dim": 5, "dim": None},
        {"num_segments": 3, "in_dim": (5, 8), "dim": None, "heads": ()},
        {"num_segments": 8, "in_dim": 9, "dim": 6, "head_input": "visual"},
    ],
)
def test_cam_is_the_loop_over_the_clips(arguments):
    model = cam.CAM(**arguments).double().eval()
    inputs = [
        torch.randn(4, model.num_segments, width, dtype=torch.double, requires_grad=True)
        for width in model.in_dims
    ]
    out = model(*inputs)
    heads = out if isinstance(out, tuple) else (out,)
    ours = [*(heads if model.heads else ()), *model.attend(*inputs)]
    expected = looped(model, *inputs)
    torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-12)
    leaves = [*inputs, *model.parameters()]
    theirs, mine = (
        torch.autograd.grad(sum((y * y).sum() for y in outputs), leaves, allow_unused=True)
        for outputs in (expected, ours)
    )
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


def test_cam_trains_like_the_loop():
    """Five steps of Adam on clips and targets end at the same weights."""
    first = cam.CAM(8, 12, 6, 4, hidden_dim=5, dropout=0.0).double()
    second = copy.deepcopy(first)
    start = copy.deepcopy(first.state_dict())
    optimizers = [torch.optim.Adam(model.parameters(), lr=1e-2) for model in (first, second)]
    for _ in range(5):
        audio, visual, target = (
            torch.randn(6, 8, width, dtype=torch.double) for width in (12, 12, 1)
        )
        outputs = first(audio, visual), looped(second, audio, visual)[0]
        for optimizer, output in zip(optimizers, outputs, strict=True):
            optimizer.zero_grad()
            nn.functional.mse_loss(output, target).backward()
            optimizer.step()
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=1e-8, atol=1e-10)
    assert all((first.state_dict()[key] - value).abs().max() > 1e-3 for key, value in start.items())


def test_cam_heads_by_number_of_segments():
    assert cam.CAM(8).heads == ("regressor",)
    assert cam.CAM(16).heads == ("vregressor", "aregressor")
    audio, visual = torch.randn(2, 16, 512), torch.randn(2, 16, 512)
    valence, arousal = cam.CAM(16).eval()(audio, visual)
    assert valence.shape == arousal.shape == (2, 16, 1)
    jcam = cam.Jcam_512().eval()
    assert jcam(audio, visual).shape == (2, 16, 1)
    assert not any(key.startswith("encoder") for key in jcam.state_dict())


def test_weights_without_a_published_gradient_get_none():
    """A zero in its place would let weight decay change them."""
    model = cam.CAM(16, 9, 6, 4)  # its heads never see the attended audio
    inputs = torch.randn(2, 16, 9), torch.randn(2, 16, 9)
    sum(y.sum() for y in model(*inputs)).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    model.zero_grad(set_to_none=True)
    sum(y.sum() for y in looped(model, *inputs)[:2]).backward()
    assert without == {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {f"{name}.weight" for name in ("affine_a", "W_a", "W_ca", "W_ha")}


def whole_model(**options) -> released.DCNWithRCNN:
    defaults = {"audio_size": 6, "video_size": 8, "num_seq": 2}
    return released.DCNWithRCNN(SimpleNamespace(**{**defaults, **options}))


def test_released_model_takes_both_layouts_of_the_regions_and_any_batch():
    model = whole_model(num_segments=3).eval()
    audio, video = torch.rand(2, 3, 128), torch.rand(2, 3, 7, 7, 512)
    scores = model(audio, video)
    assert scores.shape == (2, 3, 29)
    torch.testing.assert_close(scores.sum(-1), torch.ones(2, 3))
    torch.testing.assert_close(model(audio, video.flatten(2, 3)), scores)
    torch.testing.assert_close(model(audio[:1], video[:1]), scores[:1], rtol=1e-4, atol=1e-6)
    assert model(audio[:0], video[:0]).shape == (0, 3, 29)


def test_batch_of_one_keeps_its_axis_unless_asked_otherwise():
    audio, video = torch.rand(1, 10, 128), torch.rand(1, 10, 49, 512)
    options = SimpleNamespace(audio_size=6, video_size=8, num_seq=1)
    ours, published = (
        released.DCNWithRCNN(options).eval(),
        released.DCNWithRCNN(options, squeeze=True).eval(),
    )
    published.load_state_dict(ours.state_dict())
    assert ours(audio, video).shape == (1, 10, 29)
    torch.testing.assert_close(published(audio, video), ours(audio, video)[0])


def test_gru_works():
    model = whole_model(rnn="GRU")
    assert model.audio_extract.init_hidden.shape == (4, 3)
    out = model.audio_extract(torch.randn(2, 10, 128))
    torch.testing.assert_close(out.norm(dim=-1), torch.ones(2, 10))
    scores = model(torch.rand(2, 10, 128), torch.rand(2, 10, 49, 512))
    scores[..., 0].sum().backward()
    assert model.audio_extract.init_hidden.grad.abs().sum() > 0


def test_sizes_may_be_integers_of_numpy():
    n, width, dim, k = np.array([5, 6, 4, 3])
    x = torch.randn(2, 5, 6)
    assert cam.CAM(n, width, dim, k)(x, x).shape == (2, 5, 1)
    assert cam.Jcam_512(n, width, k)(x, x).shape == (2, 5, 1)
    for block in (released.LSTM, released.GRU):
        assert block(width, dim, np.int32(1), 0.0)(x).shape == (2, 5, 4)


def test_whole_models_start_as_published():
    model = whole_model()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            bound = (6 / sum(module.weight.shape)) ** 0.5
            assert module.weight.abs().max() <= bound
            assert module.bias is None or not module.bias.any()


def test_dropout_follows_the_dropout_modules():
    """Rates may be changed and single dropouts switched off, as on the published modules."""
    layer = released.DenseCoAttn(6, 4, 0.5, 10)
    x = torch.randn(2, 10, 6), torch.randn(2, 10, 4)
    dropped = layer(*x)
    layer.eval()
    full = layer(*x)
    assert all(not torch.equal(a, b) for a, b in zip(dropped, full, strict=True))
    layer.train()
    layer.dropouts[0].p = 0.0
    first, second = layer(*x)
    torch.testing.assert_close(first, full[0])
    assert not torch.equal(second, full[1])
    layer.dropouts[1].eval()
    torch.testing.assert_close(layer(*x)[1], full[1])


def test_copies_and_pickles():
    model = whole_model().eval()
    audio, video = torch.rand(2, 10, 128), torch.rand(2, 10, 49, 512)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        torch.testing.assert_close(other(audio, video), model(audio, video), rtol=0, atol=0)


def test_emotion_model():
    model = orig_cam.CAM(4, 6, 8, 2, hidden_dim=5).eval()
    audio, visual = torch.rand(2, 4, 6), torch.rand(2, 4, 7, 7, 512)
    valence, arousal = model(audio, visual)
    assert valence.shape == arousal.shape == (2, 4)
    torch.testing.assert_close(
        model(audio * 3, visual * 2), (valence, arousal), rtol=1e-4, atol=1e-5
    )  # normalised
    bare = orig_cam.CAM(4, 6, 8, 2, unimodal_rnn=False).eval()
    assert bare(audio, visual)[0].shape == (2, 4)


def test_speaker_model():
    inner = speaker.CAM(3, 4, 6, num_speakers=7, unused_dims=(2, 2))
    model = speaker.FusionModel(inner, 5, hidden_dim=8)
    audio, visual = torch.rand(4, 3, 4), torch.rand(4, 3, 6)
    assert inner(audio, visual).shape == (4, 3, 10)
    embedding = model(audio, visual)
    assert embedding.shape == (4, 5)
    embedding.sum().backward()
    unused = {name.split(".")[1] for name, p in model.named_parameters() if p.grad is None}
    assert unused == {"video_attn", "predict"}
    assert isinstance(model.asp, AttentiveStatisticsPooling)


def test_errors_name_what_is_wrong():
    with pytest.raises(
        ValueError, match=r"modality 2 must have shape \(B, 10, 4\), got \(2, 8, 4\)"
    ):
        released.DCNLayer(6, 4, 1, 0.3)(torch.zeros(2, 10, 6), torch.zeros(2, 8, 4))
    with pytest.raises(ValueError, match="each of the 2 modalities, got 1"):
        released.DCNLayer(6, 4, 1, 0.3)(torch.zeros(2, 10, 6))
    with pytest.raises(ValueError, match="num_segments must be an int of at least 1"):
        released.DenseCoAttn(6, 4, 0.3, 0)
    with pytest.raises(ValueError, match="dropout must be a probability"):
        released.DenseCoAttn(6, 4, 3)
    with pytest.raises(ValueError, match="num_seq"):
        released.DCNLayer(6, 4, 0, 0.3)
    with pytest.raises(ValueError, match=r"opt\.rnn must be 'LSTM' or 'GRU'"):
        whole_model(rnn="RNN")
    with pytest.raises(ValueError, match=r"video must have shape \(B, N, 7, 7, 512\)"):
        released.PositionAttn(6, 4)(torch.zeros(2, 10, 48, 512), torch.zeros(2, 10, 6))
    with pytest.raises(ValueError, match=r"visual must have shape \(B, 8, 512\)"):
        cam.CAM()(torch.zeros(2, 8, 512), torch.zeros(2, 9, 512))
    with pytest.raises(ValueError, match="head_input must be"):
        cam.CAM(head_input="audio")


def mismatched():
    """Published modules with two features of one clip, and the name of the second feature."""
    features = torch.zeros(2, 4, 6), torch.zeros(2, 4, 8)
    yield "modality 2", released.DCNLayer(6, 8, 1, 0.3, 4), features
    yield "visual", cam.CAM(4, (6, 8), 4), features
    regions = torch.zeros(2, 4, 49, 512)
    yield "audio", released.PositionAttn(6, 4), (regions, features[0])
    yield "f2_norm", orig_cam.CAM(4, 6, 8, unimodal_rnn=False), (features[0], regions)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x: x.to("meta"), ValueError, "must be on cpu like .*, got meta"),
        (lambda x: x.double(), TypeError, "must be torch.float32 like .*, got torch.float64"),
        (lambda x: x.numpy(), TypeError, "must be a tensor, got ndarray"),
    ],
)
def test_a_feature_unlike_the_first_is_named(change, error, message):
    for name, module, (first, second) in mismatched():
        with pytest.raises(error, match=f"{name} {message}"):
            module(first, change(second))
