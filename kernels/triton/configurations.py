"""The launch configurations themselves, see ``table.py``.

(direction, tier, class of sizes):
    {architecture class, or "" for all others: (rows, columns, warps, stages)}
"""

from __future__ import annotations

ENTRIES: dict[tuple[str, str, str], dict[str, tuple[int, int, int, int]]] = {
    ("backward", "exact", "blocked"): {
        "": (16, 32, 8, 1),
        "sm80": (16, 16, 4, 1),
    },
    ("backward", "exact", "narrow"): {
        "": (16, 128, 8, 1),
        "sm80": (16, 64, 8, 1),
        "sm90": (32, 128, 8, 1),
    },
    ("backward", "exact", "small"): {
        "": (32, 32, 8, 1),
    },
    ("backward", "exact", "wide"): {
        "": (16, 32, 8, 1),
        "sm100": (16, 128, 8, 1),
        "sm80": (16, 128, 8, 1),
        "sm86": (16, 128, 8, 1),
        "sm90": (32, 128, 8, 1),
    },
    ("backward", "half", "blocked"): {
        "": (16, 32, 8, 1),
        "sm100": (32, 64, 8, 1),
        "sm90": (32, 64, 8, 1),
    },
    ("backward", "half", "narrow"): {
        "": (32, 128, 8, 1),
        "sm100": (64, 128, 8, 1),
        "sm90": (64, 128, 8, 1),
    },
    ("backward", "half", "small"): {
        "": (64, 32, 8, 1),
        "sm120": (32, 32, 8, 1),
    },
    ("backward", "half", "wide"): {
        "": (16, 32, 8, 1),
        "sm100": (32, 64, 8, 1),
        "sm90": (32, 64, 8, 1),
    },
    ("backward", "tf32", "blocked"): {
        "": (16, 32, 4, 1),
        "sm100": (16, 64, 8, 1),
        "sm86": (16, 32, 8, 1),
        "sm90": (16, 64, 8, 1),
    },
    ("backward", "tf32", "narrow"): {
        "": (16, 128, 8, 1),
        "sm100": (32, 128, 8, 1),
        "sm90": (32, 128, 8, 1),
    },
    ("backward", "tf32", "small"): {
        "": (16, 64, 4, 1),
        "sm90": (32, 64, 8, 1),
    },
    ("backward", "tf32", "wide"): {
        "": (16, 32, 8, 1),
        "sm100": (32, 64, 8, 1),
        "sm90": (16, 64, 8, 1),
    },
    ("forward", "exact", "blocked"): {
        "": (64, 32, 8, 1),
    },
    ("forward", "exact", "narrow"): {
        "": (128, 32, 8, 1),
        "sm100": (128, 64, 8, 1),
        "sm120": (64, 32, 8, 1),
    },
    ("forward", "exact", "small"): {
        "": (32, 32, 8, 1),
    },
    ("forward", "exact", "wide"): {
        "": (64, 32, 8, 1),
        "sm120": (64, 16, 8, 1),
        "sm80": (64, 16, 8, 1),
        "sm86": (64, 16, 8, 1),
    },
    ("forward", "half", "blocked"): {
        "": (64, 32, 8, 1),
    },
    ("forward", "half", "narrow"): {
        "": (128, 64, 4, 2),
    },
    ("forward", "half", "small"): {
        "": (16, 128, 8, 1),
    },
    ("forward", "half", "wide"): {
        "": (64, 32, 4, 2),
        "sm120": (64, 32, 4, 1),
    },
    ("forward", "tf32", "blocked"): {
        "": (64, 32, 8, 1),
    },
    ("forward", "tf32", "narrow"): {
        "": (128, 64, 8, 2),
        "sm100": (128, 64, 4, 2),
    },
    ("forward", "tf32", "small"): {
        "": (16, 128, 8, 1),
    },
    ("forward", "tf32", "wide"): {
        "": (64, 32, 8, 1),
    },
}
