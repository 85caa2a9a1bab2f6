"""``jca-fast params``: the parameter counts behind the paper's Tables 3, 4 and 5."""

from __future__ import annotations

import argparse
from typing import Any

from .tables import TABLE_3, TABLE_4, TABLE_5, Row


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
    def show(row: Row) -> None:
        millions = count_parameters(form=args.form, **(row.arguments or {})) / 1e6
        print(f"  {row.label:<34} {row.parameters or '-':>8} {millions:>12.6f}")

    header = f"  {'':<34} {'printed':>8} {args.form + ' form':>12}"
    print(f"Parameters in millions: {args.form} form of AVELocalizer, and as printed in the paper.")
    for title, rows in (
        ("Table 5", TABLE_5),
        (
            "Table 4 (its counts fit no construction of the network; these are the true ones)",
            TABLE_4,
        ),
        ("Table 3 (prints no counts)", TABLE_3),
    ):
        print(f"\n{title}\n{header}")
        for row in rows:
            show(row)
    return 0
