"""``jca-fast convert IN OUT``: published checkpoints to safetensors, to this library, and back.

Every tensor keeps its bits, and the tensors keep their order. The suffix of OUT selects the format:
``.safetensors``, or one of ``.pt``, ``.pth``, ``.t7``, ``.tar``, ``.bin``, ``.model`` for the
published container; with ``--native`` a checkpoint that ``jca-fast evaluate`` reads.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..reading import user_path

if TYPE_CHECKING:
    from .checkpoint import Checkpoint

PUBLISHED = (".pt", ".pth", ".t7", ".tar", ".bin", ".model")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="IN",
        type=user_path,
        help="a published checkpoint, or one written by this command",
    )
    parser.add_argument(
        "target",
        metavar="OUT",
        type=user_path,
        help=f"*.safetensors, or {', '.join(PUBLISHED)} for the published container",
    )
    parser.add_argument(
        "--entry",
        metavar="PLACE",
        help="the place of the weights in IN, such as net or trainer.model, if it has several",
    )
    parser.add_argument(
        "--native",
        action="store_true",
        help="write a checkpoint of jca-fast train (whole released models, to *.pt)",
    )


def run(args: argparse.Namespace) -> int:
    from .checkpoint import read_checkpoint

    suffixes = PUBLISHED[:2] if args.native else (".safetensors", *PUBLISHED)
    if args.target.suffix not in suffixes:
        raise ValueError(f"OUT must end in one of {', '.join(suffixes)}; got {args.target}")
    if args.target.exists() and args.source.exists() and args.target.samefile(args.source):
        raise ValueError(f"IN and OUT are the same file: {args.source}")
    checkpoint = read_checkpoint(args.source, entry=args.entry)
    print(checkpoint)
    try:
        lines = _write(checkpoint, args.target, args.native)
    except ValueError as error:
        raise ValueError(f"{args.source}: {error}") from error
    print(*lines, sep="\n")
    return 0


def _write(checkpoint: Checkpoint, target: Path, native: bool) -> list[str]:
    """Write ``target`` and return the lines to print."""
    if native:
        return _write_native(checkpoint, target)
    checkpoint = _published(checkpoint)
    if target.suffix == ".safetensors":
        return _write_safetensors(checkpoint, target)
    return _write_published(checkpoint, target)


def _write_published(checkpoint: Checkpoint, target: Path) -> list[str]:
    from ..training.checkpoint import write

    extra, left = _plain(checkpoint.extra)
    content: Any = {key: value.contiguous() for key, value in checkpoint.state_dict.items()}
    if checkpoint.entry:
        content = {checkpoint.entry: content, **extra}
    write(target, content)
    where = f"torch.load({target.name!r})" + (f"[{checkpoint.entry!r}]" if checkpoint.entry else "")
    line = f"{target}: {len(checkpoint.state_dict)} tensors; model.load_state_dict({where})"
    return [line, *_left_behind(left)]


def _write_native(checkpoint: Checkpoint, target: Path) -> list[str]:
    from ..models import AVELocalizer
    from ..training import checkpoint as training
    from .native import to_native

    if checkpoint.recognized.asks:
        raise ValueError(f"--native needs a whole released model, found {checkpoint.recognized}")
    model = checkpoint.load()
    model = model if isinstance(model, AVELocalizer) else to_native(model)
    if not isinstance(model, AVELocalizer):
        raise ValueError(f"--native needs a whole released model, found {checkpoint.recognized}")
    training.save(target, model)
    return [f"{target}: AVELocalizer(form='released'); jca-fast evaluate and predict read it"]


def _write_safetensors(checkpoint: Checkpoint, target: Path) -> list[str]:
    import torch

    from ..atomic import replacing
    from . import published_safetensors

    extra, left = _plain(checkpoint.extra)
    numbers = {key: value for key, value in extra.items() if _is_json(value)}
    left += [key for key in extra if key not in numbers]
    found = checkpoint.recognized
    short = {name: key for key, name in found.names.items()} if not found.others else {}
    names = [(short.get(name, name), name) for name in checkpoint.state_dict]
    tensors = {key: checkpoint.state_dict[name] for key, name in names}
    facts = {"model": str(found), "entry": checkpoint.entry, "extra": numbers, "names": names}
    with replacing(target) as temporary, torch.no_grad():
        published_safetensors.write(temporary, tensors, facts)
    lines = [f"{target}: {len(tensors)} tensors under their published names"]
    return lines + _left_behind(left)


def _left_behind(names: list[str]) -> list[str]:
    return [f"left behind, not plain values: {', '.join(names)}"] if names else []


def _plain(extra: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The entries of plain values, and the names of the others.

    A tensor of one number becomes that number and a numpy array becomes a tensor, so that
    ``torch.load(weights_only=True)`` reads the result.
    """
    import numpy as np
    import torch

    kept, left = {}, []
    for key, value in extra.items():
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            value = value.item()
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            value = torch.from_numpy(value.copy())
        if isinstance(key, str) and _is_plain(value):
            kept[key] = value
        else:
            left.append(str(key)[:80])
    return kept, left


def _is_plain(value: Any) -> bool:
    """Whether ``value`` is a tensor, a number, a text or None, or a container of these."""
    import torch

    seen, pending = set(), [value]
    while pending:
        part = pending.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, dict):
            pending += [*part.keys(), *part.values()]
        elif isinstance(part, (list, tuple)):
            pending += part
        elif not isinstance(part, (torch.Tensor, bool, int, float, str, bytes, type(None))):
            return False
    return True


def _is_json(value: Any) -> bool:
    return isinstance(value, (bool, int, float, str, type(None)))


def _published(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, after a checkpoint of this library is converted to the published model."""
    from dataclasses import replace

    from ..models import AVELocalizer
    from .native import to_published
    from .recognize import recognize

    if checkpoint.recognized.name != AVELocalizer.__name__:
        return checkpoint
    weights = to_published(checkpoint.load()).state_dict()
    return replace(checkpoint, state_dict=weights, recognized=recognize(weights))
