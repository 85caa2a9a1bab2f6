"""The initial weights of the published models, drawn with plain torch modules in published order.

A part is (prefix, module); ``block`` gives the parts of a residual LSTM block. The order of the
parts is the order in which the published constructors draw.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Start:
    """Collects the draws of one model; ``xavier`` draws the Linears again, as whole models do."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.weights: dict[str, Tensor] = {}
        self.linears: list[nn.Linear] = []

    def linear(self, name: str, in_dim: int, out_dim: int, bias: bool = True) -> None:
        module = nn.Linear(in_dim, out_dim, bias)
        self.linears.append(module)
        self._keep(name, module)

    def block(self, name: str, embed: int, dim: int, layers: int = 2) -> None:
        self.linear(f"{name}.linear", dim + embed, dim)
        rnn = nn.LSTM(embed, dim // 2, layers, batch_first=True, bidirectional=True)
        self._keep(f"{name}.rnn", rnn)
        hidden = nn.init.xavier_uniform_(torch.empty(4 * layers, dim // 2))
        self.weights[f"{name}.init_hidden"] = hidden

    def stack(self, name: str, dims: tuple[int, ...], layers: int, n: int) -> None:
        d = sum(dims)
        for i in range(layers):
            prefix = f"{name}dcn_layers.{i}"
            self.linear(f"{prefix}.dense_coattn.query_linear", d, d)
            for j in range(len(dims)):
                self.linear(f"{prefix}.dense_coattn.key{j + 1}_linear", n, n)
            for j, width in enumerate(dims):
                self.linear(f"{prefix}.dense_coattn.value{j + 1}_linear", width, width)
            for j, width in enumerate(dims):
                self.linear(f"{prefix}.linears.{j}.0", d, width)

    def position(self, name: str, audio: int, dim: int, hidden: int = 49) -> None:
        self.linear(f"{name}.attn.affine_audio", audio, dim)
        self.linear(f"{name}.attn.affine_video", 512, dim)
        self.linear(f"{name}.attn.affine_v", dim, hidden, bias=False)
        self.linear(f"{name}.attn.affine_g", dim, hidden, bias=False)
        self.linear(f"{name}.attn.affine_h", hidden, 1, bias=False)
        self.linear(f"{name}.attn.affine_feat", 512, dim)

    def head(self, name: str, width: int, hidden: int, outputs: int) -> None:
        self.linear(f"{name}.0", width, hidden)
        self.linear(f"{name}.3", hidden, outputs)

    def xavier(self) -> dict[str, Tensor]:
        for module in self.linears:
            nn.init.xavier_uniform_(module.weight.data)
            if module.bias is not None:
                nn.init.constant_(module.bias.data, 0.0)
        return self.weights

    def _keep(self, name: str, module: nn.Module) -> None:
        self.weights |= {f"{name}.{key}": value for key, value in module.state_dict().items()}


def released_model(seed: int) -> dict[str, Tensor]:
    start = Start(seed)
    start.block("audio_extract", 128, 6)
    start.block("video_extract", 8, 8)
    start.position("video_attn", 6, 8)
    start.stack("coattn.", (8, 6), 2, 10)
    start.block("predict.Joint", 14, 8)
    start.head("predict.predict", 8, 2, 29)
    return start.xavier()


def emotion_model(seed: int, *, rnn: bool = True, gates: bool = False) -> dict[str, Tensor]:
    start = Start(seed)
    start.stack("coattn.", (8, 6), 2, 4)
    if rnn:
        start.block("audio_extract", 6, 6)
        start.block("video_extract", 8, 8)
    start.position("video_attn", 6, 8)
    joint = ("Joint", 14, 8)
    if rnn:
        start.head("vregressor", 8, 5, 1)
        start.block(*joint)
    else:
        start.block(*joint)
        start.head("vregressor", 8, 5, 1)
    start.head("aregressor", 8, 5, 1)
    if gates:
        start.linear("audio_gating_fc_layer", 6, 2)
        start.linear("video_gating_fc_layer", 8, 2)
    return start.xavier()


def one_segment_model(seed: int) -> dict[str, Tensor]:
    start = Start(seed)
    start.stack("coattn.", (8, 6), 2, 1)
    start.block("audio_extract", 6, 6)
    start.block("video_extract", 8, 8)
    start.position("video_attn", 6, 8, hidden=1)
    start.head("vregressor", 8, 5, 2)
    start.block("Joint", 14, 8)
    return start.xavier()


def speaker_model(seed: int) -> dict[str, Tensor]:
    start = Start(seed)
    start.stack("coattn.", (6, 4), 2, 3)
    start.block("audio_extract", 4, 4)
    start.block("video_extract", 6, 6)
    start.position("video_attn", 2, 4)
    start.block("Joint", 10, 10)
    start.block("predict.Joint", 10, 6)
    start.head("predict.predict", 6, 1, 7)
    return start.xavier()


def gated_model(seed: int, hierarchical: bool) -> dict[str, Tensor]:
    start = Start(seed)
    start.stack("coattn.", (8, 6), 2, 5)
    start.head("vregressor", 512, 128, 1)
    start.block("Joint", 1024, 512)
    start.head("aregressor", 512, 128, 1)
    for name, width, outputs in _gates(hierarchical):
        start.linear(name, width, outputs)
    return start.xavier()


def _gates(hierarchical: bool) -> Iterator[tuple[str, int, int]]:
    last = "_stage2" if hierarchical else ""
    yield from (
        (f"{name}_gating_fc_layer{last}", width, 3)
        for name, width in (("audio", 6), ("video", 8), ("text", 128))
    )
    if hierarchical:
        for stage in ("stage1", "stage"):
            for name, width in (("video", 8), ("text", 128), ("audio", 6)):
                yield f"{name}_gating_fc_layer_{stage}", width, 2


def stack(seed: int, dims: tuple[int, ...], layers: int, n: int) -> dict[str, Tensor]:
    start = Start(seed)
    start.stack("", dims, layers, n)
    return start.weights


def paper_cam(seed: int, n: int, heads: tuple[str, ...], width: int) -> dict[str, Tensor]:
    """Inputs 9, encoded to 6, k = 5: without a second draw, as published."""
    start = Start(seed)
    start.linear("encoder1", 9, 6)
    start.linear("encoder2", 9, 6)
    for symbol, i, o in (("affine_", n, n), ("W_", n, 32), ("W_c", 12, 32), ("W_h", 32, n)):
        for name in "av":
            start.linear(symbol + name, i, o, bias=False)
    for name in heads:
        start.linear(f"{name}.0", width, 128)
        start.linear(f"{name}.2", 128, 1)
    return start.weights
