"""The published modules' numbers, by jca_fast.compat on every backend that runs on the CPU."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import sys
from pathlib import Path
from types import ModuleType

import golden_adapter
import numpy as np
import pytest
import torch

from jca_fast.compat import released
from jca_fast.ops import checks, reference

CASES = (
    "R_dense_a",
    "R_sublayer_a",
    "R_dcn_a",
    "R_dcn_b",
    "R_fork_n16",
    "R_position_a",
    "R_lstm_a",
    "R_predict_a",
    "R_predict_b1",
    "R_full_a",
    "P_camtiny_a",
    "P_camtiny_b",
)
DTYPES = {"f64": torch.float64, "f32": torch.float32}


def load_module(folder: Path, name: str) -> ModuleType:
    """A module of the reference folder, without leaving compiled files there."""
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(folder: Path, name: str) -> tuple[dict[str, np.ndarray], dict]:
    with np.load(folder / "open" / f"{name}.npz", allow_pickle=False) as file:
        arrays = dict(file)
    return arrays, json.loads(str(arrays.pop("meta")))


def weights_of(arrays: dict[str, np.ndarray], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {
        key[2:]: torch.from_numpy(value).to(dtype)
        for key, value in arrays.items()
        if key.startswith("w/")
    }


def worst(pairs) -> float:
    """Largest error over all (ours, golden), each relative to the largest golden number of its
    tensor.
    """
    return max(
        float(np.abs(ours.detach().numpy() - theirs).max() / max(np.abs(theirs).max(), 1e-30))
        for ours, theirs in pairs
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_case(golden, backend, case, dtype, monkeypatch):
    monkeypatch.setenv("JCA_FAST_BACKEND", backend)
    verify(golden, case, dtype, monkeypatch)


def verify(golden: Path, case: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference folder's own comparison of one case: outputs, and gradients of inputs and
    weights.
    """
    argv = [
        "verify.py",
        "--adapter",
        golden_adapter.__file__,
        "--set",
        "open",
        "--only",
        case,
        "--dtype",
        dtype,
    ]
    monkeypatch.setattr(sys, "argv", argv)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as end:
        load_module(golden, "verify").main()
    text = printed.getvalue()
    assert end.value.code == 0, text
    assert "cases 1, failures 0" in text
    assert "absent" not in text
    assert "note" not in text
    assert all(f"{part} " in text for part in ("out", "gin", "gw")), text


@pytest.mark.parametrize(("dtype", "bound"), [("f64", 1e-11), ("f32", 5e-6)])
def test_dropout_sits_where_published(golden, dtype, bound, monkeypatch):
    """With the published masks in place of ours, outputs and gradients are the published ones."""
    exact, meta = load(golden, "R_dropmask_a.f64")
    arrays, _ = load(golden, f"R_dropmask_a.{dtype}")
    p = 0.3
    masks = {
        key[5:].partition("#")[0]: torch.from_numpy(value)
        for key, value in exact.items()
        if key[:5] == "mask/"
    }
    of_affinity = [
        masks.pop(f"dcn_layers.{i}.dense_coattn.dropouts.{j}") for i in range(2) for j in range(2)
    ]
    drawn = iter(range(len(of_affinity)))

    def keep_mask(seed, rate, batch, rows, columns):
        mask = of_affinity[int(seed)].mT  # the op holds the transpose of the published affinity
        assert (rate, tuple(mask.shape)) == (p, (batch, rows, columns))
        return mask

    monkeypatch.setenv("JCA_FAST_BACKEND", "reference")
    monkeypatch.setattr(checks, "draw_seed", lambda device, generator: torch.tensor(next(drawn)))
    monkeypatch.setattr(reference, "keep_mask", keep_mask)
    monkeypatch.setattr(
        reference, "keep_scale", lambda rate: 1 / (1 - rate)
    )  # ours is 4e-6 off: p is quantised
    model = (
        released.DCNLayer(meta["dim1"], meta["dim2"], meta["layers"], p).to(DTYPES[dtype]).train()
    )
    model.load_state_dict(weights_of(exact, DTYPES[dtype]), strict=True)
    assert {name for name, m in model.named_modules() if name in masks} == set(masks)
    for name, mask in masks.items():
        dropout = model.get_submodule(name)
        assert isinstance(dropout, torch.nn.Dropout)
        assert dropout.p == p
        monkeypatch.setattr(dropout, "forward", lambda x, mask=mask: x * mask / (1 - p))

    inputs = [
        torch.from_numpy(exact[f"in/{k}"]).to(DTYPES[dtype]).requires_grad_() for k in ("x1", "x2")
    ]
    outputs = model(*inputs)
    cotangents = [torch.from_numpy(exact[f"gout/{k}"]).to(DTYPES[dtype]) for k in ("y1", "y2")]
    torch.autograd.backward(outputs, cotangents)
    assert (
        worst((y, arrays[f"out/{k}"]) for y, k in zip(outputs, ("y1", "y2"), strict=True)) < bound
    )
    assert (
        worst((x.grad, arrays[f"gin/{k}"]) for x, k in zip(inputs, ("x1", "x2"), strict=True))
        < bound
    )
    assert worst((w.grad, arrays[f"gw/{k}"]) for k, w in model.named_parameters()) < bound


@pytest.mark.parametrize(("dtype", "bound"), [("f64", 1e-10), ("f32", 2e-6)])
def test_training_goes_as_published(golden, backend, dtype, bound, monkeypatch):
    """Four steps of Adam on the whole model end at the published weights."""
    monkeypatch.setenv("JCA_FAST_BACKEND", backend)
    fill = load_module(golden, "fill")
    arrays, _ = load(golden, f"R_traj_a.{dtype}")
    shapes = json.loads((golden / "keys" / "state_dicts_open.json").read_text())[
        "DCNWithRCNN(da=8,dv=12,l=2)"
    ]
    options = golden_adapter.SimpleNamespace(
        audio_size=8, video_size=12, num_seq=2, dropout=0.0, droprnn=0.0
    )
    model = released.DCNWithRCNN(options).to(DTYPES[dtype])
    start = {
        key: torch.from_numpy(fill.weight(11, key, tuple(shape))) for key, shape in shapes.items()
    }
    model.load_state_dict(start, strict=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for seed in range(11, 15):
        audio = torch.from_numpy(fill.audio(seed, (2, 10, 128))).to(DTYPES[dtype])
        video = torch.from_numpy(fill.video(seed, (2, 10, 49, 512))).to(DTYPES[dtype])
        classes = torch.from_numpy(np.random.RandomState(seed).randint(0, 29, (2, 10)))
        scores = model(audio, video)
        labels = torch.nn.functional.one_hot(classes, 29).to(scores.dtype)
        loss = torch.nn.functional.multilabel_soft_margin_loss(scores, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss)
    assert worst([(torch.stack(losses), arrays["loss"]), (scores, arrays["last_score"])]) < bound
    assert worst((w, arrays[f"wend/{key}"]) for key, w in model.state_dict().items()) < bound
    moved = {key: (start[key] - w).abs().max() for key, w in model.state_dict().items()}
    assert min(moved.values()) > 1e-4  # every weight changed, so that the agreement is no accident
