"""Which published module a state_dict belongs to, read off its keys and shapes; built and strictly loaded.

Names alone do not decide: ``affine_v`` is (N, N) in CAM and (49, d) in PositionAttn. So a telling key proposes a
module, every size is read off a shape, and the module of those sizes must then have exactly these keys and shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .published import KNOWN, Known, Shapes, within

WRAPPERS = ("module.", "JCA_model.", "fusion_model.", "model.")
PART = "coattn."
SIBLINGS = (
    "audio_extract.",
    "video_extract.",
    "video_attn.",
    "Joint.",
    "predict.",
    "vregressor.",
    "aregressor.",
)


@dataclass(frozen=True)
class Recognized:
    """What a state_dict is: ``name`` and ``sizes`` in words; ``build()`` makes that module.

    ``prefix`` stands before every key of it; ``others`` are keys of a larger model around it.
    """

    name: str
    sizes: str
    build: Callable[[], nn.Module]
    prefix: str = ""
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.name}: {self.sizes}" + (
            f"; keys under {self.prefix!r}" if self.prefix else ""
        )
        return text + (
            f"; {len(self.others)} tensors of the larger model around it" if self.others else ""
        )


def from_state_dict(state_dict: Mapping[str, Tensor]) -> nn.Module:
    """The published module a state_dict belongs to, in the dtype and on the device of its tensors, in eval mode.

    The tensors are copied. Wrapping prefixes such as ``module.`` are taken off, and ``coattn.`` is found inside larger
    models. What no state_dict holds takes its default: the dropout rates as published, ``squeeze=False``, and of two
    modalities ``use_query=True``.

    Raises:
        ValueError: it is none of the published modules, or almost one; the message says what was expected and found.
    """
    return load_recognized(state_dict, recognize(state_dict))


def load_recognized(state_dict: Mapping[str, Tensor], found: Recognized) -> nn.Module:
    """The module ``found`` with copies of its tensors."""
    with torch.device("meta"):
        model = found.build()
    weights = {}
    for key, expected in model.state_dict().items():
        value = state_dict[found.prefix + key]
        if value.is_floating_point() != expected.is_floating_point():
            raise ValueError(
                f"{found.prefix + key} holds {value.dtype}, expected numbers like {expected.dtype}"
            )
        weights[key] = value.detach().clone()
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval()


def recognize(state_dict: Mapping[str, Tensor]) -> Recognized:
    """What a state_dict is, before anything is built; errors as in :func:`from_state_dict`."""
    shapes = shapes_of(state_dict)
    for prefix, inner, others in _views(shapes):
        for known in KNOWN:
            if all(key in inner for key in known.tells):
                _refuse_siblings(known, others)
                sizes, build = checked(known, inner)
                return Recognized(known.name, sizes, build, prefix, others)
    first = ", ".join(f"{key} {shape}" for key, shape in list(shapes.items())[:4])
    names = ", ".join(known.name for known in KNOWN)
    raise ValueError(
        f"none of the published modules; found {len(shapes)} keys: {first}, ...; expected one of: {names}"
    )


def shapes_of(state_dict: Mapping[str, Tensor]) -> Shapes:
    """The shape of every tensor; ValueError if there is anything else."""
    for key, value in state_dict.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"a state_dict maps names to tensors; found {key!r}: {type(value).__name__}"
            )
    return {key: tuple(value.shape) for key, value in state_dict.items()}


def _views(shapes: Shapes) -> Iterator[tuple[str, Shapes, tuple[str, ...]]]:
    """(prefix, entries under it, keys left out): all, all without their wrappers, then only those in ``coattn.``."""
    prefix, inner = "", shapes
    while True:
        yield prefix, inner, ()
        wrapper = next(
            (w for w in (*WRAPPERS, PART) if inner and all(key.startswith(w) for key in inner)),
            None,
        )
        if wrapper is None:
            break
        prefix, inner = prefix + wrapper, within(inner, wrapper)
    others = tuple(prefix + key for key in inner if not key.startswith(PART))
    yield prefix + PART, within(inner, PART), others


def _refuse_siblings(known: Known, others: tuple[str, ...]) -> None:
    """A published model with something missing or added must not pass for the co-attention of an unknown one."""
    if near := [key for key in others if any(f".{sibling}" in f".{key}" for sibling in SIBLINGS)]:
        raise ValueError(
            f"almost a published model around its {known.name}: found {near[0]} and {len(others) - 1} other keys, but "
            f"not all of them; for the co-attention alone pass only the entries under {PART!r}"
        )


def checked(known: Known, shapes: Shapes) -> tuple[str, Callable[[], nn.Module]]:
    """Sizes and builder of ``known``; its module must have exactly these keys and shapes."""
    try:
        sizes, build = known.read(shapes)
        with torch.device("meta"):
            expected = {key: tuple(value.shape) for key, value in build().state_dict().items()}
    except KeyError as error:
        raise ValueError(f"almost {known.name}, but {error} is missing") from error
    except (ValueError, TypeError, IndexError, RuntimeError, ZeroDivisionError) as error:
        raise ValueError(
            f"almost {known.name}, but its sizes do not fit together: {error}"
        ) from error
    problems = [f"{key} is missing" for key in expected if key not in shapes]
    problems += [f"{key} is unexpected" for key in shapes if key not in expected]
    problems += [
        f"{key} is {shapes[key]}, expected {shape}"
        for key, shape in expected.items()
        if shapes.get(key, shape) != shape
    ]
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise ValueError(f"almost {known.name} ({sizes}), but {'; '.join(problems[:4])}{more}")
    return sizes, build
