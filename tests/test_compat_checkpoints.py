"""Published checkpoint files: recognised, read without execution, converted both ways, or
refused."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import subprocess
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from jca_fast import AVELocalizer, JointCoAttention
from jca_fast.cli import main
from jca_fast.compat import (
    cam,
    from_state_dict,
    load_checkpoint,
    orig_cam,
    read_checkpoint,
    released,
    rjcma,
    speaker,
    to_native,
    to_published,
)
from jca_fast.compat.recognize import recognize


def tiny_released(**options) -> released.DCNWithRCNN:
    return released.DCNWithRCNN(
        SimpleNamespace(**{"audio_size": 6, "video_size": 8, "num_seq": 2, **options})
    )


def tiny_speaker() -> speaker.CAM:
    return speaker.CAM(3, 4, 6, 2, num_speakers=7, unused_dims=(2, 4))


MODELS = {
    "DCNWithRCNN": tiny_released,
    "DCNWithRCNN GRU": lambda: tiny_released(
        rnn="GRU", num_segments=4, num_classes=5, num_layers=1, num_seq=1
    ),
    "orig_cam": lambda: orig_cam.CAM(4, 6, 8, 2, hidden_dim=5),
    "orig_cam without LSTM": lambda: orig_cam.CAM(4, 6, 8, 1, unimodal_rnn=False),
    "speaker": tiny_speaker,
    "FusionModel": lambda: speaker.FusionModel(tiny_speaker(), 5, hidden_dim=9),
    "CAM N = 8": lambda: cam.CAM(8, 9, (6, 4), 5, hidden_dim=3),
    "CAM N = 8, first version": lambda: cam.CAM(8, 12, 6, 5, head_input="visual"),
    "CAM N = 16": lambda: cam.CAM(16, (9, 7), (6, 4), 3),
    "CAM without encoders": lambda: cam.Jcam_512(5, (6, 4), 3),
    "CAM without heads": lambda: cam.CAM(5, (6, 4), None, 3, heads=()),
    "DCNLayer": lambda: released.DCNLayer(6, 4, 3, 0.3, 7),
    "DCNLayer of three": lambda: rjcma.DCNLayer(6, 4, 3, 2, 0.6, 5),
    "NormalSubLayer": lambda: released.NormalSubLayer(6, 4, 0.3, 1),
    "NormalSubLayer of three": lambda: rjcma.NormalSubLayer(6, 4, 3, 0.6, 5),
    "DenseCoAttn": lambda: released.DenseCoAttn(6, 4, 0.3),
    "DenseCoAttn of three": lambda: rjcma.DenseCoAttn(6, 4, 3, 0.6),
    "PositionAttn": lambda: released.PositionAttn(6, 4),
    "BottomUpExtract": lambda: released.BottomUpExtract(49, 49),
    "LSTM": lambda: released.LSTM(7, 6, 3, 0.1),
    "LSTM without residual": lambda: released.LSTM(7, 6, 1, 0.0, residual_embeddings=False),
    "GRU": lambda: released.GRU(7, 6, 2, 0.1),
    "PredictLayer": lambda: released.PredictLayer(8, 3, 29, 0.3),
}


def same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Equal names, dtypes, shapes and bits, NaN included."""
    return set(first) == set(second) and all(
        (a.dtype, a.shape) == (second[key].dtype, second[key].shape)
        and a.numpy().tobytes() == second[key].numpy().tobytes()
        for key, a in first.items()
    )


@pytest.mark.parametrize("prefix", ["", "module.", "module.JCA_model."])
@pytest.mark.parametrize("name", MODELS)
def test_every_module_is_recognised_by_keys_and_shapes(name, prefix):
    model = MODELS[name]()
    found = from_state_dict({prefix + key: value for key, value in model.state_dict().items()})
    assert type(found) is (type(model) if name != "CAM without encoders" else cam.CAM)
    assert not found.training
    assert list(found.state_dict()) == list(model.state_dict())
    assert same_bits(found.state_dict(), model.state_dict())
    assert [p.requires_grad for p in found.parameters()] == [True] * len(list(found.parameters()))


