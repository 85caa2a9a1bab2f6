"""Containers of weights: nested, wrapped, pickled with their trainer, or hostile."""

from __future__ import annotations

import io
import itertools
import os
import pathlib
import pickle
import sys
import time
import types
import zipfile
from collections import Counter, OrderedDict, defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_compat_checkpoints import Attack, as_old, as_zip
from torch import nn
from torch.optim.swa_utils import AveragedModel

from jca_fast.cli import main
from jca_fast.compat import (
    abaw8,
    bounds,
    cam,
    dynamic_crossattention,
    from_state_dict,
    load_checkpoint,
    orig_cam,
    pkdot,
    read_checkpoint,
    released,
    rjcma,
    spiro,
    torch_file,
)
from jca_fast.compat.recognize import recognize


def emotion(n: int = 4) -> orig_cam.CAM:
    return orig_cam.CAM(n, 6, 8, 1, hidden_dim=5)


def equal(first, second) -> bool:
    return set(first) == set(second) and all(torch.equal(first[k], second[k]) for k in first)


NEW = {
    "GRJCA": lambda: abaw8.GRJCA_cam(5, 8, 6),
    "HGRJCA": lambda: abaw8.HGRJCA_cam(5, 8, 6, 3),
    "dynamic": lambda: dynamic_crossattention.CAM(4, 6, 8, 2, hidden_dim=5),
    "pkdot": lambda: pkdot.CAM(1, 6, 8, 2, hidden_dim=5),
    "pkdot attention": lambda: pkdot.BottomUpExtract(6, 8),
}


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "net.", "trainer.model."])
@pytest.mark.parametrize("name", NEW)
def test_the_newer_modules_are_recognised(name, prefix):
    model = NEW[name]()
    weights = {prefix + key: value for key, value in model.state_dict().items()}
    found = from_state_dict(weights)
    assert type(found) is type(model)
    assert equal(found.state_dict(), model.state_dict())


@pytest.mark.parametrize("prefix", ["GRJCA.coattn", "a.b.c.coattn", "fusion", "model.encoder.dcn"])
def test_layers_are_found_under_any_prefix_of_a_larger_model(prefix):
    layers = rjcma.DCNLayer(6, 4, 3, 2, 0.6, 5)
    weights = {f"{prefix}.{key}": value for key, value in layers.state_dict().items()}
    around = {f"spatial.visual.{i}.weight": torch.randn(3) for i in range(500)}
    found = recognize({**around, **weights, "regressor.weight": torch.randn(2, 2)})
    assert found.prefix == f"{prefix}."
    assert len(found.others) == 501
    assert equal(from_state_dict({**around, **weights}).state_dict(), layers.state_dict())


def test_a_gated_model_is_found_inside_its_published_model():
    model = abaw8.GRJCA_cam(5, 8, 6)
    weights = {f"GRJCA.{key}": value for key, value in model.state_dict().items()}
    weights |= {"temporal.video.net.0.weight": torch.randn(3), "bn1.running_mean": torch.randn(3)}
    assert isinstance(from_state_dict(weights), abaw8.GRJCA_cam)
    del weights["GRJCA.audio_gating_fc_layer.weight"]
    with pytest.raises(
        ValueError, match=r"almost GRJCA_cam .*audio_gating_fc_layer.weight is miss"
    ):
        from_state_dict(weights)


def test_two_models_in_one_file_are_refused_with_their_places():
    layers = rjcma.DCNLayer(6, 4, 3, 1, 0.6, 5).state_dict()
    weights = {f"{place}.{key}": v for place in ("first", "second") for key, v in layers.items()}
    with pytest.raises(ValueError, match=r"more than one DCNLayer, under 'first\.', 'second\.'"):
        from_state_dict(weights)


