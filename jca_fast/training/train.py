"""`jca-fast train`: the command. Its settings are in config.py, the loop is in trainer.py."""

from __future__ import annotations

import argparse

from jca_fast.training.config import Config, resolve
from jca_fast.training.settings import add_flags

EPILOG = """\
Settings are taken from the flags, then from the TOML file (same names, [model] for the model), then from the defaults,
which are those of the released training code. Arguments of AVELocalizer go after --model, for example
  jca-fast train --data DIR --model form=released num_layers=2 modalities=audio
A run writes config.json, last.pt, best.pt, metrics.csv, metrics.json and, if asked, tensorboard/ into --out. Started
again with the same --out it continues where it stood. Several processes share each batch:
  torchrun --nproc-per-node 2 -m jca_fast train --data DIR
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `jca-fast train`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    add_flags(parser, Config)


def run(args: argparse.Namespace) -> int:
    """Trains as the flags and the TOML file say."""
    config = resolve(Config, args)

    from jca_fast.training.trainer import run_training

    run_training(config)
    return 0