def test_recognised_models_compute_the_same():
    for name, inputs in {
        "CAM N = 8": (torch.randn(2, 8, 9), torch.randn(2, 8, 9)),
        "CAM N = 8, first version": (torch.randn(2, 8, 12), torch.randn(2, 8, 12)),
        "CAM N = 16": (torch.randn(2, 16, 9), torch.randn(2, 16, 7)),
        "CAM without encoders": (torch.randn(2, 5, 6), torch.randn(2, 5, 4)),
        "DCNLayer of three": (torch.randn(2, 5, 6), torch.randn(2, 5, 4), torch.randn(2, 5, 3)),
        "orig_cam": (torch.rand(2, 4, 6), torch.rand(2, 4, 49, 512)),
        "FusionModel": (torch.rand(2, 3, 4), torch.rand(2, 3, 6)),
    }.items():
        model = MODELS[name]().double().eval()
        found = from_state_dict(model.state_dict())
        inputs = [x.double() for x in inputs]
        torch.testing.assert_close(found(*inputs), model(*inputs), rtol=0, atol=0)


def test_all_published_sizes_are_recognised(shared):
    published = json.loads((shared / "golden" / "keys" / "state_dicts_published.json").read_text())
    for name, keys in published.items():
        with torch.device("meta"):
            weights = {key: torch.empty(shape) for key, shape in keys.items()}
            built = recognize(weights).build()
        assert {key: list(value.shape) for key, value in built.state_dict().items()} == keys, name


def test_own_copy_of_the_weights():
    weights = MODELS["DCNLayer"]().state_dict()
    found = from_state_dict(weights)
    next(found.parameters()).data.zero_()
    assert next(iter(weights.values())).any()


def test_co_attention_inside_an_unknown_model():
    weights = {
        f"coattn.{key}": value for key, value in MODELS["DCNLayer of three"]().state_dict().items()
    }
    weights |= {"temporal.video.weight": torch.randn(3, 3), "bn1.running_mean": torch.randn(4)}
    found = recognize({f"module.{key}": value for key, value in weights.items()})
    assert found.prefix == "module.coattn."
    assert set(found.others) == {"module.temporal.video.weight", "module.bn1.running_mean"}
    assert isinstance(from_state_dict(weights), rjcma.DCNLayer)


def break_key(weights, key, value=None):
    weights = dict(weights)
    del weights[key]
    return weights if value is None else {**weights, key: value}


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        (
            "DCNWithRCNN",
            "audio_extract.rnn.bias_hh_l1",
            None,
            "almost DCNWithRCNN.*bias_hh_l1 is missing",
        ),
        ("DCNWithRCNN", "predict.predict.3.weight", None, "almost a published model"),
        (
            "DCNWithRCNN",
            "coattn.dcn_layers.1.linears.0.0.bias",
            torch.zeros(5),
            r"is \(5,\), expected \(8,\)",
        ),
        (
            "DCNWithRCNN",
            "audio_extract.linear.weight",
            torch.zeros(7, 135),
            "almost DCNWithRCNN.*even",
        ),
        (
            "CAM N = 8",
            "affine_v.weight",
            torch.zeros(49, 8),
            r"affine_v.weight is \(49, 8\), expected \(8, 8\)",
        ),
        (
            "PositionAttn",
            "affine_v.weight",
            torch.zeros(8, 8),
            r"affine_v.weight is \(8, 8\), expected \(49, 4\)",
        ),
        ("DCNLayer", "dcn_layers.0.dense_coattn.value2_linear.weight", None, "almost DCNLayer"),
        (
            "CAM N = 8",
            "W_ca.weight",
            None,
            "none of the published modules; found 15 keys: encoder1.weight",
        ),
    ],
)
def test_almost_is_refused_with_what_was_expected(name, key, value, message):
    with pytest.raises(ValueError, match=message):
        from_state_dict(break_key(MODELS[name]().state_dict(), key, value))


def test_one_key_too_many_and_no_tensors_are_refused():
    with pytest.raises(ValueError, match="gate is unexpected"):
        from_state_dict({**MODELS["CAM N = 8"]().state_dict(), "gate": torch.zeros(1)})
    with pytest.raises(ValueError, match="found 'epoch': int"):
        from_state_dict({"epoch": 3})
    with pytest.raises(ValueError, match="found 0 keys"):
        from_state_dict({})


