"""The dropout mask of the affinity matrix: a pure function of (seed, batch, row, column).

Kernels never store the mask. Each of them computes the same 16 random bits for element (b, i, j),
in the forward and again in the backward, whatever its tile shape. All arithmetic is modulo 2^32,
with the two multipliers of the 32-bit mixer "lowbias32" (K1 = 0x7feb352d, K2 = 0x846ca68b):

    mix(h):  h ^= h >> 16;  h *= K1;  h ^= h >> 15;  h *= K2;  h ^= h >> 16
    key(b)   = mix(mix(mix(seed_lo) + seed_hi) + b * 0x9E3779B9)
    key(b,i) = mix(key(b) + i * 0x9E3779B1)
    word     = j // 32 * 16 + j % 16,   half = j // 16 % 2
    h        = (key(b,i) ^ word * 0x85EBCA77) * K1;  h ^= h >> 15;  h *= K2;  h ^= h >> 16
    bits     = h >> 16 * half & 0xffff

Element (b, i, j) is kept where ``bits >= threshold`` with ``threshold = round(p * 65536)``, and a
kept element is multiplied by ``65536 / (65536 - threshold)``: p is quantised to 1/65536 and the
scale uses the quantised probability. Two columns, 16 apart, share one hash, which halves its cost
and keeps both in one SIMD lane or GPU thread.
"""

from __future__ import annotations

import torch
from torch import Tensor

_K1 = 0x7FEB352D
_K2 = 0x846CA68B - (1 << 32)
_BATCH = 0x9E3779B9 - (1 << 32)
_ROW = 0x9E3779B1 - (1 << 32)
_COLUMN = 0x85EBCA77 - (1 << 32)
_FOLD = 0x9E3779B97F4A7C15


def threshold(p: float) -> int:
    """The 16-bit threshold of drop probability ``p``: bits below it are dropped."""
    return round(p * 65536)


def keep_scale(p: float) -> float:
    """The factor of kept elements; 0 for p = 1, where none is kept."""
    kept = 65536 - threshold(p)
    return 65536 / kept if kept else 0.0


def draw_seed(device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """A fresh int64 seed () drawn from ``generator``, or from the default generator of
    ``device``.
    """
    return torch.randint(0, 2**63 - 1, (), dtype=torch.int64, device=device, generator=generator)


def fold_seed(seed: Tensor, index: int) -> Tensor:
    """The seed of modality ``index`` of one layer; index 0 leaves the seed unchanged."""
    step = index * _FOLD % 2**64
    return seed + (step - 2**64 if step >= 2**63 else step)


def keep_mask(seed: Tensor, p: float, batch: int, rows: int, columns: int) -> Tensor:
    """The mask as a boolean tensor (batch, rows, columns), true = keep. For the reference and for
    tests.
    """
    words = -(-columns // 32) * 16
    h = _hash(seed, batch, rows, words).view(batch, rows, words // 16, 1, 16)
    bits = torch.cat((h, h >> 16), dim=3) & 0xFFFF  # (batch, rows, words / 16, 2, 16)
    return bits.view(batch, rows, words * 2)[..., :columns] >= threshold(p)


def _hash(seed: Tensor, batch: int, rows: int, words: int) -> Tensor:
    """32 random bits for each pair of columns: int32 (batch, rows, words)."""
    low, high = seed.to(torch.int32), (seed >> 32).to(torch.int32)
    count = [torch.arange(n, dtype=torch.int32, device=seed.device) for n in (batch, rows, words)]
    sample = _mix(_mix(_mix(low) + high) + count[0] * _BATCH)  # (batch,)
    row = _mix(sample[:, None] + count[1] * _ROW)  # (batch, rows)
    h = (row[..., None] ^ (count[2] * _COLUMN)) * _K1  # (batch, rows, words)
    h = (h ^ _shift(h, 15)) * _K2
    return h ^ _shift(h, 16)


def _mix(h: Tensor) -> Tensor:
    h = (h ^ _shift(h, 16)) * _K1
    h = (h ^ _shift(h, 15)) * _K2
    return h ^ _shift(h, 16)


def _shift(h: Tensor, bits: int) -> Tensor:
    """Logical right shift of an int32 tensor (torch shifts signed integers arithmetically)."""
    return (h >> bits) & ((1 << (32 - bits)) - 1)
