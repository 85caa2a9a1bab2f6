"""Fully supervised events: which of four happens in each of ten segments, heard *and* seen.

python examples/segment_events.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jca_fast import JointCoAttention
from jca_fast.heads import segment_loss

SEGMENTS = 10
CLASSES = 5
BACKGROUND = 4
WIDTH = 24


def make_clips(count: int, prototypes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Audio, visual (count, 10, 24) and classes (count, 10).

    A segment is an event where both modalities carry its prototype.
    """
    event = torch.randint(0, BACKGROUND, (count, 1))
    heard, seen = torch.rand(2, count, SEGMENTS) < 0.7
    audio = torch.randn(count, SEGMENTS, WIDTH) + heard[..., None] * prototypes[0, event]
    visual = torch.randn(count, SEGMENTS, WIDTH) + seen[..., None] * prototypes[1, event]
    return audio, visual, torch.where(heard & seen, event, BACKGROUND)


class EventModel(nn.Module):
    """Joint Co-Attention, then a small network on both features; the loss has the softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.fusion = JointCoAttention(WIDTH, WIDTH, SEGMENTS, num_layers=2)
        self.head = nn.Sequential(nn.Linear(2 * WIDTH, 64), nn.ReLU(), nn.Linear(64, CLASSES))

    def forward(self, audio: Tensor, visual: Tensor) -> Tensor:
        return self.head(torch.cat(self.fusion(audio, visual), dim=-1))  # (B, 10, 5)


def main() -> None:
    torch.manual_seed(0)
    prototypes = 1.5 * torch.randn(2, BACKGROUND, WIDTH)
    train, test = make_clips(512, prototypes), make_clips(256, prototypes)
    model = EventModel()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(8):
        for audio, visual, classes in zip(*(x.split(64) for x in train), strict=True):
            optimizer.zero_grad()
            loss = segment_loss(model(audio, visual), classes)
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")
    with torch.no_grad():
        predicted = model(test[0], test[1]).argmax(-1)
    print(f"always background: {(test[2] == BACKGROUND).float().mean():.3f}")
    print(f"segment accuracy: {(predicted == test[2]).float().mean():.3f}")


if __name__ == "__main__":
    main()
