"""Published checkpoint files: what is in them, and the model they hold, without running anything they say.

Containers: a pickled whole module, a state_dict, and a dict with a state_dict under ``net`` or a like name beside other
entries, each written by any torch.save; a safetensors file; and a checkpoint of ``jca-fast train``.
"""

from __future__ import annotations

import json
import logging
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .recognize import Recognized, load_recognized, recognize
from .torch_file import InertModule, load_inert

ENTRIES = ("net", "state_dict", "model", "model_state_dict", "weights")
OWN_FORMAT = "jca_fast checkpoint 1"
SAFETENSORS_FORMAT = "jca_fast published 1"


@dataclass(frozen=True)
class Checkpoint:
    """A file: its state_dict with the names in the file, what that is, and how the file holds it.

    ``container`` says it in words, ``entry`` is the name of the state_dict in the file's dict ("" if it is the whole
    file), ``extra`` are the other entries of that dict.
    """

    path: Path
    container: str
    state_dict: dict[str, Tensor]
    recognized: Recognized
    entry: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def load(self) -> nn.Module:
        """The model, strictly loaded, in eval mode."""
        return load_recognized(self.state_dict, self.recognized)

    def __str__(self) -> str:
        beside = f" beside {', '.join(map(str, self.extra))}" if self.extra else ""
        return f"{self.path}: {self.container}{beside}, {len(self.state_dict)} tensors: {self.recognized}"


def load_checkpoint(path: str | Path) -> nn.Module:
    """The model of a published checkpoint, strictly loaded, in eval mode on the CPU; nothing in the file is run.

    What was recognised is logged (logger ``jca_fast``, level INFO) and is the text of :func:`read_checkpoint`'s result.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds something else, or asks for a call that no model needs; the message says
            what was expected and what was found.
    """
    checkpoint = read_checkpoint(path)
    logging.getLogger("jca_fast").info("%s", checkpoint)
    return checkpoint.load()


def read_checkpoint(path: str | Path) -> Checkpoint:
    """What a checkpoint file holds; errors as in :func:`load_checkpoint`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        if _is_safetensors(path):
            return _from_safetensors(path)
        return _from_content(path, _load(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _load(path: Path) -> Any:
    """The content of a torch.save file: by PyTorch's own restricted loader, or where that refuses, inert."""
    _check_sums(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a whole module is refused, a damaged file fails in a dozen ways
        pass  # and the inert reader says which it is
    try:
        return load_inert(path)
    except ValueError as error:
        raise ValueError(f"expected a checkpoint written by torch.save or safetensors, but {error}") from error


def _check_sums(path: Path) -> None:
    """The checksums inside a zip file, which torch.load does not look at; files of the old layout have none."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # zipfile raises a dozen types on damaged input
        raise ValueError(f"damaged: not a whole zip file ({error})") from error
    if damaged:
        raise ValueError(f"damaged: the checksum of {damaged} does not match")


def _from_content(path: Path, content: Any) -> Checkpoint:
    if isinstance(content, InertModule):
        weights = content.state_dict()
        return Checkpoint(path, f"pickled module {content.class_path}", weights, recognize(weights))
    if not isinstance(content, Mapping):
        raise ValueError(f"expected a state_dict, a dict with one, or a module; found {type(content).__name__}")
    if content.get("format") == OWN_FORMAT:
        return _from_training(path, content)
    for entry in ENTRIES:
        inner = content.get(entry)
        inner = inner.state_dict() if isinstance(inner, InertModule) else inner
        if isinstance(inner, Mapping):
            extra = {key: value for key, value in content.items() if key != entry}
            return Checkpoint(path, f"state_dict under {entry!r}", dict(inner), recognize(inner), entry, extra)
    return Checkpoint(path, "state_dict", dict(content), recognize(content))


def _from_training(path: Path, content: Mapping[str, Any]) -> Checkpoint:
    from ..models import AVELocalizer

    config, weights = content["model_config"], dict(content["model"])
    sizes = ", ".join(f"{key}={value!r}" for key, value in config.items() if value is not None)
    found = Recognized("AVELocalizer", sizes, lambda: AVELocalizer(**config))
    return Checkpoint(path, "checkpoint of jca-fast train", weights, found)


def _is_safetensors(path: Path) -> bool:
    """A safetensors file starts with the length of its JSON header, eight bytes of which the last are 0."""
    with path.open("rb") as file:
        start = file.read(9)
    return path.suffix == ".safetensors" or (start[5:8] == b"\0\0\0" and start[8:] == b"{")


def _from_safetensors(path: Path) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise ValueError(f"not a whole safetensors file: {error}") from error
    facts = json.loads(metadata["published"]) if metadata.get("format") == SAFETENSORS_FORMAT else {}
    prefix = facts.get("prefix", "")
    named = {prefix + key: value for key, value in weights.items()}
    return Checkpoint(path, "safetensors", named, recognize(named), facts.get("entry", ""), facts.get("extra", {}))
