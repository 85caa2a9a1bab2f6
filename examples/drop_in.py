"""The published model, its training loop and its checkpoint, with one import changed.

    python examples/drop_in.py

A model is trained with the published recipe, saved as the published code saves it, loaded by its
keys and shapes alone, and converted to this library's own model.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from pathlib import Path

import torch
from torch import nn

from jca_fast.compat import load_checkpoint, read_checkpoint, to_native
from jca_fast.compat.released import DCNWithRCNN  # was: from models import DCNWithRCNN

OPTIONS = Namespace(
    rnn="LSTM",
    num_layers=2,
    audio_size=32,
    video_size=32,
    num_seq=2,
    droprnn=0.1,
    dropout=0.3,
    num_classes=29,
)


def main() -> None:
    torch.manual_seed(0)
    model = DCNWithRCNN(OPTIONS)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    audio, video = torch.rand(16, 10, 128), torch.rand(16, 10, 7, 7, 512)
    labels = nn.functional.one_hot(torch.randint(0, 29, (16, 10)), 29).float()
    for step in range(3):
        optimizer.zero_grad()
        loss = nn.MultiLabelSoftMarginLoss()(model(audio, video), labels)
        loss.backward()
        optimizer.step()
        print(f"step {step}: loss {loss.item():.5f}")
    model.eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "test.pt"
        torch.save(model, path)  # the whole module, as published
        print(read_checkpoint(path).recognized)
        loaded = load_checkpoint(path)
    own = to_native(loaded)
    with torch.no_grad():
        scores = [m(audio, video) for m in (model, loaded, own)]
    print(f"largest difference: {max((scores[0] - other).abs().max() for other in scores[1:]):.1e}")


if __name__ == "__main__":
    main()
