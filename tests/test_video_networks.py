"""The networks: VGGish against golden numbers, VGG19 in both formats, the embedded default."""

from __future__ import annotations

import importlib
import json
import os.path
import struct
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from jca_fast.video import embedded, extractors, logmel, tf_checkpoint, vgg19, vggish
from jca_fast.video.extractors import audio_network, hear, see, visual_network

# ---- log-mel and VGGish


@pytest.fixture
def vggish_golden(shared, monkeypatch):
    """The golden arrays, their description, and the modules that make signals and weights."""
    monkeypatch.syspath_prepend(str(shared / "golden"))
    arrays = np.load(shared / "golden" / "vggish.npz")
    modules = [importlib.import_module(name) for name in ("vggish_signal", "fill")]
    return arrays, json.loads(str(arrays["meta"])), *modules


@pytest.mark.shared
@pytest.mark.parametrize("name", ["a", "b", "c", "silence"])
def test_log_mel_is_the_published_one(vggish_golden, name):
    arrays, meta, signals, _ = vggish_golden
    entry = meta["signals"][name]
    silent = name == "silence"
    samples = np.zeros(32000) if silent else signals.signal(entry["seed"], entry["seconds"])
    patches, golden = logmel.log_mel(samples), arrays[f"logmel/{name}"]
    assert patches.dtype == np.float64
    assert patches.shape == tuple(entry.get("examples", (2,))) + (() if not silent else (96, 64))
    assert np.abs(patches[: len(golden)] - golden).max() < 1e-6
    if "logmel_sum" in entry:
        assert abs(patches.sum() - entry["logmel_sum"]) < 1e-6


@pytest.mark.shared
def test_embedding_is_the_published_one(vggish_golden):
    arrays, meta, signals, fill = vggish_golden
    weights = {}
    for key, shape in meta["keys"].items():
        scale = 0.1 if len(shape) == 1 else np.sqrt(2 / np.prod(shape[1:]))
        weights[key] = torch.from_numpy(fill.value(5, f"w/{key}", shape, scale)).float()
    with torch.device("meta"):
        model = vggish.VGGish()
    model.load_state_dict(weights, assign=True)
    golden = arrays["embedding/a"]
    samples = signals.signal(1, 10.0)
    with torch.no_grad():
        found = model(torch.from_numpy(logmel.log_mel(samples)).float()[:, None]).numpy()
    assert np.abs(found - golden).max() < 1e-5 * np.abs(golden).max()
    # one second: the first patch of that second alone
    second = vggish.Embed(model.eval())(samples[:16000], 16000)
    assert np.abs(second - golden[0]).max() < 1e-5 * np.abs(golden).max()


def test_sound_that_is_too_short_is_padded():
    short = np.random.default_rng(0).standard_normal(9000)
    assert len(logmel.padded(short)) == logmel.PATCH_SAMPLES
    assert not logmel.padded(short)[9000:].any()
    with pytest.raises(ValueError, match="15600 or more"):
        logmel.log_mel(short)
    two = logmel.log_mel(np.concatenate([short] * 4))
    assert two.shape == (2, 96, 64)


def test_vggish_averages_the_patches_of_a_segment():
    class Mean(torch.nn.Module):
        def forward(self, patches):
            return patches.mean(dim=(1, 2, 3))[:, None].expand(-1, 128)

    samples = np.random.default_rng(0).standard_normal(32000) * 0.1
    found = vggish.Embed(Mean())(samples, 16000)
    np.testing.assert_allclose(found, logmel.log_mel(samples).mean(), rtol=1e-5)
    with pytest.raises(ValueError, match="needed: 16000"):
        vggish.Embed(Mean())(samples, 44100)


def test_vggish_from_tensorflow(monkeypatch, tmp_path):
    """Kernels become (out, in, 3, 3), dense weights are transposed, names are mapped."""
    with torch.device("meta"):
        shapes = {key: tuple(v.shape) for key, v in vggish.VGGish().state_dict().items()}
    stored = {}
    for number, (key, name) in enumerate(vggish._TF_NAMES.items()):
        shape = shapes[f"{key}.weight"]
        kernel = (3, 3, shape[1], shape[0]) if len(shape) == 4 else shape[::-1]
        last = np.arange(shape[0], dtype=np.float32) + 1000 * number
        stored[f"vggish/{name}/weights"] = np.broadcast_to(last, kernel)  # the value is the output
        stored[f"vggish/{name}/biases"] = last
    path = tmp_path / "vggish_model.ckpt"
    path.write_bytes(bytes(40) + tf_checkpoint.MAGIC)
    monkeypatch.setattr(tf_checkpoint, "read", lambda path: stored)
    weights = vggish.load(path).state_dict()
    for number, key in enumerate(vggish._TF_NAMES):
        channel = torch.arange(len(weights[f"{key}.bias"])) + 1000.0 * number
        assert torch.equal(weights[f"{key}.bias"], channel)
        assert torch.equal(weights[f"{key}.weight"].flatten(1)[:, 0], channel)
    del stored["vggish/fc2/biases"]
    with pytest.raises(ValueError, match=r"vggish_model\.ckpt: vggish/fc2/biases is missing"):
        vggish.load(path)


