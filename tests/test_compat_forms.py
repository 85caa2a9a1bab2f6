"""Weights that do not tell their module, and settings that only a pickled module has."""

from __future__ import annotations

import logging
import pickle
import types
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from jca_fast import compat
from jca_fast.cli import main
from jca_fast.compat import (
    abaw8,
    cam,
    from_state_dict,
    jointcrossattentional_av_fusion,
    load_checkpoint,
    orig_cam,
    pkdot,
    read_checkpoint,
    recurrentjointattentionwithlstms,
    recursive_joint_co_attention,
    released,
    rjcaforspeakerverification,
    rjcma,
    speaker,
    spiro,
)

TINY = SimpleNamespace(audio_size=6, video_size=8, num_seq=2)
EMOTION = {"num_segments": 4, "audio_dim": 6, "visual_dim": 8, "hidden_dim": 5}
PAPER = {"in_dim": 9, "dim": 6, "attention_dim": 3}
BUILT = {
    "recursive_joint_co_attention": {
        "DCNWithRCNN": lambda cls: cls(TINY),
        "PredictLayer": lambda cls: cls(8, 6, 3, 0.3),
        "GRU": lambda cls: cls(7, 6, 2, 0.1),
        "BottomUpExtract": lambda cls: cls(6, 8),
    },
    "jointcrossattentional_av_fusion": {"CAM": lambda cls: cls(8, **PAPER)},
    "joint_cross_attention_for_audio_visual_fusion": {
        "CAM": lambda cls: cls(**EMOTION),
        "PaperCAM": lambda cls: cls(**PAPER),
    },
    "recurrentjointattentionwithlstms": {
        "CAM": lambda cls: cls(**EMOTION),
        "PaperCAM": lambda cls: cls(**PAPER),
        "LSTM": lambda cls: cls(7, 6, 2, 0.1),
    },
    "rjcaforspeakerverification": {
        "CAM": lambda cls: cls(3, 4, 6, 2, num_speakers=7, unused_dims=(2, 4)),
        "FusionModel": lambda cls: cls(speaker.CAM(3, 4, 6, num_speakers=7, unused_dims=(2, 4)), 5),
    },
    "rjcma": {},
    "abaw8": {},
    "dynamic_crossattention": {"CAM": lambda cls: cls(**EMOTION)},
    "pkdot": {
        "CAM": lambda cls: cls(1, 6, 8, 2, hidden_dim=5),
        "PositionAttn": lambda cls: cls(6, 8),
        "PaperCAM": lambda cls: cls(**PAPER),
    },
    "spiro": {},
}
LAYERS = {
    "DCNLayer": lambda cls, *sizes: cls(*sizes[:-1], 2, sizes[-1], 5),
    "NormalSubLayer": lambda cls, *sizes: cls(*sizes, 5),
    "DenseCoAttn": lambda cls, *sizes: cls(*sizes, 5),
}
NAMED = [
    (repository, name, build)
    for repository in compat.REPOSITORIES
    for name, build in {**LAYERS, **BUILT[repository]}.items()
    if hasattr(getattr(compat, repository), name)
]


def built(repository: str, name: str, build) -> nn.Module:
    cls = getattr(getattr(compat, repository), name)
    widths = (6, 4, 3) if repository == "rjcma" else (6, 4)
    rate = 0.3 if repository == "recursive_joint_co_attention" else 0.6
    return build(cls, *((*widths, rate) if name in LAYERS else ())).eval()


def rates(model: nn.Module) -> dict[str, float]:
    found = {n: m.p for n, m in model.named_modules() if isinstance(m, nn.Dropout)}
    return found | {n: m.dropout for n, m in model.named_modules() if isinstance(m, nn.RNNBase)}


def outputs(model: nn.Module, *inputs: torch.Tensor):
    with torch.no_grad():
        return model(*inputs)


@pytest.mark.parametrize(("repository", "name", "build"), NAMED)
def test_a_named_repository_gives_its_class(repository, name, build):
    model = built(repository, name, build)
    weights = {f"trainer.module.{key}": value for key, value in model.state_dict().items()}
    found = from_state_dict(weights, repository=repository)
    assert type(found) is type(model)
    assert list(found.state_dict()) == list(model.state_dict())
    assert str(found) == str(model)  # the same widths, rates and options


