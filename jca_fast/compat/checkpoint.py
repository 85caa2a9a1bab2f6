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

from ..training.checkpoint import FORMAT
from .published import Known
from .recognize import Recognized, checked, load_recognized, recognize, shapes_of
from .torch_file import InertModule, load_inert

ENTRIES = ("net", "state_dict", "model", "model_state_dict", "weights")
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
        raise ValueError(
            f"expected a checkpoint written by torch.save or safetensors, but {error}"
        ) from error


def _check_sums(path: Path) -> None:
    """The sizes and checksums inside a zip file, which torch.load does not look at; the old layout has none."""
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            unpacked, size = sum(part.file_size for part in archive.infolist()), path.stat().st_size
            damaged = None if unpacked > size else archive.testzip()
    except Exception as error:  # zipfile raises a dozen types on damaged input
        raise ValueError(f"damaged: not a whole zip file ({error})") from error
    if unpacked > size:  # torch.save never compresses, and a small file could fill the memory
        raise ValueError(
            f"its {size} bytes would unpack to {unpacked}; expected a file that is not compressed"
        )
    if damaged:
        raise ValueError(f"damaged: the checksum of {damaged} does not match")


def _from_content(path: Path, content: Any) -> Checkpoint:
    if isinstance(content, InertModule):
        weights = content.state_dict()
        return Checkpoint(
            path, f"pickled module {content.class_path}", weights, _recognized(weights)
        )
    if not isinstance(content, Mapping):
        raise ValueError(
            f"expected a state_dict, a dict with one, or a module; found {type(content).__name__}"
        )
    if content.get("format") == FORMAT:
        return _from_training(path, content)
    for entry in ENTRIES:
        inner = content.get(entry)
        inner = inner.state_dict() if isinstance(inner, InertModule) else inner
        if isinstance(inner, Mapping):
            extra = {key: value for key, value in content.items() if key != entry}
            return Checkpoint(
                path, f"state_dict under {entry!r}", dict(inner), _recognized(inner), entry, extra
            )
    return Checkpoint(path, "state_dict", dict(content), _recognized(content))


def _recognized(weights: Mapping[str, Any]) -> Recognized:
    _check_tensors(weights)
    return recognize(weights)


def _check_tensors(weights: Mapping[str, Any]) -> None:
    """A file must hold all numbers of its tensors: one number repeated could fill the memory."""
    for key, value in weights.items():
        if not isinstance(value, Tensor):
            continue  # recognize says what is wrong
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise ValueError(f"{key} is {value.layout} on {value.device}; expected plain numbers")
        if value.nbytes > value.untyped_storage().nbytes():
            raise ValueError(
                f"{key} {tuple(value.shape)} has fewer numbers in the file than its shape says"
            )


def _from_training(path: Path, content: Mapping[str, Any]) -> Checkpoint:
    from ..models import AVELocalizer

    config, weights = content.get("model_config"), content.get("model")
    if not isinstance(config, Mapping) or not isinstance(weights, Mapping):
        raise ValueError("expected 'model_config' and 'model' in a checkpoint of jca-fast train")
    _check_tensors(weights)
    sizes = ", ".join(f"{key}={value!r}" for key, value in config.items() if value is not None)
    own = Known(AVELocalizer.__name__, (), lambda shapes: (sizes, lambda: AVELocalizer(**config)))
    _, build = checked(own, shapes_of(weights))
    return Checkpoint(
        path, "checkpoint of jca-fast train", dict(weights), Recognized(own.name, sizes, build)
    )


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
    prefix, entry, extra = _published_facts(metadata)
    named = {prefix + key: value for key, value in weights.items()}
    return Checkpoint(path, "safetensors", named, recognize(named), entry, extra)


def _published_facts(metadata: Mapping[str, str]) -> tuple[str, str, dict[str, Any]]:
    """Prefix, entry and other entries of the published file that a safetensors file was made from."""
    if metadata.get("format") != SAFETENSORS_FORMAT:
        return "", "", {}
    try:
        facts = json.loads(metadata["published"])
        return str(facts["prefix"]), str(facts["entry"]), dict(facts["extra"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"its metadata 'published' is not what jca-fast convert writes: {error}"
        ) from error