# ---- checkpoints of TensorFlow


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def message(**fields: list) -> bytes:
    """A protocol buffer; f1=[...] is field 1, with bytes or whole numbers."""
    out = b""
    for name, values in fields.items():
        for value in values:
            number = int(name[1:]) << 3
            if isinstance(value, int):
                out += varint(number) + varint(value)
            else:
                out += varint(number | 2) + varint(len(value)) + value
    return out


def block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """A block of LevelDB with one restart point, and its trailer (no compression, no checksum)."""
    out, last = b"", b""
    for key, value in entries:
        shared = len(os.path.commonprefix([key, last]))  # noqa: RUF071
        out += varint(shared) + varint(len(key) - shared) + varint(len(value))
        out += key[shared:] + value
        last = key
    return out + struct.pack("<II", 0, 1) + bytes(5)


def table(tensors: dict[str, np.ndarray], content_field: str = "f5") -> bytes:
    """A checkpoint of the first version with these tensors."""
    metas, entries = [], []
    for name, array in sorted(tensors.items()):
        shape = message(f2=[message(f1=[size]) for size in array.shape])
        metas.append(message(f1=[name.encode()], f2=[shape], f3=[1]))
        tensor = message(f1=[1], f2=[shape], **{content_field: [array.tobytes()]})
        data = message(f2=[message(f1=[name.encode()], f2=[b""], f3=[tensor])])
        entries.append((b"\x00" + name.encode(), data))
    entries.insert(0, (b"", message(f1=[message(f1=metas)])))
    out, handles = b"", []
    for part in (entries[:2], entries[2:]):
        if part:
            data = block(part)
            handles.append((part[-1][0], varint(len(out)) + varint(len(data) - 5)))
            out += data
    index_at, index = len(out), block(handles)
    out += index
    footer = varint(0) + varint(0) + varint(index_at) + varint(len(index) - 5)
    return out + footer.ljust(40, b"\x00") + tf_checkpoint.MAGIC


@pytest.mark.parametrize("content_field", ["f4", "f5"])
def test_tensorflow_checkpoint(tmp_path, content_field):
    random = np.random.default_rng(0)
    tensors = {
        "vggish/conv1/biases": random.standard_normal(200).astype(np.float32),
        "vggish/conv1/weights": random.standard_normal((3, 3, 2, 5)).astype(np.float32),
        "vggish/step": np.float32(7).reshape(()),
    }
    path = tmp_path / "model.ckpt"
    path.write_bytes(table(tensors, content_field))
    assert tf_checkpoint.is_table(path)
    found = tf_checkpoint.read(path)
    assert set(found) == set(tensors)
    for name, values in tensors.items():
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize("cut", [10, 100, 400])
def test_damaged_tensorflow_checkpoint(tmp_path, cut):
    content = table({"a": np.zeros(300, np.float32)})
    path = tmp_path / "model.ckpt"
    path.write_bytes(content[:cut] + content[-48:])
    with pytest.raises(ValueError, match=r"model\.ckpt: not a whole TensorFlow checkpoint"):
        tf_checkpoint.read(path)


# ---- VGG19

CONVOLUTIONS = [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34]
"""Where torchvision has them."""


