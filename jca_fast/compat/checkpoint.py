"""Published checkpoint files: reads their contents and their model without running their code.

A file of torch.save or pickle may contain a pickled whole module, a state_dict, a dict with a
state_dict under ``net`` or a similar name and other entries, or a pickled trainer with a model
inside. Safetensors files and the checkpoints of ``jca-fast train`` are read too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from . import published_safetensors
from .bounds import check_config, check_tensors
from .inert_names import ForeignTensor
from .recognize import Recognized, load_recognized, recognize, single_form
from .torch_file import FORMAT, InertObject, read

TRAINED = "checkpoint of jca-fast train"
"""The container of a file that `jca-fast train` wrote."""

ENTRIES = ("net", "state_dict", "model", "model_state_dict", "weights")
_DEEPEST = 4  # levels of a pickled trainer that are searched for a model


@dataclass(frozen=True)
class Checkpoint:
    """A file: its state_dict with the names in the file, the recognised module, and its container.

    ``container`` describes the file, ``entry`` is the name of the state_dict in the dict of the
    file ("" if it is the whole file), ``extra`` holds the other entries of that dict.
    """

    path: Path
    container: str
    state_dict: dict[str, Tensor]
    recognized: Recognized
    entry: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def load(self, *, use_query: bool | None = None) -> nn.Module:
        """The strictly loaded model in eval mode; ``use_query`` as in :func:`load_checkpoint`."""
        return load_recognized(self.state_dict, self.recognized, use_query)

    def __str__(self) -> str:
        beside = f" beside {', '.join(map(str, self.extra))}" if self.extra else ""
        tensors = f"{len(self.state_dict)} tensors"
        return f"{self.path}: {self.container}{beside}, {tensors}: {self.recognized}"


def load_checkpoint(path: str | Path, *, use_query: bool | None = None) -> nn.Module:
    """The model of a published checkpoint, strictly loaded, in eval mode on the CPU.

    No code of the file is run. The logger ``jca_fast`` reports the recognised module at level INFO,
    with the text of the result of :func:`read_checkpoint`.

    Args:
        path: the file.
        use_query: needed if the weights fit two published forms: True for the layers that use
            their query Linear, False for the layers that have one and do not use it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, has other contents, exceeds a limit, contains a call that
            no model needs, or fits two forms. The message gives the expected and the found content.
    """
    checkpoint = read_checkpoint(path)
    logging.getLogger("jca_fast").info("%s", checkpoint)
    try:
        return checkpoint.load(use_query=use_query)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_checkpoint(path: str | Path) -> Checkpoint:
    """The content of a checkpoint file; errors as in :func:`load_checkpoint`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        if published_safetensors.is_safetensors(path):
            return _from_safetensors(path)
        return _from_content(path, read(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _from_content(path: Path, content: Any) -> Checkpoint:
    if isinstance(content, InertObject) and content.is_module:
        weights = content.state_dict()
        kind = f"pickled module {content.class_path}"
        return Checkpoint(path, kind, weights, _recognized(weights))
    if isinstance(content, Mapping):
        if content.get("format") == FORMAT:
            return _from_training(path, content)
        for entry in ENTRIES:
            if (inner := _weights(content.get(entry))) is not None:
                extra = {key: value for key, value in content.items() if key != entry}
                kind = f"state_dict under {entry!r}"
                return Checkpoint(path, kind, inner, _recognized(inner), entry, extra)
        if _is_state_dict(content):
            return Checkpoint(path, "state_dict", dict(content), _recognized(content))
    return _from_inside(path, content)


def _from_inside(path: Path, content: Any) -> Checkpoint:
    """The first published model inside other objects, such as a pickled trainer."""
    for place, weights in _models_inside(content):
        try:
            found = _recognized(weights)
        except ValueError:
            continue
        return Checkpoint(path, f"model of a pickled object under {place!r}", weights, found)
    if isinstance(content, Mapping):
        _recognized(content)  # raises and names the entry that is not a tensor
    kind = content.class_path if isinstance(content, InertObject) else type(content).__name__
    raise ValueError(f"expected a state_dict, a dict with one, or a module; found {kind}")


def _models_inside(content: Any) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """(place, weights) of modules and state_dicts, the outer ones first."""
    level: list[tuple[str, Any]] = [("", content)]
    for _ in range(_DEEPEST):
        below: list[tuple[str, Any]] = []
        for place, value in level:
            if place and (weights := _weights(value)) is not None:
                yield place, weights
                continue
            parts = value.state if isinstance(value, InertObject) else value
            if isinstance(parts, Mapping):
                start = f"{place}." if place else ""
                below += [(start + k, v) for k, v in parts.items() if isinstance(k, str)]
        level = below


def _weights(value: Any) -> dict[str, Any] | None:
    """``value`` if it is a state_dict, the state_dict of a module, or else None."""
    if isinstance(value, InertObject):
        return value.state_dict() if value.is_module else None
    return dict(value) if isinstance(value, Mapping) and _is_state_dict(value) else None


def _is_state_dict(value: Mapping[Any, Any]) -> bool:
    """Whether ``value`` is empty or has a tensor among its values."""
    return not value or any(isinstance(item, (Tensor, ForeignTensor)) for item in value.values())


def _recognized(weights: Mapping[str, Any]) -> Recognized:
    check_tensors(weights)
    return recognize(weights)


def _from_training(path: Path, content: Mapping[str, Any]) -> Checkpoint:
    from ..models import AVELocalizer

    config, weights = content.get("model_config"), content.get("model")
    if not isinstance(config, Mapping) or not isinstance(weights, Mapping):
        raise ValueError("expected 'model_config' and 'model' in a checkpoint of jca-fast train")
    check_tensors(weights)
    check_config(config, weights)
    sizes = ", ".join(f"{key}={value!r}" for key, value in config.items() if value is not None)
    found = single_form(AVELocalizer.__name__, sizes, lambda: AVELocalizer(**config), weights)
    record = content.get("features")
    extra = {} if record is None else {"features": record}
    return Checkpoint(path, TRAINED, dict(weights), found, extra=extra)


def _from_safetensors(path: Path) -> Checkpoint:
    weights, entry, extra = published_safetensors.read(path)
    return Checkpoint(path, "safetensors", weights, _recognized(weights), entry, extra)