def pickled_elsewhere(model: nn.Module, path: Path, **options) -> None:
    """torch.save of a whole model whose class cannot be imported when the file is read."""
    module = types.ModuleType("models")

    class Published(nn.Module):
        def __init__(self):
            super().__init__()
            for name, child in model.named_children():
                self.add_module(name, child)
            self.activation = nn.functional.relu
            self.device = torch.device("cpu")
            self.names = {"a", "v"}

    Published.__module__, Published.__qualname__ = "models", "DCNWithRCNN"
    module.DCNWithRCNN = Published
    sys.modules["models"] = module
    try:
        torch.save(Published(), path, **options)
    finally:
        del sys.modules["models"]


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize(
    "options",
    [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}],
    ids=["zip", "old", "protocol 4"],
)
def test_a_pickled_module_without_its_classes(tmp_path, options):
    model = tiny_released()
    pickled_elsewhere(model, tmp_path / "test.pt", **options)
    with pytest.raises((AttributeError, ModuleNotFoundError, pickle.UnpicklingError)):
        torch.load(tmp_path / "test.pt", weights_only=False)
    found = read_checkpoint(tmp_path / "test.pt")
    assert found.container == "pickled module models.DCNWithRCNN"
    assert same_bits(found.state_dict, model.state_dict())
    loaded = load_checkpoint(tmp_path / "test.pt")
    audio, video = torch.rand(2, 10, 128), torch.rand(2, 10, 49, 512)
    torch.testing.assert_close(loaded(audio, video), model.eval()(audio, video), rtol=0, atol=0)


def test_a_pickled_module_with_buffers_and_views(tmp_path):
    """Shared storages, transposed views, persistent and other buffers, half precision."""
    model = speaker.FusionModel(tiny_speaker(), 5, hidden_dim=9)
    wide = torch.randn(20, 5)
    model.linear.weight = nn.Parameter(wide.t())
    model.linear.bias = nn.Parameter(wide[3])
    model.register_buffer("scratch", torch.zeros(2), persistent=False)
    model.half()
    torch.save(nn.DataParallel(model), tmp_path / "model.pt")
    found = read_checkpoint(tmp_path / "model.pt")
    assert found.recognized.prefix == "module."
    assert same_bits(found.load().state_dict(), model.state_dict())


CONTAINERS = {
    "state_dict": lambda weights: weights,
    "net": lambda weights: {"net": weights, "best_Val_accV": 0.5, "best_Val_acc_epoch": 3},
    "net, numpy numbers": lambda weights: {
        "net": weights,
        "EER": np.float64(0.25),
        "epoch": np.int64(7),
    },
    "net, number in a tensor": lambda weights: {
        "net": weights,
        "EER": torch.tensor(0.25),
        "epoch": 7,
    },
    "DataParallel": lambda weights: {f"module.{key}": value for key, value in weights.items()},
    "under a prefix": lambda weights: {
        "net": {f"JCA_model.{key}": value for key, value in weights.items()}
    },
}


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_there_and_back_keeps_every_bit(tmp_path, capsys, container, old):
    weights = tiny_speaker().state_dict()
    weights["Joint.linear.bias"][:3] = torch.tensor([float("nan"), -0.0, float("inf")])
    content = CONTAINERS[container](weights)
    torch.save(content, tmp_path / "in.pt", _use_new_zipfile_serialization=not old)
    assert main(["convert", str(tmp_path / "in.pt"), str(tmp_path / "out.safetensors")]) == 0
    assert (
        "CAM of RJCAforSpeakerVerification: voice 4, face 6, 2 layers, N = 3"
        in capsys.readouterr().out
    )
    assert same_bits(load_file(tmp_path / "out.safetensors"), weights)
    tiny_speaker().load_state_dict(load_file(tmp_path / "out.safetensors"), strict=True)

    assert main(["convert", str(tmp_path / "out.safetensors"), str(tmp_path / "back.t7")]) == 0
    back = torch.load(tmp_path / "back.t7", weights_only=True)
    entry = "net" if "net" in content else None
    expected, got = (content[entry], back[entry]) if entry else (content, back)
    assert same_bits(got, expected)
    assert list(got) == list(expected)
    extra = {key: float(value) for key, value in content.items() if entry and key != entry}
    assert {key: float(value) for key, value in back.items() if entry and key != entry} == extra


