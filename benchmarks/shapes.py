"""The one table of shapes, for tests and benchmarks.

Sizes are those of :func:`jca_fast.functional.tanh_attention`: B samples, M rows and L columns of
the affinity matrix, N segments, D value width; ``shared`` where v is shared by the batch, as in the
paper's form.
"""

from __future__ import annotations

from typing import NamedTuple


class Shape(NamedTuple):
    B: int
    M: int
    L: int
    N: int
    D: int
    shared: bool


PAPER = Shape(64, 512, 1024, 10, 32, True)
"""Paper form at the paper's size, one modality: d_a = 512 channels against d = 1,024 of J, k = 32.
"""

RELEASED = Shape(64, 1024, 512, 10, 10, False)
"""Released form at the paper's size, one modality: 1,024 channels of the query of J against 512 of
a key.
"""

THIRD_PARTY = {
    "emotion_n8": Shape(64, 128, 256, 8, 32, True),
    "emotion_n16": Shape(64, 128, 256, 16, 32, True),
    "fork_n16": Shape(32, 1024, 512, 16, 16, False),
    "speaker": Shape(32, 704, 192, 8, 8, False),
    "three_modalities_n300": Shape(4, 512, 256, 300, 300, False),
    "pain_n1": Shape(32, 1024, 512, 1, 1, False),
}
"""Sizes found in published repositories that use Joint Co-Attention."""

SMALL: dict[str, Shape] = {
    "paper": Shape(3, 48, 96, 10, 8, True),
    "released": Shape(3, 96, 48, 10, 10, False),
    "one_of_each": Shape(1, 1, 1, 1, 1, False),
    "odd": Shape(2, 17, 31, 7, 5, True),
    "odd_tails": Shape(3, 65, 129, 13, 33, False),
    "long": Shape(1, 20, 24, 300, 3, False),
    "wide_value": Shape(2, 9, 12, 10, 130, True),
    "shared_single_sample": Shape(1, 20, 36, 8, 6, True),
    "no_sample": Shape(0, 12, 20, 10, 4, False),
    "no_sample_shared": Shape(0, 12, 20, 10, 4, True),
}
"""Small enough for a float64 oracle in every test: paper-like, odd, tiny, long, batch 0 and 1."""
