"""Person verification: voice and face in one embedding, angular margin loss, EER and minDCF.

    python examples/speaker_verification.py

``FusionModel`` is the published speaker verification model, with smaller sizes than the published.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from jca_fast.compat.speaker import CAM, FusionModel
from jca_fast.heads import AdditiveAngularMargin, equal_error_rate, min_dcf

SEGMENTS = 8
VOICE = 24
FACE = 32
SPEAKERS = 60
KNOWN = 40


def make_clips(speakers: Tensor, voices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """One clip of each speaker: voice (n, 8, 24), face (n, 8, 32), around their features."""
    audio = voices[speakers, None] + 1.2 * torch.randn(len(speakers), SEGMENTS, VOICE)
    visual = faces[speakers, None] + 1.2 * torch.randn(len(speakers), SEGMENTS, FACE)
    return audio, visual


def main() -> None:
    torch.manual_seed(0)
    voices, faces = torch.randn(SPEAKERS, VOICE), torch.randn(SPEAKERS, FACE)
    inner = CAM(
        SEGMENTS,
        VOICE,
        FACE,
        num_layers=2,
        num_speakers=KNOWN,
        unused_dims=(VOICE, VOICE),
        dropout=0.2,
    )
    model, loss_of = FusionModel(inner, 32, hidden_dim=32), AdditiveAngularMargin(32, KNOWN)
    optimizer = torch.optim.Adam([*model.parameters(), *loss_of.parameters()], lr=3e-3)

    def trials() -> tuple[float, float]:
        """Error rate and cost on all pairs of clips of speakers never trained on, 5 clips each."""
        model.eval()
        unknown = torch.arange(KNOWN, SPEAKERS).repeat(5)
        with torch.no_grad():
            embedding = F.normalize(model(*make_clips(unknown, voices, faces)))
        first, second = torch.triu_indices(len(unknown), len(unknown), offset=1)
        scores, same = (
            (embedding[first] * embedding[second]).sum(-1),
            unknown[first] == unknown[second],
        )
        return equal_error_rate(scores, same), min_dcf(scores, same)

    print("untrained: EER {:.3f}, minDCF {:.3f}".format(*trials()))
    for step in range(40):
        model.train()
        speakers = torch.randint(0, KNOWN, (64,))
        loss = loss_of(model(*make_clips(speakers, voices, faces)), speakers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 9:
            print(f"step {step}: loss {loss.item():.3f}")
    eer, cost = trials()
    print(f"minDCF: {cost:.3f}")
    print(f"EER: {eer:.3f}")


if __name__ == "__main__":
    main()
