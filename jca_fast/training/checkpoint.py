"""Checkpoints: written whole or not at all, read without running code from the file.

A checkpoint is one dict of tensors and plain values. Every file has `format`, `versions`, `model` (state_dict) and
`model_config` (the constructor arguments of AVELocalizer); the training state of a run (`last.pt`) adds more keys.
"""

from __future__ import annotations

import platform
import zipfile
from pathlib import Path
from typing import Any

import torch

from jca_fast._version import __version__
from jca_fast.atomic import replacing

FORMAT = "jca_fast checkpoint 1"


def save(path: str | Path, model: torch.nn.Module, **state: Any) -> None:
    """Writes the model's weights, its `config` and the entries of state to path, atomically."""
    content = {
        "format": FORMAT,
        "versions": {
            "jca_fast": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
        "model": model.state_dict(),
        "model_config": model.config,
        **state,
    }
    with replacing(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError:  # without the reason; through a Python file, OSError has it
            with temporary.open("wb") as file:
                torch.save(content, file)


def load(path: str | Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """The dict of a checkpoint, its tensors on device.

    Only tensors and plain values are read (weights_only=True).

    Raises FileNotFoundError if there is no such file and ValueError if it is damaged, truncated, holds pickled objects
    or is not a checkpoint of this library. The checksums of the file are verified, so a flipped bit is found.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f"checksum of {damaged} does not match")
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # zipfile, pickle and torch raise a dozen types on damaged input
        reason = str(error).split("\n")[0] or type(error).__name__
        raise ValueError(
            f"{path}: not a readable checkpoint "
            f"(damaged or of another program: jca-fast convert --native): {reason}"
        ) from error
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    if found != FORMAT:
        raise ValueError(
            f"{path}: expected a file of format {FORMAT!r}, found {found!r}; see jca-fast convert"
        )
    for key in ("model", "model_config"):
        if key not in content:
            raise ValueError(f"{path}: the entry {key!r} is missing")
    return content


def trained_loss(content: dict[str, Any]) -> str:
    """The loss that the model of a checkpoint was trained with; "auto" where it is not recorded."""
    config = content.get("config")
    return str(config.get("loss", "auto")) if isinstance(config, dict) else "auto"


def load_weights(
    model: torch.nn.Module, weights: dict[str, torch.Tensor], source: str | Path
) -> None:
    """Copies weights into model; ValueError names source and the first keys or shapes that do not fit."""
    own = model.state_dict()
    if not isinstance(weights, dict) or not all(map(torch.is_tensor, weights.values())):
        raise ValueError(f"{source}: the entry 'model' is not a dict of tensors")
    problems = [f"{key} is missing" for key in own if key not in weights]
    problems += [f"{key} is not part of the model" for key in weights if key not in own]
    problems += [
        f"{key} has shape {tuple(weights[key].shape)}, the model needs {tuple(own[key].shape)}"
        for key in own
        if key in weights and weights[key].shape != own[key].shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(
            f"{source}: the weights do not fit the model: {'; '.join(problems[:3])}{more}"
        )
    model.load_state_dict(weights)


def load_model(
    path: str | Path, device: str | torch.device = "cpu"
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The AVELocalizer of a checkpoint in eval mode on device, and the whole checkpoint.

    path may be the folder of a run: then its best.pt is read.
    """
    from jca_fast.models import AVELocalizer

    path = Path(path).expanduser()
    path = path / "best.pt" if path.is_dir() else path
    content = load(path, device)
    try:
        model = AVELocalizer(**content["model_config"])
    except (TypeError, ValueError, RuntimeError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"{path}: model_config does not fit this version of AVELocalizer: {error}"
        ) from error
    load_weights(model, content["model"], path)
    return model.to(device).eval(), content


def load_initial(path: str | Path) -> torch.nn.Module:
    """The AVELocalizer of a checkpoint to start from: of this library, converted or published."""
    path = Path(path).expanduser()
    path = path / "best.pt" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")

    from jca_fast.compat.checkpoint import read_checkpoint
    from jca_fast.compat.native import to_native
    from jca_fast.models import AVELocalizer

    model = read_checkpoint(path).load()
    model = model if isinstance(model, AVELocalizer) else to_native(model)
    if not isinstance(model, AVELocalizer):
        raise ValueError(f"{path}: holds a {type(model).__name__}; needed: a localizer")
    return model


def copy_weights(model: torch.nn.Module, source: torch.nn.Module, path: str | Path) -> None:
    """Copies the weights of source into model; the last layer stays new for other classes."""
    weights, own = source.state_dict(), model.state_dict()
    last = [key for key in own if key.startswith("head.")][-2:]
    if any(key in weights and weights[key].shape != own[key].shape for key in last):
        weights |= {key: own[key] for key in last}
        print(f"init     {path}: other classes, so the last layer starts anew")
    load_weights(model, weights, path)
