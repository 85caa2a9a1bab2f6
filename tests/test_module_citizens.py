"""Conventions of nn modules: devices, dtypes, sizes, names, configs, folders, types."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from jca_fast import AudioGuidedReduction, AVELocalizer, JointCoAttention
from jca_fast.heads import (
    AdditiveAngularMargin,
    AttentiveStatisticsPooling,
    UtteranceClassifier,
)
from jca_fast.modules import (
    AdditiveReduction,
    JointFeature,
    PaperLayer,
    PooledReduction,
    ReleasedLayer,
    ResidualRNN,
)
from jca_fast.modules.joint_feature import joint_of_each

ROOT = Path(__file__).resolve().parents[1]
FORMS = pytest.mark.parametrize("form", ["paper", "released"])
SMALL = {"audio_features": 10, "region_features": 14, "num_regions": 4}


def tensors(*shapes, **options):
    return [torch.zeros(shape, **options) for shape in shapes]


BUILD = {
    "paper": (lambda **o: JointCoAttention(6, 4, 5, 3, 2, **o), ((2, 5, 6), (2, 5, 4))),
    "released": (
        lambda **o: JointCoAttention(6, 4, 5, 3, 2, "released", **o),
        ((2, 5, 6), (2, 5, 4)),
    ),
    "paper layer": (
        lambda **o: PaperLayer((6, 4), 5, 3, "concat_fc", 0.1, "auto", **o),
        ((2, 5, 6), (2, 5, 4)),
    ),
    "released layer": (
        lambda **o: ReleasedLayer((6, 4), 5, "cross_fc", 0.1, "auto", **o),
        ((2, 5, 6), (2, 5, 4)),
    ),
    "lstm": (lambda **o: ResidualRNN(6, 4, **o), ((2, 5, 6),)),
    "gru": (lambda **o: ResidualRNN(6, 4, cell="gru", normalize=True, **o), ((2, 5, 6),)),
    "guided": (lambda **o: AudioGuidedReduction(6, 4, **o), ((2, 5, 6), (2, 5, 7, 4))),
    "additive": (lambda **o: AdditiveReduction(6, 4, 8, 7, **o), ((2, 5, 6), (2, 5, 7, 4))),
    "localizer": (lambda **o: AVELocalizer(8, 12, 2, **SMALL, **o), ((2, 10, 10), (2, 10, 4, 14))),
    "released localizer": (
        lambda **o: AVELocalizer(8, 12, 2, form="released", **SMALL, **o),
        ((2, 10, 10), (2, 10, 2, 2, 14)),
    ),
    "adapted localizer": (
        lambda **o: AVELocalizer(8, 12, 2, unimodal_rnn=False, pooling="max", **SMALL, **o),
        ((2, 10, 10), (2, 10, 4, 14)),
    ),
    "utterance": (lambda **o: UtteranceClassifier(6, 3, **o), ((2, 5, 6),)),
    "statistics": (lambda **o: AttentiveStatisticsPooling(6, 4, **o), ((2, 5, 6),)),
    "margin": (lambda **o: AdditiveAngularMargin(6, 4, **o), ((2, 6), None)),
}


@pytest.fixture(params=BUILD)
def built(request):
    """The constructor of a module, and a function that makes its inputs."""
    build, shapes = BUILD[request.param]

    def inputs(**options):
        device = options.get("device")
        speakers = torch.zeros(2, dtype=torch.int64, device=device)
        return [speakers if shape is None else torch.zeros(shape, **options) for shape in shapes]

    return build, inputs


def shapes_of(out):
    return [t.shape for t in (out if isinstance(out, tuple) else (out,)) if t is not None]


# ---- devices and dtypes


def test_dtype_in_the_constructor(built):
    build, inputs = built
    module = build(dtype=torch.float64)
    assert {p.dtype for p in module.parameters()} == {torch.float64}
    assert {b.dtype for b in module.buffers() if b.is_floating_point()} <= {torch.float64}
    module(*inputs(dtype=torch.float64))


def test_meta_device(built):
    """Constructed and called without memory; the shapes are those of the CPU."""
    build, inputs = built
    module = build(device="meta").eval()
    assert {p.device.type for p in module.parameters()} == {"meta"}
    out = module(*inputs(device="meta"))
    assert shapes_of(out) == shapes_of(build().eval()(*inputs()))
    with torch.device("meta"):
        assert {p.device.type for p in build().parameters()} == {"meta"}


def test_a_seed_gives_the_same_weights_as_ever(built):
    """``device`` and ``dtype`` change nothing about the random draws."""
    build, _ = built
    torch.manual_seed(3)
    expected = build().state_dict()
    torch.manual_seed(3)
    got = build(device="cpu", dtype=torch.float32).state_dict()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_reset_parameters_after_meta(built):
    build, inputs = built
    module = build(device="meta").to_empty(device="cpu")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(torch.nan)
    module.reset_parameters()
    assert all(p.isfinite().all() for p in module.parameters())
    for child in module.modules():
        if type(child) is nn.Linear:
            bound = (6 / sum(child.weight.shape)) ** 0.5
            assert 0.3 * bound < child.weight.abs().max() <= bound
            assert child.bias is None or not child.bias.any()
    for buffer in module.buffers():
        assert buffer.isfinite().all()
    module.eval()(*inputs())
    torch.manual_seed(1)
    module.reset_parameters()
    first = [p.clone() for p in module.parameters()]
    torch.manual_seed(2)
    module.reset_parameters()
    assert any(not torch.equal(a, b) for a, b in zip(first, module.parameters(), strict=True))


# ---- sizes, names, backends


def test_numpy_sizes():
    fusion = JointCoAttention(np.int64(6), np.int32(4), np.int64(5), np.int16(3), np.int8(2))
    assert fusion.config == JointCoAttention(6, 4, 5, 3, 2).config
    assert len(fusion.layers) == 2
    three = JointCoAttention(dims=np.array([6, 4, 3]), num_segments=np.int64(5))
    assert json.loads(json.dumps(three.config))["dims"] == [6, 4, 3]
    sizes = {name: np.int64(value) for name, value in SMALL.items()}
    model = AVELocalizer(np.int64(8), np.int64(12), np.int64(2), **sizes, dropout=np.float64(0.1))
    assert json.loads(json.dumps(model.config)) == model.config
    assert all(type(value) is not np.int64 for value in model.config.values())
    ResidualRNN(np.int64(6), np.int64(4), np.int64(2))
    AudioGuidedReduction(np.int64(6), np.int64(4))
    AdditiveReduction(np.int64(6), np.int64(4), np.int64(8), np.int64(7))
    UtteranceClassifier(np.int64(6), np.int64(3))
    with pytest.raises(ValueError, match="num_layers must be an int of at least 1, got True"):
        JointCoAttention(6, 4, num_layers=True)
    with pytest.raises(ValueError, match="num_segments must be an int of at least 1"):
        JointCoAttention(6, 4, num_segments=np.float32(5))


@FORMS
def test_config_makes_a_twin(form):
    first = JointCoAttention(6, 4, 5, 3, 2, form, dropout=0.25, backend="reference")
    twin = JointCoAttention(**json.loads(json.dumps(first.config)))
    twin.load_state_dict(first.state_dict())
    assert twin.config == first.config
    assert twin.layers[0].dropout.p == 0.25
    assert twin.layers[1].backend == "reference"


@pytest.mark.parametrize(
    "build",
    [
        lambda: JointCoAttention(6, 4, backend="cuda13"),
        lambda: JointCoAttention(6, 4, form="released", backend="cuda13"),
        lambda: AudioGuidedReduction(6, 4, backend="cuda13"),
        lambda: AVELocalizer(8, 8, backend="cuda13"),
        lambda: AVELocalizer(8, 8, modalities="audio", backend="cuda13"),
    ],
)
def test_an_unknown_backend_is_refused_at_once(build):
    with pytest.raises(ValueError, match=r"backend must be 'auto' or one of .*; got 'cuda13'"):
        build()


def test_repr_says_everything(built):
    text = repr(built[0]())
    assert "num_segments=10" in text or "=" in text


def test_repr_of_the_fusion():
    text = repr(JointCoAttention(6, 4, 5, 3, 2, dropout=0.5, backend="reference"))
    for part in ("dims=[6, 4]", "num_segments=5", "attention_dim=3", "num_layers=2"):
        assert part in text
    for part in ("form='paper'", "joint='concat'", "dropout=0.5", "backend='reference'"):
        assert part in text
    assert "modalities='both'" in repr(AVELocalizer(8, 8))
    assert "max" in repr(PooledReduction("max"))
    assert "strategy='add'" in repr(JointFeature((6, 6), "add"))


@FORMS
def test_features_by_name(form):
    fusion = JointCoAttention(6, 4, 5, form=form)
    audio, visual = torch.randn(2, 5, 6), torch.randn(2, 5, 4)
    expected = fusion(audio, visual)
    for got in (
        fusion(audio=audio, visual=visual),
        fusion(visual=visual, audio=audio),
        fusion(audio, visual=visual),
    ):
        assert torch.equal(got[0], expected[0])
        assert torch.equal(got[1], expected[1])
    model = AVELocalizer(8, 8, **SMALL).eval()
    inputs = torch.randn(2, 10, 10), torch.randn(2, 10, 4, 14)
    assert torch.equal(model(audio=inputs[0], visual=inputs[1]), model(*inputs))
    for args, named in (((), {"audio": audio}), ((audio,), {"audio": visual})):
        with pytest.raises(ValueError, match="audio and visual name the features"):
            fusion(*args, **named)
    with pytest.raises(ValueError, match="of 3"):
        JointCoAttention(dims=(6, 4, 3), num_segments=5)(audio=audio, visual=visual)


META = torch.zeros(2, 5, 4, device="meta")


@FORMS
@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (lambda a, v: (a, v.double()), TypeError, "visual must be torch.float32 like audio"),
        (
            lambda a, v: (a.double(), v.double()),
            TypeError,
            "audio must be torch.float32 like the weights, got torch.float64",
        ),
        (lambda a, v: (a, META), ValueError, "visual must be on cpu like audio, got meta"),
        (
            lambda a, v: (a.to("meta"), META),
            ValueError,
            "audio must be on cpu like the weights, got meta",
        ),
        (lambda a, v: (a.numpy(), v), TypeError, r"audio must be a tensor .*, got ndarray"),
        (lambda a, v: (a.long(), v), TypeError, "audio must be a floating-point tensor"),
        (lambda a, v: (a[0], v), ValueError, r"audio must have shape \(B, 5, 6\), got \(5, 6\)"),
        (lambda a, v: (a[:, :0], v), ValueError, r"audio must have shape \(B, 5, 6\), got"),
        (lambda a, v: (a, v[:1]), ValueError, r"visual must have shape \(2, 5, 4\) to go with"),
    ],
)
def test_errors_name_the_modules_argument(form, inputs, error, message):
    fusion = JointCoAttention(6, 4, 5, form=form)
    with pytest.raises(error, match=message):
        fusion(*inputs(torch.zeros(2, 5, 6), torch.zeros(2, 5, 4)))


def test_errors_of_the_other_modules():
    guided = AudioGuidedReduction(6, 4)
    with pytest.raises(ValueError, match=r"audio must have shape \(..., 6\), got \(2, 5\)"):
        guided(torch.zeros(2, 5), torch.zeros(2, 7, 4))
    with pytest.raises(ValueError, match=r"regions must have shape \(2, R, 4\), got \(3, 7, 4\)"):
        guided(torch.zeros(2, 6), torch.zeros(3, 7, 4))
    with pytest.raises(TypeError, match=r"regions must be torch.float32 like audio"):
        AdditiveReduction(6, 4, 8, 7)(torch.zeros(2, 6), torch.zeros(2, 7, 4).double())
    with pytest.raises(ValueError, match=r"x must have shape \(B, N, 6\), got \(2, 5, 4\)"):
        ResidualRNN(6, 4)(torch.zeros(2, 5, 4))
    with pytest.raises(TypeError, match=r"x must be torch.float32 like the weights"):
        ResidualRNN(6, 4)(torch.zeros(2, 5, 6).double())
    with pytest.raises(ValueError, match="audio_dim must be even"):
        AVELocalizer(7, 8)
    with pytest.raises(ValueError, match=r"audio_dim = dims.0. must be an int of at least 1"):
        JointCoAttention(0, 4)
    model = AVELocalizer(8, 8, **SMALL)
    with pytest.raises(ValueError, match="visual must be on cpu like audio"):
        model(torch.zeros(2, 10, 10), torch.zeros(2, 10, 4, 14, device="meta"))
    with pytest.raises(TypeError, match=r"visual must be torch.float32 like audio"):
        model(torch.zeros(2, 10, 10), torch.zeros(2, 10, 4, 14).double())


# ---- autocast


@pytest.mark.parametrize("joint", ["concat", "add_fc", "cross"])
def test_autocast_keeps_the_residual_stream(backend, joint):
    """Error of output and gradients against float64: at most 3 times that of plain PyTorch."""
    fusion = JointCoAttention(6, 6, 5, 4, 4, joint=joint, backend=backend)
    exact = JointCoAttention(**(fusion.config | {"backend": "reference"})).double()
    exact.load_state_dict(fusion.state_dict())
    inputs = [10 * torch.randn(8, 5, 6) for _ in range(2)]

    def run(forward, dtype):
        leaves = [x.to(dtype).requires_grad_() for x in inputs]
        out = forward(*leaves)
        (out[0] * out[1]).sum().backward()
        return [t.detach().double() for t in (*out, *(x.grad for x in leaves))]

    def plain(*features):
        for layer in fusion.layers:
            joints = joint_of_each(layer.joint, features)
            updates = []
            for i, (x, j) in enumerate(zip(features, joints, strict=True)):
                w_j, w_x, w_c, w_h = (layer.weights(s)[i] for s in ("W_j", "W_", "W_c", "W_h"))
                c = torch.tanh(x.mT @ (w_j @ j) * j.shape[-1] ** -0.5)
                updates.append(w_h.mT @ torch.relu(w_x @ x + w_c @ c.mT))
            features = tuple(x + u for x, u in zip(features, updates, strict=True))
        return features

    expected = run(exact, torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        got, eager = run(fusion, torch.float32), run(plain, torch.float32)
        assert {x.dtype for x in fusion(*inputs)} == {torch.float32}
    for ours, theirs, truth in zip(got, eager, expected, strict=True):
        assert (ours - truth).abs().mean() <= 3 * (theirs - truth).abs().mean() + 1e-9


# ---- folders


@pytest.fixture
def hub(monkeypatch):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("name", ["paper", "released", "localizer", "released localizer"])
def test_folder_round_trip(hub, tmp_path, name):
    build, shapes = BUILD[name]
    module = build().eval()
    module.save_pretrained(tmp_path / "folder")
    assert json.loads((tmp_path / "folder" / "config.json").read_text()) == module.config
    assert (tmp_path / "folder" / "model.safetensors").is_file()
    loaded = type(module).from_pretrained(tmp_path / "folder")
    assert type(loaded) is type(module)
    assert loaded.config == module.config
    inputs = [torch.randn(shape) for shape in shapes]
    got, expected = loaded(*inputs), module(*inputs)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    again = type(module).from_pretrained(str(tmp_path / "folder"), backend="reference")
    assert again.config["backend"] == "reference"


def test_folder_errors(hub, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config.json: no such file"):
        JointCoAttention.from_pretrained(tmp_path)
    JointCoAttention(6, 4, 5).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model.safetensors: no such file"):
        JointCoAttention.from_pretrained(tmp_path)


def test_without_the_extra(tmp_path, monkeypatch):
    from jca_fast.modules import hub

    hub._hub_class.cache_clear()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install .*jca-fast\[hub\]"):
        JointCoAttention(6, 4, 5).save_pretrained(tmp_path)
    with pytest.raises(ImportError, match=r"pip install .*jca-fast\[hub\]"):
        AVELocalizer.from_pretrained(tmp_path)


# ---- types

USER = """
import torch

