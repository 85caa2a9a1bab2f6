"""Calls and attributes that published code uses, on every class of every repository."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from jca_fast import compat
from jca_fast.compat import (
    abaw8,
    cam,
    dynamic_crossattention,
    orig_cam,
    pkdot,
    recursive_joint_co_attention,
    released,
    rjcaforspeakerverification,
    rjcma,
    speaker,
)

SIZES = ("embed_size", "dim", "num_layers", "dropout", "residual_embeddings")
CALLS = {
    "LSTM": (SIZES, ("inputs",)),
    "GRU": (SIZES, ("inputs",)),
    "DenseCoAttn": (("dim1", "dim2", "dropout"), ("value1", "value2")),
    "NormalSubLayer": (("dim1", "dim2", "dropout"), ("data1", "data2")),
    "DCNLayer": (("dim1", "dim2", "num_seq", "dropout"), ("data1", "data2")),
    "BottomUpExtract": (("emed_dim", "dim"), ("video", "audio")),
    "PositionAttn": (("embed_dim", "dim"), ("video", "audio")),
    "PredictLayer": (("dim1", "dim2", "num_ans", "dropout"), ("data1", "data2")),
    "Normalization": ((), ("audio", "video")),
    "DCNWithRCNN": (("opt",), ("audio", "video")),
    "FusionModel": ((), ("a_feat", "v_feat")),
    "CAM": ((), ("f1_norm", "f2_norm")),
    "PaperCAM": ((), ("f1_norm", "f2_norm")),
    "Jcam_512": ((), ("f1_norm", "f2_norm")),
    "GRJCA_cam": ((), ("f1_norm", "f2_norm")),
    "HGRJCA_cam": ((), ("f1_norm", "f2_norm")),
}
"""The published arguments of the constructor and of a call, in their order."""
CALLS |= {
    f"rjcma.{name}": tuple(
        tuple(part for x in names for part in ((x, f"{x[:-1]}3") if x[-1] == "2" else (x,)))
        for names in CALLS[name]
    )
    for name in ("DenseCoAttn", "NormalSubLayer", "DCNLayer")
}
CLASSES = [
    (repository, name)
    for repository in compat.REPOSITORIES
    for name in getattr(compat, repository).__all__
]


@pytest.mark.parametrize(("repository", "name"), CLASSES)
def test_constructors_and_calls_have_the_published_names_in_their_order(repository, name):
    cls = getattr(getattr(compat, repository), name)
    published = CALLS.get(f"{repository}.{name}") or CALLS[name]
    for method, names in zip((cls.__init__, cls.forward), published, strict=True):
        found = list(inspect.signature(method).parameters)[1:]
        assert tuple(found[: len(names)]) == names
        more = list(inspect.signature(method).parameters.values())[1 + len(names) :]
        required = [p.name for p in more if p.default is p.empty and p.kind not in (2, 4)]
        assert required == []


KEYWORDS = {
    "two": (lambda: released.DenseCoAttn(6, 4, 0.3, 5), ((5, 6), (5, 4))),
    "layer": (lambda: abaw8.NormalSubLayer(6, 4, 0.3, 5), ((5, 6), (5, 4))),
    "stack": (lambda: pkdot.DCNLayer(6, 4, 2, 0.3, 5), ((5, 6), (5, 4))),
    "three": (lambda: rjcma.DCNLayer(6, 4, 3, 2, 0.3, 5), ((5, 6), (5, 4), (5, 3))),
    "block": (lambda: released.LSTM(7, 6, 2, 0.1), ((5, 7),)),
    "paper": (lambda: cam.CAM(5, 6, 4, 3), ((5, 6), (5, 6))),
    "regions": (lambda: released.PositionAttn(6, 8), ((5, 25088), (5, 6))),
    "predict": (lambda: released.PredictLayer(8, 6, 3, 0.1), ((5, 8), (5, 6))),
    "gated": (lambda: abaw8.GRJCA_cam(5, 6, 4), ((5, 6), (5, 4))),
}


@pytest.mark.parametrize("name", KEYWORDS)
def test_a_call_by_keywords_in_any_order_is_the_call_by_position(name):
    build, shapes = KEYWORDS[name]
    model = build().eval()
    inputs = [torch.rand(2, *shape) for shape in shapes]
    names = list(inspect.signature(model.forward).parameters)[: len(inputs)]
    by_name = dict(reversed(list(zip(names, inputs, strict=True))))
    torch.testing.assert_close(model(**by_name), model(*inputs), rtol=0, atol=0)
    torch.testing.assert_close(model(inputs[0], **dict(list(by_name.items())[:-1])), model(*inputs))


def test_the_paper_form_also_takes_the_names_of_this_library():
    model = cam.CAM(5, 6, 4, 3).eval()
    audio, visual = torch.rand(2, 5, 6), torch.rand(2, 5, 6)
    expected = model(audio, visual)
    for names in ({"audio": audio, "visual": visual}, {"f1_norm": audio, "visual": visual}):
        torch.testing.assert_close(model(**names), expected, rtol=0, atol=0)
    with pytest.raises(TypeError, match="give either f2_norm or visual, got neither"):
        model(audio)
    with pytest.raises(TypeError, match="give either f1_norm or audio, got both"):
        model(audio, visual, audio=audio)


def test_a_missing_and_a_wrong_input_are_named():
    stack = rjcma.DCNLayer(6, 4, 3, 1, 0.3, 5)
    with pytest.raises(ValueError, match="each of the 3 modalities, got 2"):
        stack(data1=torch.zeros(2, 5, 6), data3=torch.zeros(2, 5, 3))
    with pytest.raises(ValueError, match=r"inputs must have shape \(B, N, 7\), got \(2, 5, 6\)"):
        released.LSTM(7, 6, 2, 0.1)(inputs=torch.zeros(2, 5, 6))


def test_a_batch_of_one_loses_its_axis_in_the_namespaces_whose_repository_squeezes():
    audio, video = torch.rand(1, 10, 128), torch.rand(1, 10, 7, 7, 512)
    options = SimpleNamespace(audio_size=6, video_size=8, num_seq=1)
    for cls, shape in (
        (recursive_joint_co_attention.DCNWithRCNN, (10, 29)),
        (released.DCNWithRCNN, (1, 10, 29)),
    ):
        assert cls(options)(audio, video).shape == shape
    data = torch.rand(1, 5, 8), torch.rand(1, 5, 6)
    for namespace in (recursive_joint_co_attention, rjcaforspeakerverification):
        assert namespace.PredictLayer(8, 6, 3, 0.1)(*data).shape == (5, 3)


def test_the_recurrent_block_has_its_published_attributes():
    for block in (released.LSTM(7, 6, 3, 0.1), released.GRU(7, 6, 2, 0.0, False)):
        assert block.rnn_dim == 3
        assert block.num_layers == block.rnn.num_layers
        assert block.residual_embeddings == (block.linear.in_features > 6)


MODELS = {
    "released": lambda: released.DCNWithRCNN(
        SimpleNamespace(audio_size=6, video_size=8, num_seq=1)
    ),
    "emotion": lambda: orig_cam.CAM(4, 6, 8, 1, hidden_dim=5),
    "dynamic": lambda: dynamic_crossattention.CAM(4, 6, 8, 1, hidden_dim=5),
    "one head": lambda: pkdot.CAM(1, 6, 8, 1, hidden_dim=5),
    "speaker": lambda: speaker.CAM(3, 4, 6, num_speakers=7, unused_dims=(2, 4)),
    "gated": lambda: abaw8.HGRJCA_cam(5, 6, 4),
}
DRAWS = {
    (): nn.init.xavier_uniform_,
    ("xavier", 2.0): lambda w: nn.init.xavier_uniform_(w, gain=2.0),
    ("normal", 0.5): lambda w: nn.init.uniform_(w, 0.0, 0.5),
    ("kaiming",): lambda w: nn.init.kaiming_uniform_(w, a=0, mode="fan_in"),
    ("orthogonal", 3): lambda w: nn.init.orthogonal_(w, gain=3),
}


@pytest.mark.parametrize(
    ("name", "arguments"), [*((name, ()) for name in MODELS), *(("emotion", a) for a in DRAWS if a)]
)
def test_init_weights_draws_the_linears_again(name, arguments):
    model = MODELS[name]()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    torch.manual_seed(3)
    expected = [DRAWS[arguments](torch.empty_like(m.weight)) for m in linears]
    torch.manual_seed(3)
    assert model.init_weights(*arguments) is None
    assert all(torch.equal(m.weight, w) for m, w in zip(linears, expected, strict=True))
    assert not any(m.bias.any() for m in linears if m.bias is not None)
    kept = [key for key in before if "rnn." in key or "init_hidden" in key]
    assert all(torch.equal(model.state_dict()[key], before[key]) for key in kept)
    with pytest.raises(ValueError, match=r"init_type must be one of 'normal', .*got 'zeros'"):
        model.init_weights("zeros")


@pytest.mark.parametrize(
    ("rnn", "cls"), [("LSTM", released.LSTM), ("lstm", released.LSTM), ("GRU", released.GRU)]
)
def test_the_recurrent_network_is_the_one_that_the_published_code_takes(rnn, cls):
    options = SimpleNamespace(audio_size=6, video_size=8, num_seq=1, rnn=rnn)
    assert type(released.DCNWithRCNN(options).audio_extract) is cls


@pytest.mark.parametrize("rnn", ["gru", "RNN", None, ""])
def test_a_name_that_the_published_code_silently_takes_for_an_lstm_is_refused(rnn):
    with pytest.raises(ValueError, match=r"opt\.rnn must be 'LSTM' or 'GRU'"):
        released.DCNWithRCNN(SimpleNamespace(rnn=rnn))
