"""Files of weights: read without running their code, and identified by their hash."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file in hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_hdf5(path: Path) -> bool:
    """Whether the file begins like an HDF5 file."""
    with path.open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


def require_file(path: str | Path, content: str) -> Path:
    """The path; FileNotFoundError, with the needed content, if there is no such file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; needed: {content}")
    return path


def read_torch(path: Path, needed: str) -> dict[str, Tensor]:
    """The tensors of a state_dict saved by torch; ValueError if the file holds anything else."""
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, pickle and torch raise a dozen types on other files
        reason = str(error).split("\n")[0] or type(error).__name__
        raise ValueError(f"{path}: not a file of weights ({reason}); needed: {needed}") from None
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path}: holds no state_dict of tensors; needed: {needed}")
    return content


def fit(model: torch.nn.Module, weights: dict[str, Tensor], path: Path, needed: str) -> None:
    """Copy weights into the model; ValueError names the first key or shape that does not fit."""
    own = model.state_dict()
    for key, value in own.items():
        if key not in weights:
            found = ", ".join(list(weights)[:3])
            raise ValueError(f"{path}: {key} is missing (found {found}, ...); needed: {needed}")
        if weights[key].shape != value.shape:
            shapes = f"{tuple(weights[key].shape)}; needed: {tuple(value.shape)}"
            raise ValueError(f"{path}: {key} has shape {shapes}, as in {needed}")
    model.load_state_dict({key: weights[key].float() for key in own})