@pytest.fixture(scope="module")
def vgg_weights():
    """Weights of full size that keep activations in range."""
    generator = torch.Generator().manual_seed(0)
    weights, width = {}, 3
    widths = [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8
    for index, channels in zip(CONVOLUTIONS, widths, strict=True):
        scale = (2 / (9 * width)) ** 0.5
        weights[f"features.{index}.weight"] = (
            torch.randn(channels, width, 3, 3, generator=generator) * scale
        )
        weights[f"features.{index}.bias"] = torch.randn(channels, generator=generator) * 0.1
        width = channels
    return weights


def plain_pool5(weights, x):
    """The network in plain functions, for x (B, 3, H, W) scaled as its weights want it."""
    for index in CONVOLUTIONS:
        weight, bias = (weights[f"features.{index}.{kind}"] for kind in ("weight", "bias"))
        x = F.relu(F.conv2d(x, weight, bias, padding=1))
        if index in (2, 7, 16, 25, 34):
            x = F.max_pool2d(x, 2)
    return x.permute(0, 2, 3, 1)


@pytest.fixture(scope="module")
def pictures():
    random = np.random.default_rng(1)
    return random.integers(0, 256, (3, 64, 32, 3), dtype=np.uint8)


def test_torchvision_weights(vgg_weights, pictures, tmp_path):
    path = tmp_path / "anything.bin"
    torch.save({**vgg_weights, "classifier.0.weight": torch.zeros(2, 2)}, path)
    network = visual_network(str(path))
    assert network.name == "vgg19 (torchvision)"
    assert network.size == 224
    mean, sd = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (torch.from_numpy(pictures) / 255 - mean) / sd
    expected = plain_pool5(vgg_weights, x.permute(0, 3, 1, 2)).mean(dim=0).numpy()
    assert expected.shape == (2, 1, 512)
    np.testing.assert_allclose(see(network, pictures), expected, rtol=1e-3, atol=1e-3)


def test_keras_weights(vgg_weights, pictures, tmp_path):
    """BGR and mean only; kernels are stored as (3, 3, in, out), two levels deep."""
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "weights.pth"  # the content decides, not the name
    names = [f"block{b}_conv{c + 1}" for b, n in enumerate((2, 2, 4, 4, 4), 1) for c in range(n)]
    with h5py.File(path, "w") as file:
        for name, index in zip(names, CONVOLUTIONS, strict=True):
            kernel = vgg_weights[f"features.{index}.weight"].permute(2, 3, 1, 0).numpy()
            file[f"{name}/{name}_W_1:0"] = kernel
            file[f"{name}/{name}_b_1:0"] = vgg_weights[f"features.{index}.bias"].numpy()
    network = visual_network(str(path))
    assert network.name == "vgg19 (keras)"
    x = torch.from_numpy(pictures).float().flip(-1) - torch.tensor([103.939, 116.779, 123.68])
    expected = plain_pool5(vgg_weights, x.permute(0, 3, 1, 2)).mean(dim=0).numpy()
    error = np.abs(see(network, pictures) - expected).max()
    assert error < 1e-4 * np.abs(expected).max()


def test_equal_frames_count_as_often_as_they_are_shown(vgg_weights, tmp_path):
    torch.save(vgg_weights, tmp_path / "vgg.pth")
    call = vgg19.Pool5(vgg19.load(tmp_path / "vgg.pth"))
    seen = []
    call.model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    frames = np.random.default_rng(2).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    one, other = call(frames[:1]), call(frames[1:])
    mixed = call(frames[[0, 0, 0, 1]])
    assert seen == [1, 1, 2]
    np.testing.assert_allclose(mixed, 0.75 * one + 0.25 * other, rtol=1e-3, atol=1e-4)


def test_weights_that_are_others(vgg_weights, tmp_path):
    vgg16 = {key: value for key, value in vgg_weights.items() if "34" not in key}
    with_norm = {**vgg_weights, "features.1.running_mean": torch.zeros(64)}
    wrong = {**vgg_weights, "features.0.bias": torch.zeros(3)}
    for content, text in (
        (vgg16, "features.34.weight is missing"),
        (with_norm, "batch normalisation"),
        (wrong, r"features.0.bias has shape \(3,\)"),
        ([1, 2], "holds no state_dict"),
    ):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(ValueError, match=text) as error:
            visual_network(str(tmp_path / "w.pth"))
        assert "w.pth" in str(error.value)
        assert "needed: " in str(error.value) or "as in" in str(error.value)
    (tmp_path / "w.pth").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"w\.pth: not a file of weights"):
        audio_network(str(tmp_path / "w.pth"))
    with pytest.raises(FileNotFoundError, match=r"none\.pth: no such file; needed: weights"):
        visual_network(str(tmp_path / "none.pth"))


# ---- the embedded extractor and functions