def test_wrappers_are_taken_off_wherever_they_stand():
    model = emotion()
    expected = model.state_dict()
    compiled = {f"_orig_mod.{key}": value for key, value in expected.items()}
    parts = {key.replace("coattn.", "coattn._orig_mod.module."): v for key, v in expected.items()}
    averaged = AveragedModel(model).state_dict()
    assert "n_averaged" in averaged
    inside = {f"net.{key}": value for key, value in averaged.items()}
    twice = {f"module.{key}": value for key, value in compiled.items()}
    for weights in (compiled, parts, averaged, inside, twice):
        assert equal(from_state_dict(weights).state_dict(), expected)
    with pytest.raises(ValueError, match="the same weight in two wrappers"):
        from_state_dict({**expected, **compiled})


@pytest.mark.parametrize("build", [spiro.DCNLayer, abaw8.DCNLayer])
def test_weights_of_two_forms_ask_which_one(tmp_path, build):
    model = build(6, 4, 2, 0.6).eval()
    torch.save({"net": model.state_dict(), "epoch": 3}, tmp_path / "x.pt")
    for load in (from_state_dict, lambda _, **o: load_checkpoint(tmp_path / "x.pt", **o)):
        with pytest.raises(
            ValueError, match=r"fit two published forms of DCNLayer.*pass use_query"
        ):
            load(model.state_dict())
        x = torch.randn(2, 300, 6), torch.randn(2, 300, 4)
        use_query = build is abaw8.DCNLayer
        found = load(model.state_dict(), use_query=use_query)
        torch.testing.assert_close(
            found(*x, return_all=True), model(*x, return_all=True), rtol=0, atol=0
        )
        other = load(model.state_dict(), use_query=not use_query)
        first = [m(*x, return_all=False)[0] for m in (other, found)]
        assert not torch.allclose(*first, rtol=1e-3)
    assert main(["convert", str(tmp_path / "x.pt"), str(tmp_path / "x.safetensors")]) == 0


def test_use_query_is_refused_where_it_means_nothing():
    layers = released.DCNLayer(6, 4, 2, 0.3, 7)
    assert (
        not from_state_dict(layers.state_dict(), use_query=False)
        .dcn_layers[0]
        .dense_coattn.use_query
    )
    with pytest.raises(ValueError, match="use_query is for layers of two modalities alone"):
        from_state_dict(emotion().state_dict(), use_query=False)


