"""The command `jca-fast train`. Its settings are in config.py, its loop is in trainer.py."""

from __future__ import annotations

import argparse

from jca_fast.training.config import RECIPES, Config, resolve
from jca_fast.training.settings import add_flags

EPILOG = """\
Settings are taken from the flags, then from the --config file (same names, [model] for the model),
then from the recipe, then from the defaults. The defaults learn on any set within a few epochs;
--recipe published is the recipe of the released training code. Arguments of AVELocalizer follow
--model, for example
  jca-fast train --data DIR --model form=released num_layers=2 modalities=audio
The features are used unchanged; --model normalize=true normalises them, like the published code.
A run writes config.json, last.pt, best.pt, metrics.csv, metrics.json, curves.png and, with
--tensorboard, tensorboard/ into --out. A run that is started again with the same --out continues
where it stopped. Several processes share each batch:
  torchrun --nproc-per-node 2 -m jca_fast train --data DIR
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `jca-fast train`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument(
        "--recipe", choices=tuple(RECIPES), help="named settings (default: default)"
    )
    parser.add_argument(
        "--find-lr",
        action="store_true",
        help="do not train: raise the learning rate step by step and suggest one from the losses",
    )
    add_flags(parser, Config)


def run(args: argparse.Namespace) -> int:
    """Trains with the settings of the flags and the file."""
    config = resolve(Config, args)

    if args.find_lr:
        from jca_fast.training.lr_finder import find_lr

        find_lr(config)
    else:
        from jca_fast.training.seeds import run_training

        run_training(config)
    return 0
