"""Continuous emotion: valence and arousal of every segment, by the CAM and the concordance loss.

    python examples/valence_arousal.py

The only difference to a script of the emotion-recognition repositories is where CAM comes from:

    from models.cam import CAM            before
    from jca_fast.compat.cam import CAM   after, batched instead of looped over the clips
"""

from __future__ import annotations

import torch
from torch import Tensor

from jca_fast.compat.cam import CAM
from jca_fast.heads import ccc_loss, concordance

SEGMENTS, WIDTH = 16, 512


def make_clips(count: int, mixing: Tensor) -> tuple[Tensor, ...]:
    """Features (count, 16, 512) around two slow curves, which are the targets (count, 16)."""
    steps = torch.linspace(0, 3, SEGMENTS)
    phase, speed = 6.3 * torch.rand(2, count, 2, 1)
    curves = torch.sin(phase + 0.3 * speed * steps)  # (count, 2, 16): valence, arousal
    hidden = curves.mT @ mixing  # (count, 16, 1024)
    audio, visual = (hidden + 0.5 * torch.randn_like(hidden)).split(WIDTH, dim=-1)
    return audio, visual, curves[:, 0], curves[:, 1]


def main() -> None:
    torch.manual_seed(0)
    mixing = 0.3 * torch.randn(2, 2 * WIDTH)
    train, test = make_clips(256, mixing), make_clips(64, mixing)
    model = CAM(num_segments=SEGMENTS)  # two heads at N = 16, as published
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4)
    for epoch in range(3):
        for audio, visual, valence, arousal in zip(*(x.split(32) for x in train), strict=True):
            predicted = [y.squeeze(2) for y in model(audio, visual)]  # (B, 16) each
            loss = ccc_loss(predicted[0], valence) + ccc_loss(predicted[1], arousal)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")
    model.eval()
    with torch.no_grad():
        valence, arousal = (y.squeeze(2) for y in model(test[0], test[1]))
    print(f"valence CCC: {concordance(valence, test[2]):.3f}")
    print(f"arousal CCC: {concordance(arousal, test[3]):.3f}")


if __name__ == "__main__":
    main()
