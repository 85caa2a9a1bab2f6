"""The settings of a training run."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

from jca_fast.reading import user_path
from jca_fast.training.settings import (
    check_choice,
    check_values,
    option,
    parse_pairs,
    read_settings,
)

T = TypeVar("T")

RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "published": {"lr": 1e-4, "loss": "auto", "model": {"normalize": True}},
}
"""The settings of each recipe that differ from the defaults of Config.

default: it learns on any set within a few epochs. published: the released training code.
"""


LOSSES = ("auto", "softmargin", "softmargin_logits", "cross_entropy")


@dataclass
class Config:
    """Settings of one training run; ValueError names one of the wrong type or out of range."""

    data: str = option("", "folder with the data in the published layout or prepared", free=True)
    out: str = option("runs/jca", "folder for checkpoints and logs", free=True)
    model: dict[str, Any] = option({}, "arguments of AVELocalizer, e.g. form=released num_layers=2")  # noqa: RUF009

    init: str = option(
        "", "fine-tune: start from the weights of this checkpoint, native or published"
    )
    supervision: str = option(
        "full",
        "full: labels by segment; weak: labels by clip, with the noisy clips if there are any",
        choices=("full", "weak"),
    )

    epochs: int = option(300, "passes over the training clips", low=1, free=True)
    batch_size: int = option(64, "clips per step over all processes", low=1)
    lr: float = option(2e-3, "learning rate of Adam", low=0)
    weight_decay: float = option(0.0, "weight decay (L2) of Adam", low=0)
    loss: str = option(
        "cross_entropy",
        "softmargin: MultiLabelSoftMargin on the probabilities, as released; softmargin_logits, "
        "cross_entropy: on the scores before; auto: softmargin for the released form, "
        "softmargin_logits for the paper form",
        choices=LOSSES,
    )
    plateau: str = option(
        "train_loss",
        "the quantity that the learning rate schedule follows",
        choices=("train_loss", "val_loss", "val_accuracy", "none"),
    )
    plateau_factor: float = option(0.5, "factor of the learning rate on a plateau", low=0)
    plateau_patience: int = option(
        10, "epochs (for a validation quantity: validations) without progress before that", low=0
    )
    clip_norm: float = option(0.0, "largest norm of all gradients; 0: no clipping", low=0)
    early_stop: int = option(
        0,
        "stop after this number of validations without a better accuracy; 0: never",
        low=0,
        free=True,
    )
    eval_every: int = option(
        1,
        "epochs from one validation to the next (the released code: 5); also after the last",
        low=1,
    )

    precision: str = option(
        "float32", "bfloat16: autocast of model and loss", choices=("float32", "bfloat16")
    )
    compile: bool = option(False, "torch.compile the training step")
    device: str = option("auto", "auto, cpu, cuda or cuda:<index>", free=True)
    deterministic: bool = option(
        True, "ask torch for deterministic algorithms (on a GPU they may be slower)"
    )
    seed: int = option(0, "seed of weights, dropout and order of clips", low=0)
    seeds: int = option(
        1, "number of runs, with seeds seed, seed + 1, ...; report mean and sd", low=1, free=True
    )

    num_workers: int = option(
        0, "processes that read data, per training process; 0: none", low=0, free=True
    )
    checkpoint_every: int = option(
        0, "steps after which last.pt is written too; 0: only after epochs", low=0, free=True
    )
    tensorboard: bool = option(False, "write a TensorBoard log", free=True)
    progress: bool | None = option(None, "progress bar (default: on a terminal)", free=True)
    resume: bool | None = option(
        None,
        "--resume: continue, fail if there is nothing; --no-resume: start anew "
        "(default: continue if possible)",
        free=True,
    )

    def __post_init__(self) -> None:
        check_values(self)
        for name in ("data", "out", "init"):
            value = getattr(self, name)
            setattr(self, name, str(user_path(value)) if value else value)
        if not self.data:
            raise ValueError(
                "data: no folder given; needed: --data DIR, or data in the --config file"
            )
        if not 0 < self.plateau_factor < 1:
            raise ValueError(f"plateau_factor: must lie between 0 and 1, got {self.plateau_factor}")


def resolve(cls: type[T], args: argparse.Namespace) -> T:
    """The settings from the flags in args, the file args.config, the recipe, the defaults of cls.

    Each setting comes from the first of these that has it; tables are merged. Raises
    FileNotFoundError for a missing file, and ValueError for a file that is neither TOML nor JSON,
    for an unknown key (with the nearest known key) or a value of the wrong type or range.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    path = getattr(args, "config", None)
    values = read_settings(path, {*fields, "recipe"}) if path else {}
    recipe = values.pop("recipe", "default")
    recipe = getattr(args, "recipe", None) or recipe
    check_choice("recipe", recipe, tuple(RECIPES))
    for name, value in RECIPES[recipe].items():
        if isinstance(value, dict) and isinstance(values.get(name, {}), dict):
            values[name] = {**value, **values.get(name, {})}
        values.setdefault(name, value)
    for name in fields:
        if not hasattr(args, name):
            continue
        given = getattr(args, name)
        if fields[name].default_factory is not dataclasses.MISSING:
            given = {**values.get(name, {}), **parse_pairs(given, "--" + name.replace("_", "-"))}
        values[name] = given
    return cls(**values)
