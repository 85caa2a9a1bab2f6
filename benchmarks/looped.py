"""The published CAM as its users run it: plain PyTorch on 2-D matrices, one clip at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from jca_fast.compat.cam import CAM


def looped_clip(cam: CAM, audio: Tensor, visual: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
    """One clip, audio (N, d_in), visual (N, d_in): the heads' outputs (N, 1) and the attended
    features (N, d_x).
    """
    a, v = cam.encoder1(audio), cam.encoder2(visual)  # (N, d_a), (N, d_v)
    attended = []
    for name, x in (("a", a), ("v", v)):
        weights = [getattr(cam, symbol + name).weight for symbol in ("affine_", "W_", "W_c", "W_h")]
        w_j, w_x, w_c, w_h = weights  # (N, N), (k, N), (k, d), (N, k)
        joint = torch.cat((a, v), dim=1)  # (N, d)
        c = torch.tanh(torch.mm(x.t(), torch.mm(w_j, joint)) / joint.shape[1] ** 0.5)  # (d_x, d)
        h = torch.relu(torch.mm(c, w_c.t()) + torch.mm(x.t(), w_x.t()))  # (d_x, k)
        attended.append(torch.mm(h, w_h.t()).t() + x)  # (N, d_x)
    features = torch.cat(attended if cam.head_input == "attended" else (visual, attended[1]), dim=1)
    return [getattr(cam, name)(features) for name in cam.heads], *attended


def looped(cam: CAM, audio: Tensor, visual: Tensor) -> list[Tensor]:
    """A batch (B, N, d_in): the heads' outputs (B, N, 1), then the features (B, N, d_x)."""
    clips = [looped_clip(cam, audio[b], visual[b]) for b in range(audio.shape[0])]
    heads = [torch.stack(parts) for parts in zip(*(clip[0] for clip in clips), strict=True)]
    return [*heads, *(torch.stack([clip[i] for clip in clips]) for i in (1, 2))]
