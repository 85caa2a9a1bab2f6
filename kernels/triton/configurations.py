"""The launch configurations themselves, see ``table.py``.

(direction, tier, sizes, work): {architecture class, or "" for all others: (rows, columns, warps, stages)}
"""

from __future__ import annotations

# fmt: off
ENTRIES: dict[tuple[str, str, str, str], dict[str, tuple[int, int, int, int]]] = {
    ("backward", "exact", "narrow", "large"): {"": (16, 128, 8, 1), "sm90": (32, 128, 8, 1)},
    ("backward", "exact", "narrow", "small"): {"": (16, 64, 4, 1), "sm100": (16, 32, 2, 1)},
    ("backward", "exact", "wide", "large"): {"": (16, 64, 8, 1), "sm100": (16, 128, 8, 1), "sm90": (16, 128, 8, 1)},
    ("backward", "exact", "wide", "small"): {"": (16, 64, 8, 1), "sm100": (16, 128, 8, 1), "sm90": (16, 128, 8, 1)},
    ("backward", "half", "narrow", "large"): {"": (32, 128, 8, 1), "sm100": (64, 64, 4, 2), "sm90": (64, 128, 8, 1)},
    ("backward", "half", "narrow", "small"): {"": (32, 32, 2, 1)},
    ("backward", "half", "wide", "large"): {"": (16, 32, 8, 1), "sm100": (16, 64, 8, 1), "sm90": (16, 64, 8, 1)},
    ("backward", "half", "wide", "small"): {"": (16, 32, 8, 1), "sm100": (16, 64, 8, 1), "sm90": (16, 64, 8, 1)},
    ("backward", "tf32", "narrow", "large"): {"": (16, 128, 8, 1), "sm100": (32, 128, 8, 1), "sm90": (32, 128, 8, 1)},
    ("backward", "tf32", "narrow", "small"): {"": (16, 64, 4, 1)},
    ("backward", "tf32", "wide", "large"): {"": (16, 32, 8, 1), "sm100": (32, 64, 8, 1), "sm90": (16, 64, 8, 1)},
    ("backward", "tf32", "wide", "small"): {"": (16, 32, 8, 1), "sm100": (32, 64, 8, 1), "sm90": (16, 64, 8, 1)},
    ("forward", "exact", "narrow", "large"): {"": (128, 32, 8, 1), "sm100": (128, 64, 8, 1), "sm90": (128, 64, 8, 1)},
    ("forward", "exact", "narrow", "small"): {"": (64, 32, 4, 1), "sm120": (128, 32, 8, 1)},
    ("forward", "exact", "wide", "large"): {"": (64, 32, 8, 1), "sm120": (64, 16, 8, 1)},
    ("forward", "exact", "wide", "small"): {"": (64, 32, 8, 1), "sm120": (64, 16, 8, 1)},
    ("forward", "half", "narrow", "large"): {"": (128, 64, 4, 2)},
    ("forward", "half", "narrow", "small"): {"": (32, 32, 2, 2)},
    ("forward", "half", "wide", "large"): {"": (64, 32, 4, 2), "sm120": (64, 32, 4, 1)},
    ("forward", "half", "wide", "small"): {"": (64, 32, 4, 2), "sm120": (64, 32, 4, 1)},
    ("forward", "tf32", "narrow", "large"): {"": (128, 64, 8, 2), "sm100": (128, 64, 4, 2)},
    ("forward", "tf32", "narrow", "small"): {"": (32, 32, 2, 2)},
    ("forward", "tf32", "wide", "large"): {"": (64, 32, 8, 1)},
    ("forward", "tf32", "wide", "small"): {"": (64, 32, 8, 1)},
}
# fmt: on
