"""`jca-fast ablate`: every row of one of the paper's Tables 2 to 5, trained with several seeds.

The default data set is Planted AVE, at a size that suits two cores. With --data the models train on
the given features, by the paper's protocol. A killed run continues when it is started again with
the same --out: finished trainings are kept, and an interrupted one continues from its last epoch. A
row that several tables share is trained once.
"""

from __future__ import annotations

import argparse
import dataclasses

from jca_fast.training.ablation_config import Ablation
from jca_fast.training.settings import add_flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `jca-fast ablate`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = __doc__
    add_flags(parser, Ablation, file=False)


def run(args: argparse.Namespace) -> int:
    """Trains the models and writes the table."""
    if not hasattr(args, "table"):
        raise ValueError("table: not given; needed: --table 2, 3, 4 or 5")
    names = {field.name for field in dataclasses.fields(Ablation)}
    from jca_fast.training.ablation import ablate

    ablate(Ablation(**{name: value for name, value in vars(args).items() if name in names}))
    return 0