def test_embedded_features_look_like_vgg():
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
    visual = see(visual_network(), frames)
    time = np.arange(16000) / 16000
    audio = hear(audio_network(), 0.2 * np.sin(2 * np.pi * 500 * time))
    assert visual.shape == (7, 7, 512)
    assert audio.shape == (128,)
    for values in (visual, audio):
        assert values.dtype == np.float32
        assert (values >= 0).all()
        assert 0.3 < (values == 0).mean() < 0.9
    assert visual_network().name == audio_network().name == embedded.NAME
    np.testing.assert_array_equal(see(visual_network(), frames), visual)


def test_embedded_features_stay_the_same():
    """A change of the extractor must change its name: old checkpoints would not fit silently."""
    assert embedded.NAME == "embedded 1"
    ramp = np.linspace(0, 255, 112 * 112 * 3).reshape(1, 112, 112, 3).astype(np.uint8)
    visual = see(visual_network(), ramp)
    audio = hear(audio_network(), 0.2 * np.sin(2 * np.pi * 500 * np.arange(16000) / 16000))
    np.testing.assert_allclose(
        [visual.mean(), visual.std(), audio.mean(), audio.std()], EMBEDDED_FIGURES, rtol=1e-3
    )


EMBEDDED_FIGURES = [1.0137031, 1.9702079, 0.7278863, 0.8792974]


def test_functions_plug_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_networks.py").write_text(
        "import numpy as np\n"
        "def picture(frames):\n    return np.ones((7, 7, 3)) * frames.mean()\n"
        "picture.size = 40\n"
        "def sound(samples, rate):\n    return np.array([samples.std(), rate])\n"
        "def flat(frames):\n    return np.ones(3)\n"
        "def lost(samples, rate):\n    return np.array([np.nan])\n"
    )
    picture = visual_network("my_networks:picture")
    assert (picture.name, picture.size) == ("my_networks:picture", 40)
    assert len(picture.sha256) == 64
    frames = np.full((2, 40, 40, 3), 8, np.uint8)
    np.testing.assert_array_equal(see(picture, frames), np.full((7, 7, 3), 8.0))
    assert hear(audio_network("my_networks:sound"), np.zeros(16000)).tolist() == [0, 16000]
    with pytest.raises(ValueError, match=r"flat returned shape \(3,\); needed: \(7, 7, C\)"):
        see(visual_network("my_networks:flat"), frames)
    with pytest.raises(ValueError, match="lost returned NaN"):
        hear(audio_network("my_networks:lost"), np.zeros(16000))
    with pytest.raises(ValueError, match="has no function 'none'"):
        visual_network("my_networks:none")
    with pytest.raises(ImportError, match="no_such_module"):
        visual_network("no_such_module:none")
    sys.modules.pop("my_networks")


def test_nothing_is_downloaded_unasked(monkeypatch, tmp_path):
    """The download is torch.hub's, checked by the digits in its name, and done once."""
    calls = []

    def fetch(url, target, hash_prefix):
        calls.append((url, hash_prefix))
        open(target, "w").close()  # noqa: PTH123

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    audio_network(), visual_network()
    assert not calls
    path = extractors.download("vgg19")
    assert calls == [(vgg19.URL, "dcbb9e9d")]
    assert extractors.download("vgg19") == path
    assert len(calls) == 1
    extractors.download("vggish")
    assert calls[1] == (vggish.URL, "10086976")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (np.full((7, 7, 2), 1j), "returned complex128"),
        (np.full((7, 7, 2), "a"), "returned <U1"),
        (None, "returned object"),
        (torch.full((7, 7, 2), 1j), "returned complex64"),
        (np.full((7, 7, 2), 1e300), "returned NaN or infinite"),
    ],
)
def test_results_that_are_no_numbers(values, text):
    with pytest.raises(ValueError, match=rf"^net {text}"):
        see(extractors.Network("net", "", lambda frames: values), np.zeros(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_a_tensor_is_a_result(dtype):
    values = torch.ones(7, 7, 2, dtype=dtype, requires_grad=dtype.is_floating_point)
    found = see(extractors.Network("net", "", lambda frames: values), np.zeros(1))
    assert found.dtype == np.float32
    assert (found == 1).all()


def test_flags_of_functions_are_checked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sized.py").write_text("def f(x): pass\nf.size = 0\n")
    with pytest.raises(ValueError, match="--visual sized:f: its size is 0; needed: pixels, 1 to"):
        visual_network("sized:f")
    with pytest.raises(ImportError, match=r"--audio :f: .*Empty module name"):
        audio_network(":f")
