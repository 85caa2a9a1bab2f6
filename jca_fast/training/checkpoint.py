"""Checkpoints: they are written whole or not at all, and read without running code of the file.

A checkpoint is one dict of tensors and plain values. Every file has `format`, `versions`, `model`
(state_dict) and `model_config` (the constructor arguments of AVELocalizer); the training state of a
run (`last.pt`) adds more keys.
"""

from __future__ import annotations

import platform
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from jca_fast._version import __version__
from jca_fast.atomic import replacing
from jca_fast.compat.bounds import LONGEST_NAME, check_config, check_tensors
from jca_fast.compat.torch_file import FORMAT, read
from jca_fast.data.record import Record, check_record
from jca_fast.reading import user_path
from jca_fast.training.config import LOSSES

if TYPE_CHECKING:
    from jca_fast.models import AVELocalizer


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
    write(path, content)


def write(path: str | Path, content: Any) -> None:
    """Saves content to path by `torch.save`, whole or not at all."""
    with replacing(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError:  # It lacks the reason; the OSError of a Python file states it.
            with temporary.open("wb") as file:
                torch.save(content, file)


def load(path: str | Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """The dict of a checkpoint, its tensors on device.

    `jca_fast.compat.torch_file` reads the file. It runs no code of the file, verifies its checksums
    and enforces the limits of `jca_fast.compat.bounds`.

    Raises FileNotFoundError if there is no such file and ValueError if it is damaged, truncated,
    exceeds a limit or is not a checkpoint of this library.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("not a whole zip file of torch.save")
        content = read(path)
        for part in content.values() if isinstance(content, dict) else ():
            check_tensors(part if isinstance(part, dict) else {})
    except ValueError as error:
        raise ValueError(
            f"{path}: not a readable checkpoint "
            f"(damaged or of another program: jca-fast convert --native): {error}"
        ) from error
    found = content.get("format") if isinstance(content, dict) else content
    if found != FORMAT:
        shown = repr(found[:80]) if isinstance(found, str) else type(found).__name__
        shown = "None" if found is None else shown
        raise ValueError(
            f"{path}: expected a file of format {FORMAT!r}, found {shown}; see jca-fast convert"
        )
    for key in ("model", "model_config"):
        if key not in content:
            raise ValueError(f"{path}: the entry {key!r} is missing")
    if content.get("features") is not None:
        check_record(content["features"], path)
    _check_description(content, path)
    return content if torch.device(device).type == "cpu" else _moved(content, device)


def _check_description(content: dict[str, Any], path: Path) -> None:
    """Raises ValueError if the names of the classes or the loss cannot be those of the model."""
    names, config = content.get("classes"), content["model_config"]
    count = config.get("num_classes") if isinstance(config, dict) else None
    if names is not None and not (
        isinstance(names, list) and len(names) == count and all(map(_is_name, names))
    ):
        raise ValueError(f"{path}: the entry 'classes' is damaged; needed: {count} names")
    if (loss := trained_loss(content)) not in LOSSES:
        raise ValueError(f"{path}: expected a loss among {', '.join(LOSSES)}, found {loss[:80]!r}")


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= LONGEST_NAME


def _moved(value: Any, device: str | torch.device) -> Any:
    """`value` with every tensor in its containers on device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(item, device) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(item, device) for item in value)
    return value


def trained_loss(content: dict[str, Any]) -> str:
    """The loss that the model of a checkpoint was trained with; "auto" where it is not recorded."""
    config = content.get("config")
    return str(config.get("loss", "auto")) if isinstance(config, dict) else "auto"


def load_weights(
    model: torch.nn.Module, weights: dict[str, torch.Tensor], source: str | Path
) -> None:
    """Copies weights into model; errors as in `check_weights`."""
    check_weights(model, weights, source)
    model.load_state_dict(weights)


def check_weights(model: torch.nn.Module, weights: Any, source: str | Path) -> None:
    """Raises ValueError with source and the first problems unless weights fit model."""
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
    problems += [
        f"{key} holds {weights[key].dtype}, the model needs {own[key].dtype}"
        for key in own
        if key in weights and weights[key].is_floating_point() != own[key].is_floating_point()
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(
            f"{source}: the weights do not fit the model: {'; '.join(problems[:3])}{more}"
        )


def load_model(
    path: str | Path, device: str | torch.device = "cpu"
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The AVELocalizer of a checkpoint in eval mode on device, and the whole checkpoint.

    path may also be the folder of a run, whose best.pt is read.
    """
    from jca_fast.models import AVELocalizer

    path = user_path(path)
    path = path / "best.pt" if path.is_dir() else path
    content = load(path, device)
    config, weights = content["model_config"], content["model"]
    try:
        check_config(config, weights)
        with torch.device("meta"):  # wrong sizes must not allocate memory
            shapes = AVELocalizer(**config)
    except (TypeError, ValueError, RuntimeError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"{path}: model_config does not fit this version of AVELocalizer: {error}"
        ) from error
    check_weights(shapes, weights, path)
    model = AVELocalizer(**config)
    load_weights(model, weights, path)
    return model.to(device).eval(), content


def load_initial(path: str | Path) -> tuple[AVELocalizer, Record | None]:
    """The AVELocalizer of a checkpoint to start from, which is native, converted or published.

    Also returns the record of the features that it was trained on, if the file has one.
    """
    path = user_path(path)
    path = path / "best.pt" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")

    from jca_fast.compat.checkpoint import TRAINED, read_checkpoint
    from jca_fast.compat.native import to_native
    from jca_fast.models import AVELocalizer

    checkpoint = read_checkpoint(path)
    try:
        model = checkpoint.load()
        model = model if isinstance(model, AVELocalizer) else to_native(model)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(model, AVELocalizer):
        raise ValueError(f"{path}: holds a {type(model).__name__}; needed: a localizer")
    for key, value in model.state_dict().items():
        if not value.isfinite().all():
            raise ValueError(f"{path}: {key} holds numbers that are not finite")
    record = checkpoint.extra.get("features") if checkpoint.container == TRAINED else None
    return model, None if record is None else check_record(record, path)


def copy_weights(model: torch.nn.Module, source: torch.nn.Module, path: str | Path) -> None:
    """Copies the weights of source into model, except a last layer of another shape."""
    weights, own = source.state_dict(), model.state_dict()
    last = [key for key in own if key.startswith("head.")][-2:]
    if any(key in weights and weights[key].shape != own[key].shape for key in last):
        weights |= {key: own[key] for key in last}
        print(f"init     {path}: it has other classes, so the last layer starts anew")
    load_weights(model, weights, path)