@pytest.mark.parametrize(("repository", "name", "build"), NAMED)
def test_a_pickled_module_of_a_namespace_is_loaded_as_its_class(
    tmp_path, repository, name, build, caplog
):
    model = built(repository, name, build)
    for p, module in enumerate(m for m in model.modules() if isinstance(m, nn.Dropout)):
        module.p = p / 64
    torch.save({"net": nn.DataParallel(model), "epoch": 3}, tmp_path / "x.pt")
    found = load_checkpoint(tmp_path / "x.pt")
    assert type(found) is type(model)
    assert rates(found) == rates(model)
    assert str(found) == str(model)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("build", "use_query"), [(abaw8, True), (spiro, False)], ids=["abaw8", "spiro"]
)
@pytest.mark.parametrize("name", ["DCNLayer", "NormalSubLayer", "DenseCoAttn"])
def test_at_300_segments_the_named_form_returns_what_its_repository_does(build, use_query, name):
    cls = getattr(build, name)
    model = cls(*((6, 4, 2, 0.3) if name == "DCNLayer" else (6, 4, 0.3))).eval()
    x = torch.randn(2, 300, 6), torch.randn(2, 300, 4)
    repository = build.__name__.rpartition(".")[2]
    with pytest.raises(ValueError, match=r"'abaw8' or use_query=True.*'spiro' or use_query=False"):
        from_state_dict(model.state_dict())
    for arguments in ({"use_query": use_query}, {"repository": repository}):
        found = from_state_dict(model.state_dict(), **arguments)
        assert type(found) is cls
        assert set(rates(found).values()) == {0.6}
        torch.testing.assert_close(outputs(found, *x), outputs(model, *x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("namespace", "segments", "rate"),
    [
        (released, 10, 0.3),
        (pkdot, 1, 0.6),
        (rjcaforspeakerverification, 8, 0.6),
        (recurrentjointattentionwithlstms, 16, 0.6),
        (rjcma, 300, 0.6),
    ],
)
def test_layers_have_the_published_dropout_of_their_number_of_segments(namespace, segments, rate):
    widths = (6, 4, 3) if namespace is rjcma else (6, 4)
    model = namespace.DCNLayer(*widths, 2, 0.25).eval()
    x = [torch.randn(2, segments, width) for width in widths]
    found = from_state_dict(model.state_dict())
    assert set(rates(found).values()) == {rate}
    torch.testing.assert_close(outputs(found, *x), outputs(model, *x), rtol=0, atol=0)


def test_an_unpublished_number_of_segments_is_loaded_with_a_warning(caplog):
    weights = abaw8.DCNLayer(6, 4, 2, 0.6, 7).state_dict()
    assert type(from_state_dict(weights)) is released.DCNLayer
    assert "no repository has a DCNLayer of N = 7" in caplog.text
    caplog.clear()
    assert type(from_state_dict(weights, repository="abaw8")) is abaw8.DCNLayer
    found = from_state_dict(spiro.DCNLayer(6, 4, 2, 0.6, 7).state_dict(), repository="spiro")
    assert not found.dcn_layers[1].dense_coattn.use_query
    both = from_state_dict(weights, repository="abaw8", use_query=False)
    assert not both.dcn_layers[0].dense_coattn.use_query
    assert not caplog.records


@pytest.mark.parametrize(
    ("build", "repository", "message"),
    [
        (lambda: released.DCNLayer(6, 4, 2, 0.3), "rjcma", "'rjcma' has no DCNLayer"),
        (lambda: orig_cam.CAM(**EMOTION), "spiro", "'spiro' has no orig_cam.CAM"),
        (
            lambda: orig_cam.CAM(**EMOTION),
            "dynamic_crossattention",
            "has no orig_cam.CAM .*of these weights",
        ),
        (lambda: released.PositionAttn(6, 8), "pkdot", "has no PositionAttn .*of these weights"),
        (lambda: pkdot.CAM(1, 6, 8), "recurrentjointattentionwithlstms", "has no CAM of PKDOT"),
        (lambda: released.DCNLayer(6, 4, 2, 0.3), "released", "must be one of abaw8, .*'released'"),
        (lambda: released.DCNLayer(6, 4, 2, 0.3), "ABAW8", "must be one of abaw8, .*'ABAW8'"),
    ],
)
def test_a_repository_without_such_a_module_is_refused(tmp_path, build, repository, message):
    torch.save(build().state_dict(), tmp_path / "x.pt")
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path / "x.pt", repository=repository)


# Weights that look like those of a CAM.