def test_a_pickled_module_there_and_back(tmp_path):
    model = tiny_released()
    pickled_elsewhere(model, tmp_path / "test.pt")
    main(["convert", str(tmp_path / "test.pt"), str(tmp_path / "x.safetensors")])
    main(["convert", str(tmp_path / "x.safetensors"), str(tmp_path / "back.pt")])
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert list(back) == list(model.state_dict())
    assert same_bits(back, model.state_dict())


def test_the_rest_of_a_larger_model_travels_along(tmp_path):
    weights = {f"coattn.{key}": value for key, value in MODELS["DCNLayer"]().state_dict().items()}
    weights["spatial.visual.weight"] = torch.randn(3, 3)
    torch.save(weights, tmp_path / "in.pth")
    main(["convert", str(tmp_path / "in.pth"), str(tmp_path / "x.safetensors")])
    main(["convert", str(tmp_path / "x.safetensors"), str(tmp_path / "back.pth")])
    assert same_bits(torch.load(tmp_path / "back.pth"), weights)
    assert isinstance(load_checkpoint(tmp_path / "x.safetensors"), released.DCNLayer)


def test_native_checkpoints_there_and_back(tmp_path, capsys):
    model = tiny_released()
    torch.save(model.state_dict(), tmp_path / "in.pt")
    assert main(["convert", str(tmp_path / "in.pt"), str(tmp_path / "own.pt"), "--native"]) == 0
    from jca_fast.training.checkpoint import load_model

    own, _ = load_model(tmp_path / "own.pt")
    audio, video = torch.rand(2, 10, 128), torch.rand(2, 10, 7, 7, 512)
    torch.testing.assert_close(own(audio, video), model.eval()(audio, video), rtol=0, atol=0)
    assert main(["convert", str(tmp_path / "own.pt"), str(tmp_path / "back.safetensors")]) == 0
    assert same_bits(load_file(tmp_path / "back.safetensors"), model.state_dict())
    assert isinstance(load_checkpoint(tmp_path / "own.pt"), AVELocalizer)
    torch.save(MODELS["DCNLayer"]().state_dict(), tmp_path / "layer.pt")
    assert main(["convert", str(tmp_path / "layer.pt"), str(tmp_path / "no.pt"), "--native"]) == 2
    assert "--native needs a whole released model" in capsys.readouterr().err
    assert not (tmp_path / "no.pt").exists()


RAN = "this file must never be made"


