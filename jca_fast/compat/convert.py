"""``jca-fast convert IN OUT``: published checkpoints to safetensors, to this library's own, and back.

Every tensor keeps its bits. What OUT becomes is said by its name: ``.safetensors``, or one of ``.pt``, ``.pth``,
``.t7``, ``.tar``, ``.bin`` for the published container; with ``--native`` one that ``jca-fast evaluate`` reads.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint import Checkpoint

PUBLISHED = (".pt", ".pth", ".t7", ".tar", ".bin")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="IN",
        type=Path,
        help="a published checkpoint, or one written by this command",
    )
    parser.add_argument(
        "target",
        metavar="OUT",
        type=Path,
        help=f"*.safetensors, or {', '.join(PUBLISHED)} for the published container",
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
    checkpoint = read_checkpoint(args.source)
    print(checkpoint)
    for line in _write(checkpoint, args.target, args.native):
        print(line)
    return 0


def _write(checkpoint: Checkpoint, target: Path, native: bool) -> list[str]:
    """Write ``target`` and return what is to be said about it."""
    if native:
        return _write_native(checkpoint, target)
    checkpoint = _published(checkpoint)
    if target.suffix == ".safetensors":
        return _write_safetensors(checkpoint, target)
    import torch

    from ..atomic import replacing

    content: Any = _ordered(checkpoint)
    if checkpoint.entry:
        content = {checkpoint.entry: content, **checkpoint.extra}
    with replacing(target) as temporary:
        torch.save(content, temporary)
    where = f"torch.load({target.name!r})" + (f"[{checkpoint.entry!r}]" if checkpoint.entry else "")
    return [f"{target}: {len(checkpoint.state_dict)} tensors; model.load_state_dict({where})"]


def _write_native(checkpoint: Checkpoint, target: Path) -> list[str]:
    from ..models import AVELocalizer
    from ..training import checkpoint as training
    from .native import to_native

    model = checkpoint.load()
    model = model if isinstance(model, AVELocalizer) else to_native(model)
    if not isinstance(model, AVELocalizer):
        raise ValueError(f"--native needs a whole released model, found {checkpoint.recognized}")
    training.save(target, model)
    return [f"{target}: AVELocalizer(form='released'); jca-fast evaluate and predict read it"]


def _write_safetensors(checkpoint: Checkpoint, target: Path) -> list[str]:
    import json

    from safetensors.torch import save

    from ..atomic import replacing
    from .checkpoint import SAFETENSORS_FORMAT

    extra, left = _plain(checkpoint.extra)
    prefix = "" if checkpoint.recognized.others else checkpoint.recognized.prefix
    tensors = {
        key.removeprefix(prefix): value.clone() for key, value in checkpoint.state_dict.items()
    }
    facts = {
        "model": str(checkpoint.recognized), "prefix": prefix, "entry": checkpoint.entry, "extra": extra,
    }  # fmt: skip
    with replacing(target) as temporary:
        metadata = {"format": SAFETENSORS_FORMAT, "published": json.dumps(facts)}
        temporary.write_bytes(save(tensors, metadata))
    lines = [f"{target}: {len(tensors)} tensors under their published names"]
    return lines + ([f"left behind, not plain values: {', '.join(left)}"] if left else [])


def _plain(extra: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The entries that JSON can hold, single numbers in tensors included, and the names of the others."""
    import torch

    kept, left = {}, []
    for key, value in extra.items():
        value = value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value
        if isinstance(key, str) and isinstance(value, (bool, int, float, str, type(None))):
            kept[key] = value
        else:
            left.append(str(key))
    return kept, left


def _published(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint itself, or for one of this library's own the published model of the same weights."""
    from dataclasses import replace

    from ..models import AVELocalizer
    from .native import to_published
    from .recognize import recognize

    if checkpoint.recognized.name != AVELocalizer.__name__:
        return checkpoint
    weights = to_published(checkpoint.load()).state_dict()
    return replace(checkpoint, state_dict=weights, recognized=recognize(weights))


def _ordered(checkpoint: Checkpoint) -> dict[str, Any]:
    """The state_dict in the order in which the published module lists it, the rest of a larger model behind."""
    import torch

    with torch.device("meta"):
        own = [
            checkpoint.recognized.prefix + key for key in checkpoint.recognized.build().state_dict()
        ]
    return {key: checkpoint.state_dict[key] for key in (*own, *checkpoint.recognized.others)}
