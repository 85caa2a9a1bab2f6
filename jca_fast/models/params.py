"""``jca-fast params``: the parameter counts behind the paper's Tables 3, 4 and 5."""

from __future__ import annotations

import argparse
from typing import Any

TABLE_5 = (
    (256, 1024, 4, "50.7"),
    (512, 512, 1, "14.9"),
    (512, 512, 2, "17.5"),
    (512, 512, 3, "20.1"),
    (512, 512, 4, "22.8"),
    (512, 512, 5, "25.4"),
    (256, 256, 2, "4.6"),
    (256, 256, 3, "5.2"),
    (256, 256, 4, "5.9"),
    (256, 256, 5, "6.6"),
    (128, 128, 4, "1.6"),
)
"""d_a, d_v, l and the printed count in millions of every row of Table 5."""

TABLE_4 = (
    ("add", "22.67"),
    ("multiply", "22.67"),
    ("concat", "22.72"),
    ("add_fc", "22.78"),
    ("multiply_fc", "22.78"),
    ("concat_fc", "22.83"),
)
"""Fusion strategy and the printed count in millions of every row of Table 4."""

TABLE_3: tuple[tuple[str, dict[str, Any]], ...] = (
    ("without uni-modal Bi-LSTM", {"unimodal_rnn": False}),
    ("without joint Bi-LSTM", {"joint_rnn": False}),
    ("without residual embedding", {"residual": False}),
    ("with GRU", {"cell": "gru"}),
    ("with average pooling", {"pooling": "average"}),
    ("with max pooling", {"pooling": "max"}),
    ("with the original co-attention", {"joint": "cross"}),
    ("joint co-attention", {}),
)
"""Row and constructor arguments of every ablation of Table 3, which prints no counts."""


def count_parameters(**arguments: Any) -> int:
    """The number of parameters of ``AVELocalizer(**arguments)``, without allocating them."""
    import torch

    from .ave_localizer import AVELocalizer

    with torch.device("meta"):
        return sum(p.numel() for p in AVELocalizer(**arguments).parameters())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--form", choices=("paper", "released"), default="released", help="default: released"
    )


def run(args: argparse.Namespace) -> int:
    def row(label: str, printed: str, **arguments: Any) -> None:
        millions = count_parameters(form=args.form, **arguments) / 1e6
        print(f"  {label:<34} {printed:>8} {millions:>12.6f}")

    header = f"  {'':<34} {'printed':>8} {args.form + ' form':>12}"
    print(f"Parameters in millions, {args.form} form of AVELocalizer beside what the paper prints.")
    print(f"\nTable 5\n{header}")
    for audio_dim, visual_dim, num_layers, printed in TABLE_5:
        label = f"d_a = {audio_dim}, d_v = {visual_dim}, l = {num_layers}"
        row(label, printed, audio_dim=audio_dim, visual_dim=visual_dim, num_layers=num_layers)
    print("\nTable 4 (its counts fit no construction of the network; these are the true ones)")
    print(header)
    for strategy, printed in TABLE_4:
        row(strategy, printed, joint=strategy)
    print(f"\nTable 3 (prints no counts)\n{header}")
    for label, arguments in TABLE_3:
        row(label, "-", **arguments)
    return 0
