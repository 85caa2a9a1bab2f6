"""Weakly supervised events: the labels say what happens in a video, not when.

    python examples/weak_supervision.py [--pooling max|mean] [--noisy FOLDER]

With --noisy, the background comes from ``audio_feature_noisy.h5`` in that folder: the 178 clips
that the AVE data set offers for this. Their visual features are random.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from jca_fast import JointCoAttention
from jca_fast.heads import video_scores, weak_loss

SEGMENTS = 10
BACKGROUND = 4
AUDIO = 128
VISUAL = 32


def background_clips(count: int, noisy: Path | None) -> tuple[Tensor, Tensor]:
    """Audio (count, 10, 128), sparse and non-negative like VGGish, and visual (count, 10, 32)."""
    visual = torch.randn(count, SEGMENTS, VISUAL)
    if noisy is None:
        return torch.relu(torch.randn(count, SEGMENTS, AUDIO) - 0.4), visual
    import h5py

    with h5py.File(noisy / "audio_feature_noisy.h5") as file:
        audio = torch.from_numpy(file["avadataset"][:]).float()
    return audio[torch.randint(0, len(audio), (count,))], visual


def event_clips(
    count: int, prototypes: tuple[Tensor, Tensor], noisy: Path | None
) -> tuple[Tensor, ...]:
    """Background with an event of 3 to 6 segments in each clip; classes (count,), (count, 10)."""
    audio, visual = background_clips(count, noisy)
    event = torch.randint(0, BACKGROUND, (count,))
    start, length = torch.randint(0, 5, (count, 1)), torch.randint(3, 7, (count, 1))
    inside = (torch.arange(SEGMENTS) >= start) & (
        torch.arange(SEGMENTS) < start + length
    )  # (count, 10)
    audio = audio + inside[..., None] * prototypes[0][event, None]
    visual = visual + inside[..., None] * prototypes[1][event, None]
    return audio, visual, event, torch.where(inside, event[:, None], BACKGROUND)


class WeakModel(nn.Module):
    """The released form, whose update of a segment is made of that segment's own features.

    The paper's form writes into all segments at once. Without labels in time it locates the event
    less well.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fusion = JointCoAttention(AUDIO, VISUAL, SEGMENTS, num_layers=1, form="released")
        self.head = nn.Linear(AUDIO + VISUAL, BACKGROUND + 1)

    def forward(self, audio: Tensor, visual: Tensor) -> Tensor:
        return self.head(torch.cat(self.fusion(audio, visual), dim=-1))  # (B, 10, 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pooling", choices=("max", "mean"), default="max")
    parser.add_argument("--noisy", type=Path, help="folder with audio_feature_noisy.h5")
    args = parser.parse_args()
    torch.manual_seed(0)
    prototypes = torch.relu(torch.randn(BACKGROUND, AUDIO)), torch.randn(BACKGROUND, VISUAL)
    audio, visual, event, _ = event_clips(400, prototypes, args.noisy)
    quiet = background_clips(178, args.noisy)
    audio, visual = torch.cat((audio, quiet[0])), torch.cat((visual, quiet[1]))
    videos = torch.cat(
        (event, torch.full((178,), BACKGROUND))
    )  # one class for each video, background included
    model = WeakModel()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(10):
        for rows in torch.randperm(len(videos)).split(64):
            optimizer.zero_grad()
            loss = weak_loss(model(audio[rows], visual[rows]), videos[rows], args.pooling)
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")
    audio, visual, event, segments = event_clips(200, prototypes, args.noisy)
    with torch.no_grad():
        logits = model(audio, visual)  # (200, 10, 5)
    strongest = logits.gather(-1, event[:, None, None].expand(-1, SEGMENTS, 1)).argmax(
        1
    )  # (200, 1)
    found = segments.gather(1, strongest) != BACKGROUND
    right = video_scores(logits, args.pooling).argmax(-1) == event
    print(f"video accuracy: {right.float().mean():.3f}")
    print(f"a random segment lies in the event: {(segments != BACKGROUND).float().mean():.3f}")
    print(f"strongest segment lies in the event: {found.float().mean():.3f}")


if __name__ == "__main__":
    main()
