"""The whole published models against their formulas, written out from the weights."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from jca_fast.bench.plain import published_layer
from jca_fast.compat import orig_cam, released, speaker

Weights = dict[str, Tensor]


def within(w: Weights, prefix: str) -> Weights:
    return {key.removeprefix(prefix): value for key, value in w.items() if key.startswith(prefix)}


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    y = x @ w[f"{name}.weight"].T
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def normalise(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def steps(w: Weights, suffix: str, x: Tensor, h: Tensor, c: Tensor | None) -> Tensor:
    """One direction of one layer, step by step; a GRU where there is no c."""
    out = []
    for t in reversed(range(x.shape[1])) if suffix.endswith("reverse") else range(x.shape[1]):
        of_x = x[:, t] @ w[f"rnn.weight_ih_{suffix}"].T + w[f"rnn.bias_ih_{suffix}"]
        of_h = h @ w[f"rnn.weight_hh_{suffix}"].T + w[f"rnn.bias_hh_{suffix}"]
        if c is None:
            (r_x, z_x, n_x), (r_h, z_h, n_h) = of_x.chunk(3, 1), of_h.chunk(3, 1)
            z = torch.sigmoid(z_x + z_h)
            h = (1 - z) * torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h) + z * h
        else:
            i, f, g, o = (of_x + of_h).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        out.append(h)
    return torch.stack(out[::-1] if suffix.endswith("reverse") else out, dim=1)


def block(w: Weights, x: Tensor, layers: int = 2) -> Tensor:
    """Residual recurrent block: the rows of ``init_hidden`` are h0 of every direction, then c0."""
    start = w["init_hidden"][:, None].expand(-1, x.shape[0], -1)
    y = x
    for i in range(layers):
        cells = start[2 * layers :] if len(start) > 2 * layers else [None] * 2 * layers
        names = (f"l{i}", f"l{i}_reverse")
        y = torch.cat(
            [steps(w, name, y, start[2 * i + j], cells[2 * i + j]) for j, name in enumerate(names)],
            dim=-1,
        )
    return normalise(linear(w, "linear", torch.cat((x, y), dim=-1)))


def position(w: Weights, video: Tensor, audio: Tensor) -> Tensor:
    of_video = linear(w, "affine_v", torch.relu(linear(w, "affine_video", video)))  # (B, N, 49, 49)
    of_audio = linear(w, "affine_g", torch.relu(linear(w, "affine_audio", audio)))  # (B, N, 49)
    alpha = torch.softmax(
        linear(w, "affine_h", torch.tanh(of_video + of_audio[..., None])), dim=2
    )  # (B, N, 49, 1)
    return linear(w, "affine_feat", (alpha * video).sum(2))


def fused(model: nn.Module, video: Tensor, audio: Tensor) -> Tensor:
    pair = video, audio
    for layer in model.coattn.dcn_layers:
        pair = published_layer(layer, pair)
    return torch.cat(pair, dim=-1)


def head(w: Weights, name: str, x: Tensor) -> Tensor:
    return linear(w, f"{name}.3", torch.relu(linear(w, f"{name}.0", x)))


def released_model(
    model: released.DCNWithRCNN, w: Weights, audio: Tensor, video: Tensor
) -> list[Tensor]:
    layers = model.audio_extract.rnn.num_layers
    audio, video = normalise(audio), normalise(video)
    audio = block(within(w, "audio_extract."), audio, layers)
    video = block(
        within(w, "video_extract."), position(within(w, "video_attn.attn."), video, audio), layers
    )
    joint = block(within(w, "predict.Joint."), fused(model, video, audio))
    return [torch.softmax(head(w, "predict.predict", joint), dim=-1)]


def emotion_model(model: orig_cam.CAM, w: Weights, audio: Tensor, video: Tensor) -> list[Tensor]:
    audio, video = normalise(audio), normalise(video)
    recurrent = "audio_extract.init_hidden" in w
    audio = block(within(w, "audio_extract."), audio) if recurrent else audio
    video = position(within(w, "video_attn.attn."), video, audio)
    video = block(within(w, "video_extract."), video) if recurrent else video
    joint = block(within(w, "Joint."), fused(model, video, audio))
    return [head(w, name, joint)[..., 0] for name in ("vregressor", "aregressor")]


def speaker_model(model: speaker.CAM, w: Weights, audio: Tensor, video: Tensor) -> list[Tensor]:
    audio = block(within(w, "audio_extract."), normalise(audio))
    video = block(within(w, "video_extract."), normalise(video))
    return [block(within(w, "Joint."), fused(model, video, audio))]


def whole(**options) -> released.DCNWithRCNN:
    return released.DCNWithRCNN(SimpleNamespace(**options))


CASES = {
    "released": (
        lambda: whole(audio_size=6, video_size=8, num_seq=2),
        released_model,
        (10, 128),
        (10, 49, 512),
    ),
    "released, one layer of everything": (
        lambda: whole(
            audio_size=2, video_size=4, num_seq=1, num_layers=1, num_segments=1, num_classes=3
        ),
        released_model,
        (1, 128),
        (1, 49, 512),
    ),
    "released, GRU of three layers": (
        lambda: whole(
            audio_size=10, video_size=4, num_seq=5, num_layers=3, num_segments=3, rnn="GRU"
        ),
        released_model,
        (3, 128),
        (3, 49, 512),
    ),
    "emotion": (
        lambda: orig_cam.CAM(4, 6, 8, 2, hidden_dim=5),
        emotion_model,
        (4, 6),
        (4, 49, 512),
    ),
    "emotion without LSTM": (
        lambda: orig_cam.CAM(3, 7, 8, 1, unimodal_rnn=False, hidden_dim=5),
        emotion_model,
        (3, 7),
        (3, 49, 512),
    ),
    "speaker": (
        lambda: speaker.CAM(3, 4, 6, num_speakers=2, unused_dims=(2, 2)),
        speaker_model,
        (3, 4),
        (3, 6),
    ),
}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_whole_models_compute_the_published_formulas(name, batch):
    build, formula, *shapes = CASES[name]
    model = build().double().eval()
    for bias in (value for key, value in model.named_parameters() if value.ndim == 1):
        nn.init.normal_(bias, std=0.1)  # they start at 0, where a wrong one would not show
    inputs = [torch.rand(batch, *shape, dtype=torch.double, requires_grad=True) for shape in shapes]
    ours, weights = model(*inputs), dict(model.named_parameters())
    ours = list(ours) if isinstance(ours, tuple) else [ours]
    theirs = formula(model, weights, *inputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)
    cotangents = [torch.randn_like(y) for y in ours]
    leaves = [*inputs, *weights.values()]
    grads = [
        torch.autograd.grad(out, leaves, cotangents, allow_unused=True) for out in (ours, theirs)
    ]
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-12)