def linears(**sizes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """The weights of Linears by name: (in, out), with a bias unless a third number follows."""
    weights = {}
    for name, (i, o, *no_bias) in sizes.items():
        module = nn.Linear(i, o, bias=not no_bias)
        weights |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
    return weights


def attention(n: int = 16, d: int = 12, k: int = 3) -> dict[str, torch.Tensor]:
    names = {"affine_a": (n, n, 0), "affine_v": (n, n, 0), "W_a": (n, k, 0), "W_v": (n, k, 0)}
    names |= {"W_ca": (2 * d, k, 0), "W_cv": (2 * d, k, 0), "W_ha": (k, n, 0), "W_hv": (k, n, 0)}
    return linears(**names)


def heads(width: int) -> dict[str, torch.Tensor]:
    names = ("vregressor", "aregressor")
    sizes = {f"{name}.0": (width, 5) for name in names} | {f"{name}.2": (5, 1) for name in names}
    return linears(**sizes)


@pytest.mark.parametrize("prefix", ["", "module.", "fusion."])
def test_mica_net_is_refused_by_its_name(prefix):
    k, rows = 32, 8
    weights = linears(
        **{"encoder1": (768, 64), "encoder2": (600, 64), "affine_a": (2, rows, 0)},
        **{"affine_v": (2, rows, 0), "W_a": (64, k, 0), "W_v": (64, k, 0), "W_ca": (rows, k, 0)},
        **{"W_cv": (rows, k, 0), "W_ha": (k, rows, 0), "W_hv": (k, rows, 0)},
        **{"regressor.0": (1024, 128), "regressor.2": (128, 32)},
    )
    with pytest.raises(ValueError, match=r"affine_a.weight is \(8, 2\), not N x N.* MICA-Net"):
        from_state_dict({prefix + key: value for key, value in weights.items()})


@pytest.mark.parametrize("prefix", ["", "module.", "fusion."])
def test_aver_is_refused_by_its_name_and_its_regressors_ask(prefix):
    encoders = linears(encoder1=(20, 12), encoder2=(20, 12))
    weights = {**encoders, **attention(), **heads(24)}
    whole = {**weights, **linears(reduce_visual=(50, 20))}
    with pytest.raises(ValueError, match=r"reduce_visual.weight .* the weights of AVER"):
        from_state_dict({prefix + key: value for key, value in whole.items()})
    weights = {prefix + key: value for key, value in weights.items()}
    with pytest.raises(ValueError, match=r"fit CAM and AVER's cam.py, .*pass the namespace"):
        from_state_dict(weights)
    named = from_state_dict(weights, repository="recurrentjointattentionwithlstms")
    assert isinstance(named, cam.CAM)
    assert named.head_input == "attended"


def test_the_attention_alone_is_loaded_with_a_warning(caplog):
    assert from_state_dict(attention()).heads == ()
    assert "AVER's has the same keys and shapes and another result" in caplog.text


# Settings that only a pickled module has.


class Published(nn.Module):
    """Stands for a published class, which cannot be imported when its file is read."""


def as_published(model: nn.Module) -> nn.Module:
    copy = Published()
    for name, child in model.named_children():
        copy.add_module(name, child)
    return copy


@pytest.mark.parametrize("wrap", [lambda m: m, nn.DataParallel], ids=["plain", "parallel"])
def test_a_pickled_published_model_keeps_its_dropout_rates(tmp_path, wrap):
    options = SimpleNamespace(**vars(TINY), dropout=0.5, droprnn=0.3)
    for model in (
        released.DCNWithRCNN(options),
        orig_cam.CAM(**EMOTION, dropout=0.25),
        cam.CAM(8, 9, 6, dropout=0.1),
        rjcma.DCNLayer(6, 4, 3, 2, 0.125, 5),
    ):
        expected = rates(model)
        torch.save(wrap(as_published(model)), tmp_path / "test.pt")
        assert rates(load_checkpoint(tmp_path / "test.pt")) == expected
    assert {0.5, 0.3} <= set(rates(released.DCNWithRCNN(options)).values())


def test_the_rates_survive_the_way_to_this_library(tmp_path):
    options = SimpleNamespace(**vars(TINY), dropout=0.5, droprnn=0.25)
    torch.save(released.DCNWithRCNN(options), tmp_path / "test.pt")
    assert main(["convert", str(tmp_path / "test.pt"), str(tmp_path / "own.pt"), "--native"]) == 0
    config = load_checkpoint(tmp_path / "own.pt").config
    assert (config["dropout"], config["rnn_dropout"]) == (0.5, 0.25)


def test_a_rate_that_is_no_probability_is_refused(tmp_path):
    model = cam.CAM(8, 9, 6)
    model.regressor[1].p = 7.0
    torch.save(model, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt: regressor.1.p must be a probability.*got 7.0"):
        load_checkpoint(tmp_path / "x.pt")


def test_options_of_a_pickled_module_are_kept(tmp_path):
    for model in (
        released.DCNLayer(6, 4, 2, 0.6, 300, return_all=False),
        abaw8.DCNLayer(6, 4, 2, 0.6, return_all=False),
        spiro.DCNLayer(6, 4, 2, 0.6, use_query=True, return_all=True),
        released.PredictLayer(8, 6, 3, 0.3, squeeze=True),
        recursive_joint_co_attention.PredictLayer(8, 6, 3, 0.3, squeeze=False),
        jointcrossattentional_av_fusion.CAM(in_dim=9, dim=6, head_input="attended"),
    ):
        torch.save(model.eval(), tmp_path / "x.pt")
        found = load_checkpoint(tmp_path / "x.pt")
        shapes = ((6, 4) if isinstance(model, released.DCNLayer) else (8, 6), 300)
        if isinstance(model, cam.CAM):
            shapes = ((9, 9), 8)
        x = [torch.randn(1, shapes[1], width) for width in shapes[0]]
        torch.testing.assert_close(outputs(found, *x), outputs(model, *x), rtol=0, atol=0)


# Several sets of weights in one file.


def changed(weights: dict[str, torch.Tensor]) -> OrderedDict:
    return OrderedDict((key, value + 1) for key, value in weights.items())


def test_another_set_of_weights_in_a_pickled_trainer_is_named_and_can_be_chosen(
    tmp_path, caplog, capsys
):
    model = rjcma.DCNLayer(6, 4, 3, 2, 0.6, 5)
    best = changed(model.state_dict())
    trainer = SimpleNamespace(model=model, best_epoch_info={"model_weights": best, "ccc": 0.5})
    path = tmp_path / "checkpoint.pkl"
    path.write_bytes(pickle.dumps({"trainer": trainer, "param_control": types.SimpleNamespace()}))
    place = "trainer.best_epoch_info.model_weights"
    found = read_checkpoint(path)
    assert found.rivals == (place,)
    key = "dcn_layers.0.dense_coattn.key1_linear.weight"
    assert torch.equal(load_checkpoint(path).state_dict()[key], model.state_dict()[key])
    assert f"other weights of it under '{place}'" in caplog.text
    assert torch.equal(load_checkpoint(path, entry=place).state_dict()[key], best[key])
    target = tmp_path / "best.pt"
    assert main(["convert", str(path), str(target), "--entry", place]) == 0
    assert torch.equal(torch.load(target, weights_only=True)[key], best[key])
    assert "other weights of it under 'trainer.model'" in capsys.readouterr().out
    with pytest.raises(ValueError, match=f"no weights under 'net'; .*'trainer.model', '{place}'"):
        load_checkpoint(path, entry="net")


def test_equal_weights_are_no_other_set(tmp_path, caplog):
    weights = cam.CAM(8, 9, 6).state_dict()
    same = {f"module.{key}": value.clone() for key, value in weights.items()}
    torch.save({"net": weights, "best": same, "acc": np.float64(1)}, tmp_path / "x.pt")
    assert read_checkpoint(tmp_path / "x.pt").rivals == ()
    load_checkpoint(tmp_path / "x.pt")
    assert not caplog.records


@pytest.mark.parametrize("other", ["model", "ema", "best_state"])
def test_another_entry_of_a_dict_is_named_and_can_be_chosen(tmp_path, caplog, other):
    weights = cam.CAM(8, 9, 6).state_dict()
    torch.save({other: changed(weights), "net": weights, "epoch": 3}, tmp_path / "x.pt")
    assert torch.equal(load_checkpoint(tmp_path / "x.pt").W_a.weight, weights["W_a.weight"])
    assert f"other weights of it under '{other}'" in caplog.text
    chosen = load_checkpoint(tmp_path / "x.pt", entry=other)
    assert torch.equal(chosen.W_a.weight, weights["W_a.weight"] + 1)
    assert read_checkpoint(tmp_path / "x.pt", entry=other).extra["epoch"] == 3
    main(["convert", str(tmp_path / "x.pt"), str(tmp_path / "x.safetensors")])
    with pytest.raises(ValueError, match="a safetensors file has one set of weights"):
        load_checkpoint(tmp_path / "x.safetensors", entry="ema2")
    assert load_checkpoint(tmp_path / "x.safetensors", entry="net").heads == ("regressor",)