from jca_fast import AVELocalizer, JointCoAttention, explain, joint_affinity, tanh_attention
from jca_fast.heads import UtteranceClassifier, segment_loss
from jca_fast.modules import ResidualRNN, cut_windows

fusion = JointCoAttention(audio_dim=8, visual_dim=8, num_segments=4)
audio, visual = fusion(torch.zeros(1, 4, 8), torch.zeros(1, 4, 8), lengths=[3])
attended: torch.Tensor = tanh_attention(audio.mT, visual.mT, visual.mT, 0.5)
affinity: torch.Tensor = joint_affinity(audio, visual)
model: AVELocalizer = AVELocalizer.from_pretrained("folder") if not fusion else AVELocalizer()
scores: torch.Tensor = model.logits(audio, visual)
text: str = explain(audio, visual)
windows: torch.Tensor = cut_windows(audio, 2)
block = ResidualRNN(8, 8).forward(audio)
loss: torch.Tensor = segment_loss(UtteranceClassifier(8, 2)(block), audio)
reveal_type(fusion)
reveal_type(block)
"""


def test_a_users_file_passes_mypy_strict(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "user.py").write_text(USER)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "user.py"],
        cwd=tmp_path, capture_output=True, text=True, env={"MYPYPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'Revealed type is "jca_fast.modules.joint_coattention.JointCoAttention"' in done.stdout
    assert 'Revealed type is "torch._tensor.Tensor"' in done.stdout


def test_the_package_says_that_it_is_typed():
    import jca_fast

    assert (Path(jca_fast.__file__).parent / "py.typed").is_file()
