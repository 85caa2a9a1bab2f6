"""One class for a whole utterance of any length (as in CREMA-D, RAVDESS, IEMOCAP).

    python examples/utterance_classification.py

Shorter clips are padded, and both fusion and classifier are told how many segments are in use. The
result is then that of the truly shorter clips, which zeros alone would not give.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jca_fast import JointCoAttention
from jca_fast.heads import UtteranceClassifier

SEGMENTS = 12
CLASSES = 6
WIDTH = 32


def make_clips(count: int, prototypes: Tensor) -> tuple[Tensor, ...]:
    """Audio, visual (count, 12, 32), lengths and classes (count,).

    Half of a class is heard and half of it is seen. The padding holds NaN, which does not matter.
    """
    classes, lengths = torch.randint(0, CLASSES, (count,)), torch.randint(4, SEGMENTS + 1, (count,))
    used = (torch.arange(SEGMENTS) < lengths[:, None])[..., None]  # (count, 12, 1)
    audio = torch.randn(count, SEGMENTS, WIDTH) + prototypes[0, classes // 2][:, None]
    visual = torch.randn(count, SEGMENTS, WIDTH) + prototypes[1, classes % 2][:, None]
    padding = torch.tensor(torch.nan)
    return torch.where(used, audio, padding), torch.where(used, visual, padding), lengths, classes


class UtteranceModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fusion = JointCoAttention(
            WIDTH, WIDTH, SEGMENTS, num_layers=2, form="released", dropout=0.3
        )
        self.classifier = UtteranceClassifier(2 * WIDTH, CLASSES)

    def forward(self, audio: Tensor, visual: Tensor, lengths: Tensor) -> Tensor:
        fused = torch.cat(self.fusion(audio, visual, lengths=lengths), dim=-1)  # (B, 12, 64)
        return self.classifier(fused, lengths)  # (B, 6)


def main() -> None:
    torch.manual_seed(0)
    prototypes = 0.4 * torch.randn(2, 3, WIDTH)
    train, test = make_clips(512, prototypes), make_clips(256, prototypes)
    model = UtteranceModel()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(8):
        model.train()
        for audio, visual, lengths, classes in zip(*(x.split(64) for x in train), strict=True):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(audio, visual, lengths), classes)
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")
    model.eval()
    with torch.no_grad():
        predicted = model(*test[:3]).argmax(-1)
    print(f"chance: {1 / CLASSES:.3f}")
    print(f"utterance accuracy: {(predicted == test[3]).float().mean():.3f}")


if __name__ == "__main__":
    main()
