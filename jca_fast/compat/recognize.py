"""Finds the published module of a state_dict by its keys and shapes.

Names alone are ambiguous: ``affine_v`` is (N, N) in CAM and (49, d) in PositionAttn. So certain
keys propose a module, every size is read from a shape, and the module of those sizes must then have
exactly these keys and shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from .bounds import LONGEST_NAME
from .other_formulas import OtherFormulaError
from .published import KNOWN, Known
from .published_sizes import Shapes, Sized, within
from .recognized import Recognized, load_recognized, short_name

SIBLINGS = (
    "audio_extract.",
    "video_extract.",
    "video_attn.",
    "Joint.",
    "predict.",
    "vregressor.",
    "aregressor.",
)


def from_state_dict(
    state_dict: Mapping[str, Tensor],
    *,
    use_query: bool | None = None,
    repository: str | None = None,
) -> nn.Module:
    """The published module a state_dict belongs to, in the dtype and on the device of its tensors.

    It is in eval mode and has copies of the tensors. Wrappers such as ``module.`` and
    ``_orig_mod.`` are removed, and a published module is found under any prefix of a larger model.
    Settings that a state_dict does not hold have their defaults: the published dropout rates and
    ``squeeze=False``. Where the keys and shapes do not determine the module, it asks for one of the
    arguments, or the logger ``jca_fast`` warns of what it assumed.

    Args:
        state_dict: tensors by name.
        use_query: only for layers of two modalities. True uses ``query_linear``, False does not.
            At N = 300, where both forms are published, True gives the layers of ABAW8, whose
            ``DCNLayer`` returns every iteration, and False those of SPIRo. Elsewhere None uses
            ``query_linear``.
        repository: the namespace in this package of the repository whose class to build, such as
            "abaw8", with its results and options. None builds the class of the shared modules.

    Raises:
        ValueError: it is none of the published modules, or almost one, or it fits two forms and
            neither ``use_query`` nor ``repository`` is given, or the repository has no such module.
            The message gives the expected and the found keys.
    """
    return load_recognized(state_dict, recognize(state_dict), use_query, repository)


def recognize(state_dict: Mapping[str, Tensor]) -> Recognized:
    """The module of a state_dict, without building it; errors as in :func:`from_state_dict`."""
    shapes = shapes_of(state_dict)
    clean = _without_wrappers(shapes)
    names = {short: shapes[key] for short, key in clean.items()}
    for prefix, known in _candidates(names):
        inner = within(names, prefix)
        others = tuple(key for short, key in clean.items() if not short.startswith(prefix))
        _refuse_siblings(known, others)
        sized = checked(known, inner)
        keys = {key: clean[prefix + key] for key in inner}
        return Recognized(known.name, sized, _common(keys), others, keys, known.takes_query(inner))
    first = ", ".join(f"{key} {shape}" for key, shape in list(shapes.items())[:4])
    expected = ", ".join(known.name for known in KNOWN)
    raise ValueError(
        f"none of the published modules; found {len(shapes)} keys: {first}, ...; "
        f"expected one of: {expected}"
    )


def single_form(
    cls: type[nn.Module], sizes: str, build: Callable[[], nn.Module], weights: Mapping[str, Tensor]
) -> Recognized:
    """The entry of a module that is known already; its keys and shapes must be those of weights."""
    known = Known(cls.__name__, (), lambda shapes: Sized(sizes, cls, lambda _: build()))
    sized = checked(known, shapes_of(weights))
    return Recognized(known.name, sized, names={key: key for key in weights})


def shapes_of(state_dict: Mapping[str, Tensor]) -> Shapes:
    """The shape of every tensor; ValueError if there is anything else."""
    for key, value in state_dict.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"a state_dict maps names to tensors; found {key!r}: {type(value).__name__}"
            )
        if len(key) > LONGEST_NAME:
            raise ValueError(f"the name of a tensor has {len(key)} characters: {key[:40]}...")
    return {key: tuple(value.shape) for key, value in state_dict.items()}


def _without_wrappers(shapes: Shapes) -> dict[str, str]:
    """The key of every tensor by its key without wrappers, at any position in the key."""
    clean: dict[str, str] = {}
    for key in shapes:
        if key.split(".")[-1] == "n_averaged":  # the count of an AveragedModel
            continue
        short = short_name(key)
        if short in clean:
            raise ValueError(f"{key} and {clean[short]} are the same weight in two wrappers")
        clean[short] = key
    return clean


def _candidates(shapes: Shapes) -> Iterator[tuple[str, Known]]:
    """(prefix, module) whose identifying keys exist: whole models, then parts of a larger one."""
    prefix = ""
    while True:
        inner = within(shapes, prefix)
        for known in KNOWN:
            if all(key in inner for key in known.identifying):
                yield prefix, known
        first = {key.partition(".")[0] for key in inner}
        if len(first) != 1 or not all("." in key for key in inner):
            break
        prefix += f"{first.pop()}."
    for known in KNOWN:
        if places := _places(shapes, known):
            if len(places) > 1:
                raise ValueError(
                    f"more than one {known.name}, under {', '.join(map(repr, places))}; pass only "
                    "the entries under one of them"
                )
            yield places[0], known


def _places(shapes: Shapes, known: Known) -> list[str]:
    """The prefixes with all identifying keys of a module that may be a part of a larger model."""
    if not known.part:
        return []
    first, *more = known.identifying
    places = [key.removesuffix(first) for key in shapes if key.endswith(f".{first}")]
    return [place for place in places if all(place + key in shapes for key in more)]


def _common(keys: Mapping[str, str]) -> str:
    """The prefix of all names in the file; "" if there are wrappers inside the names."""
    prefixes = {name.removesuffix(key) for key, name in keys.items()}
    return prefixes.pop() if len(prefixes) == 1 else ""


def _refuse_siblings(known: Known, others: tuple[str, ...]) -> None:
    """Refuse the co-attention of a published model with missing or additional keys.

    It must not be mistaken for the co-attention of an unknown model.
    """
    if near := [key for key in others if any(f".{sibling}" in f".{key}" for sibling in SIBLINGS)]:
        raise ValueError(
            f"almost a published model around its {known.name}: found {near[0]} and "
            f"{len(others) - 1} other keys, but not all of them; for the co-attention alone pass "
            "only its entries"
        )


def checked(known: Known, shapes: Shapes) -> Sized:
    """The reading of ``known``; its module must have exactly these keys and shapes."""
    try:
        sized = known.read(shapes)
        with torch.device("meta"):
            built = sized.make(sized.cls).state_dict()
        expected = {key: tuple(value.shape) for key, value in built.items()}
    except OtherFormulaError:
        raise
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
        raise ValueError(f"almost {known.name} ({sized.text}), but {'; '.join(problems[:4])}{more}")
    return sized
