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
from .pickled_settings import PickledSettings
from .recognize import recognize, single_form
from .recognized import Recognized, load_recognized, short_name
from .torch_file import FORMAT, InertObject, read

TRAINED = "checkpoint of jca-fast train"
"""The container of a file that `jca-fast train` wrote."""

ENTRIES = ("net", "state_dict", "model", "model_state_dict", "weights")
_DEEPEST = 4  # levels of a pickled trainer that are searched for a model


@dataclass(frozen=True)
class Checkpoint:
    """A file: its state_dict with the names in the file, the recognised module, and its container.

    ``container`` describes the file, ``entry`` is the name of the state_dict in the dict of the
    file ("" if it is the whole file), ``extra`` holds the other entries of that dict. ``modules``
    holds the pickled modules by name, if there are any. ``rivals`` are the places in the file of
    other weights of the same module.
    """

    path: Path
    container: str
    state_dict: dict[str, Tensor]
    recognized: Recognized
    entry: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    modules: dict[str, InertObject] = field(default_factory=dict, repr=False)
    rivals: tuple[str, ...] = ()

    def load(self, *, use_query: bool | None = None, repository: str | None = None) -> nn.Module:
        """The strictly loaded model in eval mode; the arguments are as in :func:`load_checkpoint`.

        Pickled modules keep their dropout rates.
        """
        if self.rivals:
            logging.getLogger("jca_fast").warning("%s", self)
        settings = PickledSettings(self.modules, self.recognized)
        form: dict[str, Any] = {"use_query": use_query, "repository": repository}
        if use_query is None and repository is None:
            form |= settings.form()
        model = load_recognized(self.state_dict, self.recognized, **form)
        settings.apply(model)
        return model

    def __str__(self) -> str:
        beside = f" beside {', '.join(map(str, self.extra))}" if self.extra else ""
        tensors = f"{len(self.state_dict)} tensors"
        others = f"; other weights of it under {', '.join(map(repr, self.rivals))}, see entry="
        return (
            f"{self.path}: {self.container}{beside}, {tensors}: {self.recognized}"
            f"{others if self.rivals else ''}"
        )


def load_checkpoint(
    path: str | Path,
    *,
    use_query: bool | None = None,
    repository: str | None = None,
    entry: str | None = None,
) -> nn.Module:
    """The model of a published checkpoint, strictly loaded, in eval mode on the CPU.

    No code of the file is run. The logger ``jca_fast`` reports the recognised module at level INFO,
    with the text of the result of :func:`read_checkpoint`.

    Args:
        path: the file.
        use_query: needed if the weights fit two published forms: True for the layers that use
            their query Linear, False for the layers that have one and do not use it.
        repository: as in :func:`.from_state_dict`.
        entry: the place of the weights in the file, such as "net" or "trainer.model". None takes
            the entry of published code or the outermost model; if the file has other weights of
            the same module, the logger warns and names their places.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, has other contents, exceeds a limit, contains a call that
            no model needs, or fits two forms. The message gives the expected and the found content.
    """
    checkpoint = read_checkpoint(path, entry=entry)
    logging.getLogger("jca_fast").info("%s", checkpoint)
    try:
        return checkpoint.load(use_query=use_query, repository=repository)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_checkpoint(path: str | Path, *, entry: str | None = None) -> Checkpoint:
    """The content of a checkpoint file; ``entry`` and errors as in :func:`load_checkpoint`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        if published_safetensors.is_safetensors(path):
            return _from_safetensors(path, entry)
        return _from_content(path, read(path), entry)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _from_content(path: Path, content: Any, entry: str | None) -> Checkpoint:
    if entry is not None:
        return _from_inside(path, content, entry)
    if isinstance(content, InertObject) and content.is_module:
        weights = content.state_dict()
        kind = f"pickled module {content.class_path}"
        return Checkpoint(path, kind, weights, _recognized(weights), modules=content.modules())
    if isinstance(content, Mapping):
        if content.get("format") == FORMAT:
            return _from_training(path, content)
        for name in ENTRIES:
            if _weights(content.get(name)) is not None:
                return _from_inside(path, content, name)
        if _is_state_dict(content):
            return Checkpoint(path, "state_dict", dict(content), _recognized(content))
    return _from_inside(path, content)


def _from_inside(path: Path, content: Any, entry: str | None = None) -> Checkpoint:
    """The model under ``entry``, or else the first published one inside other objects."""
    places = dict(_models_inside(content))
    if entry is not None:
        if entry not in places:
            known = ", ".join(repr(name) for name, value in places.items() if _weights(value))
            raise ValueError(f"no weights under {entry!r}; there are some under {known or 'none'}")
        return _at(path, content, entry, places, _recognized(_weights(places[entry]) or {}))
    for place, value in places.items():
        try:
            found = _recognized(_weights(value) or {})
        except ValueError:
            continue
        return _at(path, content, place, places, found)
    if isinstance(content, Mapping):
        _recognized(content)  # raises and names the entry that is not a tensor
    kind = content.class_path if isinstance(content, InertObject) else type(content).__name__
    raise ValueError(f"expected a state_dict, a dict with one, or a module; found {kind}")


def _at(
    path: Path, content: Any, place: str, places: Mapping[str, Any], found: Recognized
) -> Checkpoint:
    """The weights at one of the ``places`` of a file."""
    value = places[place]
    weights = _weights(value) or {}
    modules = value.modules() if isinstance(value, InertObject) else {}
    rivals = tuple(name for name in places if name != place and _rival(places[name], weights))
    if isinstance(content, Mapping) and place in content:
        kind = f"state_dict under {place!r}"
        extra = {key: other for key, other in content.items() if key != place}
        return Checkpoint(path, kind, weights, found, place, extra, modules, rivals)
    kind = f"model of a pickled object under {place!r}"
    return Checkpoint(path, kind, weights, found, modules=modules, rivals=rivals)


def _rival(value: Any, weights: Mapping[str, Any]) -> bool:
    """Whether ``value`` has other numbers under the names of ``weights``, wrappers aside."""
    other, own = (
        {short_name(key): x for key, x in found.items() if isinstance(x, Tensor)}
        for found in (_weights(value) or {}, weights)
    )
    if not own.keys() <= other.keys():
        return False
    return any(x.dtype != other[key].dtype or not x.equal(other[key]) for key, x in own.items())


def _models_inside(content: Any) -> Iterator[tuple[str, Any]]:
    """(place, value) of modules and state_dicts, the outer ones first."""
    level: list[tuple[str, Any]] = [("", content)]
    seen: set[int] = set()
    for _ in range(_DEEPEST):
        below: list[tuple[str, Any]] = []
        for place, value in level:
            if place and _weights(value) is not None:
                yield place, value
                continue
            parts = value.state if isinstance(value, InertObject) else value
            if isinstance(parts, Mapping) and id(parts) not in seen:
                seen.add(id(parts))
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
    found = single_form(AVELocalizer, sizes, lambda: AVELocalizer(**config), weights)
    record = content.get("features")
    extra = {} if record is None else {"features": record}
    return Checkpoint(path, TRAINED, dict(weights), found, extra=extra)


def _from_safetensors(path: Path, entry: str | None) -> Checkpoint:
    weights, stored, extra = published_safetensors.read(path)
    if entry not in (None, stored):
        raise ValueError(f"no weights under {entry!r}; a safetensors file has one set of weights")
    return Checkpoint(path, "safetensors", weights, _recognized(weights), stored, extra)