class Trainer:
    """Like the trainers that published code pickles: a model among many other objects."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.optimizer = torch.optim.Adam(model.parameters())
        loss = sum(p.sum() for p in model.parameters())
        loss.backward()
        self.optimizer.step()
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 3)
        self.best_epoch_info = {
            "model_weights": OrderedDict(model.state_dict()),
            "ccc": np.float64(0.5),
        }
        self.emotion, self.device = "arousal", torch.device("cpu")
        self.metrics, self.counts = ["rmse", "ccc"], defaultdict(list, {"a": [1]})
        self.save_path, self.losses = pathlib.Path("/tmp/runs"), np.arange(3.0)


def pickled_elsewhere(content, path, *names, protocol=4) -> None:
    """pickle.dump of objects whose classes cannot be imported when the file is read."""
    module = types.ModuleType("project")
    sys.modules["project"] = module
    old = [cls.__module__ for cls in names]
    try:
        for cls in names:
            setattr(module, cls.__name__, cls)
            cls.__module__ = "project"
        path.write_bytes(pickle.dumps(content, protocol))
    finally:
        del sys.modules["project"]
        for cls, name in zip(names, old, strict=True):
            cls.__module__ = name


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_the_model_of_a_pickled_trainer(tmp_path, protocol):
    model = emotion()
    trainer = Trainer(model)
    content = {"trainer": trainer, "param_control": SimpleNamespace(release_count=3)}
    pickled_elsewhere(
        content, tmp_path / "checkpoint.pkl", Trainer, orig_cam.CAM, protocol=protocol
    )
    found = read_checkpoint(tmp_path / "checkpoint.pkl")
    assert found.container == "model of a pickled object under 'trainer.model'"
    assert equal(found.state_dict, model.state_dict())
    assert equal(load_checkpoint(tmp_path / "checkpoint.pkl").state_dict(), model.state_dict())
    target = tmp_path / "out.pt"
    assert main(["convert", str(tmp_path / "checkpoint.pkl"), str(target)]) == 0
    assert equal(torch.load(target, weights_only=True), model.state_dict())


class Weights(OrderedDict):
    """A subclass, as some programs save their weights in."""


def test_weights_in_a_subclass_of_ordereddict_are_read(tmp_path):
    weights = emotion().state_dict()
    for content in (Weights(weights), {"net": Weights(weights), "epoch": 3}):
        torch.save(content, tmp_path / "x.pt")
        assert equal(load_checkpoint(tmp_path / "x.pt").state_dict(), weights)


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
def test_other_objects_beside_the_weights_stay_inert(tmp_path, capsys, old):
    model = emotion()
    content = {
        "net": model.state_dict(),
        "best_Val_accV": np.float64(0.5),
        "best_Val_accA": np.float32(0.25),
        "epoch": np.int64(7),
        "curve": np.arange(6, dtype=np.float32).reshape(2, 3),
        "names": np.array(["a", "bc"]),
        "where": pathlib.Path("/data/ave") / "x.h5",
        "counts": defaultdict(list, {"a": [1, 2]}),
        "seen": Counter("aab"),
        "args": SimpleNamespace(lr=1e-4),
        "optimizer": torch.optim.Adam(model.parameters()),
        "state": torch.optim.SGD(model.parameters(), 0.1).state_dict(),
        "rng": torch.get_rng_state(),
        "size": torch.Size([2, 3]),
        "generator": np.random.default_rng(0),
        "table": np.zeros(2, dtype=[("epoch", "i4"), ("loss", "f8")]),
        "days": np.array(["2026-01-01"], dtype="datetime64[D]"),
        "roots": np.array([1j]),
        "steps": range(3),
        "part": slice(1, 2),
    }
    path = tmp_path / "in.model"
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    found = read_checkpoint(path)
    assert equal(found.state_dict, model.state_dict())
    assert found.extra["best_Val_accV"] == 0.5
    assert found.extra["where"] == "/data/ave/x.h5"
    assert found.extra["counts"] == {"a": [1, 2]}
    np.testing.assert_array_equal(found.extra["curve"], content["curve"])
    assert isinstance(found.extra["optimizer"], torch_file.InertObject)
    assert main(["convert", str(path), str(tmp_path / "out.model")]) == 0
    assert "left behind, not plain values: names, args, optimizer" in capsys.readouterr().out
    back = torch.load(tmp_path / "out.model", weights_only=True)
    assert list(back["net"]) == list(model.state_dict())
    assert equal(back["net"], model.state_dict())
    assert torch.equal(back["curve"], torch.from_numpy(content["curve"]))
    assert back["state"]["param_groups"][0]["lr"] == 0.1
    assert torch.equal(back["rng"], content["rng"])


def test_the_order_of_the_keys_survives_the_round_trip(tmp_path):
    weights = emotion().state_dict()
    order = sorted(weights, key=lambda key: hash(key) % 1000)
    around = {"z.last": torch.randn(2), "a.first": torch.randn(2)}
    for i, content in enumerate(
        (
            {key: weights[key] for key in order},
            {f"module.{key}": weights[key] for key in order},
            {"z.last": around["z.last"], **{f"x.{k}": weights[k] for k in order}, **around},
        )
    ):
        torch.save(content, tmp_path / f"{i}.pt")
        main(["convert", str(tmp_path / f"{i}.pt"), str(tmp_path / f"{i}.safetensors")])
        main(["convert", str(tmp_path / f"{i}.safetensors"), str(tmp_path / f"back{i}.pt")])
        back = torch.load(tmp_path / f"back{i}.pt", weights_only=True)
        assert list(back) == list(content)
        assert equal(back, content)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_have_the_mode_that_the_umask_asks_for(tmp_path, umask):
    torch.save(emotion().state_dict(), tmp_path / "in.pt")
    before = os.umask(umask)
    try:
        for name in ("out.safetensors", "out.pt"):
            main(["convert", str(tmp_path / "in.pt"), str(tmp_path / name)])
            assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~umask
    finally:
        os.umask(before)


def test_a_planted_link_is_not_written_through(tmp_path):
    torch.save(emotion().state_dict(), tmp_path / "in.pt")
    (tmp_path / "victim").write_text("untouched")
    for name in ("out.pt", "out.safetensors"):
        guess = tmp_path / f".{name}.{os.getpid()}.tmp"
        guess.symlink_to(tmp_path / "victim")
        assert main(["convert", str(tmp_path / "in.pt"), str(tmp_path / name)]) == 0
    assert (tmp_path / "victim").read_text() == "untouched"


def test_a_changed_number_in_a_converted_file_is_found(tmp_path):
    torch.save({"net": emotion().state_dict(), "epoch": 7}, tmp_path / "in.pt")
    main(["convert", str(tmp_path / "in.pt"), str(tmp_path / "x.safetensors")])
    good = (tmp_path / "x.safetensors").read_bytes()
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert len(file.metadata()["sha256"]) == 64
    for position in (-1, -4001, len(good) // 2):
        data = bytearray(good)
        data[position] ^= 1
        (tmp_path / "x.safetensors").write_bytes(data)
        with pytest.raises(
            ValueError, match="damaged: the checksum in its metadata does not match"
        ):
            load_checkpoint(tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes(good.replace(b'\\"epoch\\": 7', b'\\"epoch\\": 8'))
    with pytest.raises(ValueError, match="the checksum in its metadata does not match"):
        load_checkpoint(tmp_path / "x.safetensors")


@pytest.mark.parametrize("key", ["format", "published", "sha256", "jca_fast published 1"])
def test_a_flipped_bit_in_the_metadata_of_a_converted_file_is_found(tmp_path, key):
    path = tmp_path / "x.safetensors"
    torch.save({"net": emotion().state_dict(), "epoch": 7}, tmp_path / "in.pt")
    main(["convert", str(tmp_path / "in.pt"), str(path)])
    good = path.read_bytes()
    first = good.index(f'"{key}"'.encode()) + 1
    for position, bit in itertools.product(range(first, first + len(key)), (1, 32)):
        data = bytearray(good)
        data[position] ^= bit
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"x\.safetensors: "):
            read_checkpoint(path)


def test_safetensors_of_earlier_versions_and_of_other_programs_are_read(tmp_path):
    weights = emotion().state_dict()
    save_file(weights, tmp_path / "plain.safetensors")
    facts = '{"prefix": "module.", "entry": "net", "extra": {"epoch": 3}, "model": "x"}'
    metadata = {"format": "jca_fast published 1", "published": facts}
    save_file(weights, tmp_path / "earlier.safetensors", metadata)
    assert equal(load_checkpoint(tmp_path / "plain.safetensors").state_dict(), weights)
    found = read_checkpoint(tmp_path / "earlier.safetensors")
    assert (found.entry, found.extra, found.recognized.prefix) == ("net", {"epoch": 3}, "module.")
    assert equal(load_file(tmp_path / "plain.safetensors"), weights)


# Hostile files. Each is small and tries to take seconds, gigabytes or to crash.


def seconds_to_refuse(path, match: str) -> float:
    start = time.perf_counter()
    with pytest.raises(ValueError, match=match):
        load_checkpoint(path)
    return time.perf_counter() - start


def nested_tuples(depth: int, use: bytes) -> bytes:
    """t = (t, t), ``depth`` times: 2 ** depth values in a few bytes; then ``use`` of it."""
    double = b"h\x00h\x00\x86q\x000"  # get, get, make a pair, put, pop
    return b"\x80\x02)q\x000" + double * depth + use


@pytest.mark.parametrize("use", [b"}q\x01h\x00K\x01s.", b"h\x00Q.", b"(h\x00\x91."])
@pytest.mark.parametrize("layout", [as_zip, as_old])
def test_tuples_that_hold_each_other_are_refused_at_once(tmp_path, use, layout):
    layout(nested_tuples(60, use), tmp_path / "x.pt")
    assert seconds_to_refuse(tmp_path / "x.pt", "tuple of more than|nested more than") < 5


def test_lists_that_hold_each_other_take_no_time(tmp_path):
    value: list = []
    for _ in range(40):
        value = [value, value]
    torch.save({"net": emotion().state_dict(), "x": value}, tmp_path / "x.pt")
    start = time.perf_counter()
    assert main(["convert", str(tmp_path / "x.pt"), str(tmp_path / "y.pt")]) == 0
    assert main(["convert", str(tmp_path / "x.pt"), str(tmp_path / "y.safetensors")]) == 0
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize(
    "name", ["quint8", "qint8", "qint32", "quint4x2", "QUInt8Storage", "uint1"]
)
@pytest.mark.parametrize("layout", [as_zip, as_old])
def test_types_of_number_outside_the_list_are_refused(tmp_path, name, layout):
    program = (
        b"\x80\x02}U\x01xctorch._utils\n_rebuild_tensor_v3\n((U\x07storagectorch\nUntypedStorage\n"
        b"U\x010U\x03cpuK\x08tQK\x00K\x08\x85K\x01\x85\x89Nctorch\n" + name.encode() + b"\ntRs."
    )
    layout(program, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt: "):
        load_checkpoint(tmp_path / "x.pt")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_a_quantised_tensor_is_refused(tmp_path):
    weights = emotion().state_dict()
    quantised = torch.quantize_per_tensor(torch.randn(5, 8), 0.1, 0, torch.quint8)
    torch.save({**weights, "vregressor.0.weight": quantised}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt: "):
        load_checkpoint(tmp_path / "x.pt")


def test_tensors_that_share_one_storage_cannot_fill_the_memory(tmp_path):
    big = torch.zeros(2**20)
    weights = {f"dcn_layers.{i}.x": big.view(1024, 1024) for i in range(4000)}
    torch.save(weights, tmp_path / "x.pt")
    assert (tmp_path / "x.pt").stat().st_size < 6 * 2**20
    assert seconds_to_refuse(tmp_path / "x.pt", "its tensors share their numbers") < 20


def test_bytes_used_again_and_again_cannot_fill_the_memory(tmp_path):
    text = b"X" + (100_000).to_bytes(4, "little") + b"a" * 100_000 + b"q\x00"
    encode = b"c_codecs\nencode\nq\x01" + b"h\x01h\x00\x85R" * 3000
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02]" + text + b"0(" + encode + b"t.")
    assert seconds_to_refuse(tmp_path / "x.pkl", "makes more values than it has bytes") < 10


def test_a_configuration_of_countless_layers_is_refused_at_once(tmp_path, capsys):
    content = {
        "format": "jca_fast checkpoint 1",
        "model_config": {"num_layers": 10**7},
        "model": emotion().state_dict(),
    }
    torch.save(content, tmp_path / "own.pt")
    start = time.perf_counter()
    for command in (
        ["convert", str(tmp_path / "own.pt"), str(tmp_path / "out.pt")],
        ["evaluate", str(tmp_path / "own.pt"), "--data", str(tmp_path)],
    ):
        assert main(command) == 2
        assert "num_layers=10000000, but the file has" in capsys.readouterr().err
    assert time.perf_counter() - start < 10


def test_sizes_that_no_weight_has_take_no_memory(tmp_path, capsys):
    content = {
        "format": "jca_fast checkpoint 1",
        "model_config": {"audio_dim": 10**6, "visual_dim": 10**6},
        "model": emotion().state_dict(),
    }
    torch.save(content, tmp_path / "own.pt")
    assert main(["evaluate", str(tmp_path / "own.pt"), "--data", str(tmp_path)]) == 2
    assert "own.pt" in capsys.readouterr().err


def test_a_zip_bomb_is_refused_by_every_command(tmp_path, capsys):
    torch.save({"format": "jca_fast checkpoint 1", "model": {}, "model_config": {}}, tmp_path / "a")
    with (
        zipfile.ZipFile(tmp_path / "a") as good,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in good.namelist():
            bomb.writestr(name, good.read(name))
        bomb.writestr("a/data/9", bytes(50 << 20))
    for command in (
        ["convert", str(tmp_path / "bomb.pt"), str(tmp_path / "out.pt")],
        ["evaluate", str(tmp_path / "bomb.pt"), "--data", str(tmp_path)],
        [
            "predict",
            str(tmp_path / "bomb.pt"),
            "--data",
            str(tmp_path),
            "-o",
            str(tmp_path / "o.csv"),
        ],
    ):
        assert main(command) == 2
        assert "would unpack to" in capsys.readouterr().err


@pytest.mark.parametrize("method", [8, 12, 14], ids=["deflate", "bzip2", "lzma"])
def test_a_zip_that_states_false_sizes_is_refused_before_it_is_unpacked(tmp_path, method):
    """bzip2 and lzma unpack a part in one step, whatever size the zip file states."""
    path = tmp_path / "x.pt"
    torch.save({"net": emotion().state_dict(), "zeros": torch.zeros(2000)}, tmp_path / "good")
    with zipfile.ZipFile(tmp_path / "good") as good, zipfile.ZipFile(path, "w") as false:
        for name in good.namelist():
            part = zipfile.ZipInfo(name)
            part.compress_type = method if good.getinfo(name).file_size == 8000 else 0
            false.writestr(part, good.read(name))
    data = path.read_bytes().replace((8000).to_bytes(4, "little"), (80).to_bytes(4, "little"))
    path.write_bytes(data)
    assert seconds_to_refuse(path, "its parts are compressed") < 5


def test_more_tensors_than_a_model_has_are_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "MOST_TENSORS", 20)
    weights = {f"k{i}": torch.zeros(1) for i in range(21)}
    torch.save(weights, tmp_path / "x.pt")
    save_file(weights, tmp_path / "x.safetensors")
    for name in ("x.pt", "x.safetensors"):
        assert seconds_to_refuse(tmp_path / name, "21 tensors; expected at most 20") < 5


@pytest.mark.parametrize("name", ["a." * 200_000 + "w", "a" * 400_000])
def test_endless_names_take_no_time(tmp_path, name):
    save_file({name: torch.zeros(1)}, tmp_path / "x.safetensors")
    assert seconds_to_refuse(tmp_path / "x.safetensors", "the name of a tensor has 40000") < 5


@pytest.mark.skipif(not os.access("/proc/self/mem", os.F_OK), reason="needs a file that fails")
def test_a_disk_that_cannot_be_read_is_named(tmp_path, capsys):
    (tmp_path / "x.pt").symlink_to("/proc/self/mem")  # reading its first bytes is an I/O error
    assert main(["convert", str(tmp_path / "x.pt"), str(tmp_path / "y.pt")]) == 2
    assert "x.pt: cannot be read: Input/output error" in capsys.readouterr().err


def test_a_state_cannot_be_given_to_what_is_not_inert(tmp_path):
    """BUILD on the announced storage would change its size after it was checked."""
    storage = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x04tQ"
    as_zip(b"\x80\x02}U\x01x" + storage + b"]b" + b"s.", tmp_path / "x.pt")
    with pytest.raises(ValueError, match="it gives a state to a Storage"):
        load_checkpoint(tmp_path / "x.pt")


def test_a_nested_file_of_torch_runs_nothing(tmp_path):
    marker = tmp_path / "ran"
    buffer = io.BytesIO()
    torch.save(Attack(os.system, f"touch {marker}"), buffer, _use_new_zipfile_serialization=False)
    content = {"x": Attack(torch.storage._load_from_bytes, buffer.getvalue())}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"x\.pkl: .*it calls posix\.system"):
        load_checkpoint(tmp_path / "x.pkl")
    assert not marker.exists()


def test_the_limits_let_real_files_through(tmp_path):
    model = cam.CAM(8)
    optimizer = torch.optim.Adam(model.parameters())
    content = {"net": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(content, tmp_path / "x.pt")
    bounds.check_archive(tmp_path / "x.pt")
    assert equal(load_checkpoint(tmp_path / "x.pt").state_dict(), model.state_dict())
    tied = OrderedDict((f"module.{key}", value) for key, value in model.state_dict().items())
    torch.save(tied, tmp_path / "x.pt")
    assert equal(load_checkpoint(tmp_path / "x.pt").state_dict(), model.state_dict())