class Attack:
    """Pickles as a call of ``function`` with ``arguments``."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def attacks(marker: Path) -> dict[str, bytes]:
    """data.pkl programs that touch ``marker`` when they run."""
    command = f"touch {marker}"
    weights = {"W_a.weight": 1}
    forged = f"cposix\nsystem\n(S'{command}'\ntR.".encode()
    instance = f"(S'{command}'\niposix\nsystem\n.".encode()
    build = (
        b"cbuiltins\nset\n(lR}(S'__setstate__'\ncposix\nsystem\nu" + f"bS'{command}'\nb.".encode()
    )  # gives an object a __setstate__ and calls it
    class_state = (
        b"cmodels\nNet\n}(S'__setstate__'\ncposix\nsystem\nubcmodels\nNet\n)\x81"
        + f"S'{command}'\nb.".encode()
    )
    return {
        "reduce": pickle.dumps({**weights, "x": Attack(os.system, command)}, 2),
        "eval": pickle.dumps(Attack(eval, f"open({str(marker)!r}, 'w')"), 2),
        "exec in a module": pickle.dumps(
            {"_modules": Attack(exec, f"open({str(marker)!r}, 'w')")}, 2
        ),
        "popen": pickle.dumps(Attack(subprocess.Popen, ["touch", str(marker)]), 2),
        "protocol 4": pickle.dumps(Attack(os.system, command), 4),
        "forged": forged,
        "inst opcode": instance,
        "set state": build,
        "class state": class_state,
        "hidden torch.load": pickle.dumps(
            Attack(torch.storage._load_from_bytes, pickle.dumps(Attack(os.system, command)))
        ),
        "getattr": b"cbuiltins\ngetattr\n(cos\nlinesep\nS'join'\ntR.",
        "memory": b"r\xff\xff\xff\xff.",
        "extension": b"\x82\x01.",
        "import": pickle.dumps(Attack(__import__, "antigravity"), 2),
        "namespace": pickle.dumps(argparse.Namespace(x=Attack(os.system, command)), 2),
    }


def as_zip(program: bytes, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/version", "3\n")


def as_old(program: bytes, path: Path) -> None:
    start = b"".join(
        pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    )
    path.write_bytes(start + program + pickle.dumps([], 2))


@pytest.mark.parametrize(
    "layout", [as_zip, as_old, lambda program, path: path.write_bytes(program)]
)
@pytest.mark.parametrize("name", attacks(Path("x")))
def test_a_hostile_pickle_runs_nothing(tmp_path, capsys, name, layout):
    marker = tmp_path / RAN.replace(" ", "_")
    layout(attacks(marker)[name], tmp_path / "hostile.pt")
    before = set(sys.modules)
    status = main(["convert", str(tmp_path / "hostile.pt"), str(tmp_path / "out.safetensors")])
    captured = capsys.readouterr()
    assert (status, captured.out) == (2, "")
    assert "hostile.pt" in captured.err
    assert "Traceback" not in captured.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hostile.pt"]
    assert "antigravity" not in set(sys.modules) - before


def test_the_attacks_are_real(tmp_path):
    """Ordinary unpickling runs the same programs, so the attacks work."""
    for name in (
        "reduce",
        "eval",
        "forged",
        "inst opcode",
        "popen",
        "protocol 4",
        "hidden torch.load",
    ):
        marker = tmp_path / name.replace(" ", "_")
        try:
            result = pickle.loads(attacks(marker)[name])
            if isinstance(result, subprocess.Popen):
                result.wait()
        except Exception as error:
            assert name == "hidden torch.load", error  # noqa: PT017 (torch runs the payload, then complains)
        assert marker.exists(), name


def test_an_attack_beside_good_weights_is_refused(tmp_path, capsys):
    content = {
        **MODELS["CAM N = 8"]().state_dict(),
        "x": Attack(os.system, f"touch {tmp_path / 'ran'}"),
    }
    torch.save(content, tmp_path / "bad.pt")
    with pytest.raises(
        ValueError,
        match=r"bad\.pt: expected .*it calls posix\.system, which is not a part of a model",
    ):
        load_checkpoint(tmp_path / "bad.pt")
    assert not (tmp_path / "ran").exists()


def written(name: str) -> bytes:
    buffer = io.BytesIO()
    model = MODELS["CAM N = 8"]()
    if name == "safetensors":
        from safetensors.torch import save

        return save(model.state_dict())
    torch.save(
        model if name.startswith("module") else model.state_dict(),
        buffer,
        _use_new_zipfile_serialization=not name.endswith("old"),
    )
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("kind", ["zip", "old", "module", "module old", "safetensors"])
def test_damaged_files_are_refused_and_nothing_is_written(tmp_path, capsys, kind):
    data = written(kind)
    for share in (0, 0.01, 0.3, 0.6, 0.9, 0.999):
        (tmp_path / "in.pt").write_bytes(data[: int(share * len(data))])
        assert main(["convert", str(tmp_path / "in.pt"), str(tmp_path / "out.safetensors")]) == 2
        message = capsys.readouterr().err
        assert message.startswith("jca-fast convert: error: ")
        assert "in.pt" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.pt"]


@pytest.mark.parametrize("kind", ["zip", "module"])
def test_a_flipped_bit_is_found(tmp_path, kind):
    data = bytearray(written(kind))
    weights = read_bytes_of_a_storage(bytes(data))
    position = bytes(data).find(weights)
    data[position + 3] ^= 1
    (tmp_path / "in.pt").write_bytes(data)
    with pytest.raises(ValueError, match=r"damaged: the checksum of \S+ does not match"):
        load_checkpoint(tmp_path / "in.pt")


def test_a_small_file_cannot_fill_the_memory(tmp_path):
    """Compressed zeros, one number repeated, a size that no storage has."""
    torch.save(MODELS["CAM N = 8"]().state_dict(), tmp_path / "good.pt")
    with (
        zipfile.ZipFile(tmp_path / "good.pt") as good,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in good.namelist():
            bomb.writestr(name, good.read(name) if not name.endswith("data/0") else bytes(20 << 20))
    with pytest.raises(
        ValueError,
        match=r"its \d+ bytes would unpack to \d+; expected a file that is not compressed",
    ):
        load_checkpoint(tmp_path / "bomb.pt")
    huge = {"affine_a.weight": torch.zeros(1).expand(10**6, 10**6)}
    for old in (False, True):
        torch.save(huge, tmp_path / "huge.pt", _use_new_zipfile_serialization=not old)
        with pytest.raises(
            ValueError, match=r"affine_a\.weight \(1000000, 1000000\) has fewer numbers in the file"
        ):
            load_checkpoint(tmp_path / "huge.pt")
        storage = torch.zeros(4)._typed_storage()
        lying = Attack(
            torch._utils._rebuild_tensor_v2, storage, 0, (10**10,), (1,), False, OrderedDict()
        )
        torch.save({"x": lying}, tmp_path / "lying.pt", _use_new_zipfile_serialization=not old)
        with pytest.raises(
            ValueError, match=r"a tensor \(10000000000,\) needs 40000000000 bytes, its storage of 4"
        ):
            load_checkpoint(tmp_path / "lying.pt")


def test_a_zip_file_said_to_span_disks_is_refused(tmp_path):
    data = bytearray(written("zip"))
    locator = data.rfind(b"PK\x06\x07")
    data[locator + 16] = 7  # the number of disks
    (tmp_path / "in.pt").write_bytes(data)
    with pytest.raises(ValueError, match=r"damaged: not a whole zip file \(.*multiple disks"):
        load_checkpoint(tmp_path / "in.pt")


@pytest.mark.parametrize(
    ("published", "message"),
    [
        *((text, "'published' is not what jca-fast convert writes") for text in ("{", "[1]")),
        ('{"prefix": ""}', "'published' is not what jca-fast convert writes"),
        (None, "are not whole, found format"),
    ],
)
def test_damaged_metadata_is_refused(tmp_path, published, message):
    metadata = {"format": "jca_fast published 1"} | ({"published": published} if published else {})
    save_file(MODELS["CAM N = 8"]().state_dict(), tmp_path / "x.safetensors", metadata)
    with pytest.raises(ValueError, match=f"its metadata {message}"):
        load_checkpoint(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_config": None},
            "expected 'model_config' and 'model' in a checkpoint of jca-fast train",
        ),
        ({"model": None}, "expected 'model_config' and 'model' in a checkpoint of jca-fast train"),
        (
            {"model_config": {"colour": 1}},
            "almost AVELocalizer, but its sizes do not fit.*'colour'",
        ),
        (
            {"model_config": {"audio_dim": 10**7, "visual_dim": 10**7}},
            "almost AVELocalizer .* is missing",
        ),
    ],
)
def test_damaged_checkpoints_of_our_own_are_refused(tmp_path, change, message):
    content = {
        "format": "jca_fast checkpoint 1",
        "model_config": {},
        "model": MODELS["CAM N = 8"]().state_dict(),
    }
    torch.save(content | change, tmp_path / "own.pt")
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path / "own.pt")


def test_tensors_that_are_no_weights_are_refused(tmp_path):
    weights = MODELS["CAM N = 8"]().state_dict()
    for change, message in (
        (
            weights["W_a.weight"].long(),
            "W_a.weight holds torch.int64, expected numbers like torch.float32",
        ),
        (weights["W_a.weight"].cfloat(), "W_a.weight holds torch.complex64"),
        (
            weights["W_a.weight"].to_sparse(),
            "W_a.weight is torch.sparse_coo on cpu; expected plain numbers",
        ),
        (
            weights["W_a.weight"].to("meta"),
            "W_a.weight is torch.strided on meta; expected plain numbers",
        ),
    ):
        torch.save({**weights, "W_a.weight": change}, tmp_path / "in.pt")
        with pytest.raises(ValueError, match=message):
            load_checkpoint(tmp_path / "in.pt")


def test_sizes_that_no_shape_tells_are_said_to_be_taken():
    bare = recognize(MODELS["CAM without heads"]().state_dict())
    assert "inputs 5/5 (taken as halves of d), d = 10" in str(bare)
    assert "taken" not in str(recognize(MODELS["CAM without encoders"]().state_dict()))


def read_bytes_of_a_storage(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data/0"))
        return archive.read(name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2, 3], "expected a state_dict, a dict with one, or a module; found list"),
        ({"epoch": 3}, "found 'epoch': int"),
        (
            {"net": {"conv.weight": torch.zeros(3)}},
            r"none of the published modules; found 1 keys: conv.weight \(3,\)",
        ),
        (nn.Linear(3, 4), "none of the published modules"),
        ({"net": nn.GELU()}, "found 0 keys"),
    ],
)
def test_files_of_other_things_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path / "other.pt")


def test_files_that_are_no_checkpoints(tmp_path):
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(
        ValueError, match=r"text\.pt: expected a checkpoint written by torch\.save or"
    ):
        load_checkpoint(tmp_path / "text.pt")
    with zipfile.ZipFile(tmp_path / "some.pt", "w") as archive:
        archive.writestr("a.txt", "hello")
    with pytest.raises(ValueError, match=r"a zip file, but not of torch\.save: it holds a\.txt"):
        load_checkpoint(tmp_path / "some.pt")
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "none.pt")


def test_convert_refuses_a_name_it_cannot_write(tmp_path, capsys):
    torch.save(MODELS["DCNLayer"]().state_dict(), tmp_path / "in.pt")
    before = (tmp_path / "in.pt").read_bytes()
    for target in ("out.onnx", "in.pt", "folder/out.pt"):
        assert main(["convert", str(tmp_path / "in.pt"), str(tmp_path / target)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert "OUT must end in one of" in errors[0]
    assert "the same file" in errors[1]
    assert "no such folder" in errors[2]
    assert (tmp_path / "in.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["in.pt"]


def test_native_modules_compute_the_same_and_come_back():
    video, audio, text = (torch.randn(2, 7, width) for width in (6, 4, 3))
    for model, inputs in (
        (released.DCNLayer(6, 4, 3, 0.3, 7), (video, audio)),
        (released.DCNLayer(6, 4, 3, 0.3, 7, use_query=False), (video, audio)),
        (rjcma.DCNLayer(6, 4, 3, 2, 0.6, 7), (video, audio, text)),
        (cam.CAM(7, 9, (6, 4), 5), (video, audio)),
    ):
        model = model.double().eval()
        inputs = [x.double() for x in inputs]
        own = to_native(model)
        assert isinstance(own, JointCoAttention)
        attend = model if not isinstance(model, cam.CAM) else cam_attention(model)
        torch.testing.assert_close(own(*inputs), attend(*inputs), rtol=1e-12, atol=1e-12)
        if isinstance(model, released.DCNLayer) and not model.dcn_layers[0].dense_coattn.use_query:
            with pytest.raises(
                ValueError, match="no published module has form 'released', joint 'concat', 2 mod"
            ):
                to_published(own)
            continue
        torch.testing.assert_close(to_published(own)(*inputs), own(*inputs), rtol=1e-12, atol=1e-12)


def cam_attention(model: cam.CAM) -> cam.CAM:
    """The attention of a CAM alone, between its encoders and its heads."""
    bare = (
        cam.CAM(model.num_segments, model.dims, None, model.W_a.out_features, heads=())
        .double()
        .eval()
    )
    bare.load_state_dict(
        {key: value for key, value in model.state_dict().items() if key[:2] in ("W_", "af")}
    )
    return bare


def test_conversion_keeps_dropout_and_mode_and_refuses_what_has_no_counterpart():
    model = tiny_released(dropout=0.2, droprnn=0.05).train()
    own = to_native(model)
    assert own.training
    assert (own.config["dropout"], own.config["rnn_dropout"]) == (0.2, 0.05)
    assert to_published(own).coattn.dcn_layers[0].dense_coattn.dropouts[1].p == 0.2
    with pytest.raises(ValueError, match="LSTM blocks of 2 layers, got 1"):
        to_native(tiny_released(num_layers=1))
    with pytest.raises(ValueError, match="no counterpart in this library"):
        to_native(nn.Linear(3, 3))
    with pytest.raises(ValueError, match="has form='released', this one has 'paper'"):
        to_published(AVELocalizer(8, 8, 1))
    with pytest.raises(ValueError, match="no published module"):
        to_published(JointCoAttention(6, 4, 7, num_layers=2))
