"""Video, audio and text: three modalities, and the features after every layer of the recursion.

python examples/three_modalities.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jca_fast import JointCoAttention
from jca_fast.compat import rjcma, to_native
from jca_fast.heads import ccc_loss, concordance

SEGMENTS, DIMS = 30, (32, 16, 16)


def make_clips(count: int, mixing: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Three features of widths 32, 16, 16 with independent noise, and their curve (count, 30)."""
    steps = torch.linspace(0, 6, SEGMENTS)
    curve = torch.sin(6.3 * torch.rand(count, 1) + steps * (0.5 + torch.rand(count, 1)))
    return [curve[..., None] * m + torch.randn(count, SEGMENTS, len(m)) for m in mixing], curve


class Regressor(nn.Module):
    """A learned mix of the features after every layer, then a Linear."""

    def __init__(self, num_layers: int = 2) -> None:
        super().__init__()
        self.fusion = JointCoAttention(num_segments=SEGMENTS, num_layers=num_layers, dims=DIMS)
        self.mix = nn.Parameter(torch.zeros(num_layers))
        self.linear = nn.Linear(sum(DIMS), 1)

    def forward(self, *inputs: Tensor) -> Tensor:
        layers = [torch.cat(features, dim=-1) for features in self.fusion(*inputs, return_all=True)]
        mixed = sum(w * x for w, x in zip(self.mix.softmax(0), layers, strict=True))  # (B, 30, 64)
        return self.linear(mixed).squeeze(-1)  # (B, 30)


def main() -> None:
    torch.manual_seed(0)
    mixing = [0.4 * torch.randn(d) for d in DIMS]
    (train, target), (test, expected) = make_clips(512, mixing), make_clips(128, mixing)
    model = Regressor()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(6):
        for *inputs, y in zip(*(x.split(64) for x in (*train, target)), strict=True):
            optimizer.zero_grad()
            loss = ccc_loss(model(*inputs), y)
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")
    published = rjcma.DCNLayer(
        *DIMS, 2, 0.6, num_segments=SEGMENTS
    ).eval()  # the published layers, weights and names
    same = zip(published(*test), to_native(published)(*test), strict=True)
    difference = max((a - b).abs().max() for a, b in same)
    print(f"published layers as JointCoAttention, largest difference: {difference:.1e}")
    with torch.no_grad():
        print(f"CCC: {concordance(model(*test), expected):.3f}")


if __name__ == "__main__":
    main()
