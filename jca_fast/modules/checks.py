"""Checks of constructor arguments and inputs, shared by all modules."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import SupportsIndex

from torch import Tensor

from ..ops.checks import autocasts, check_dense


def check_positive(**sizes: SupportsIndex) -> None:
    """Each named size must be an int of at least 1; NumPy's integers count as ints."""
    for name, size in sizes.items():
        if not isinstance(size, Integral) or isinstance(size, bool) or int(size) < 1:
            raise ValueError(f"{name} must be an int of at least 1, got {size!r}")


def check_probability(**probabilities: float) -> None:
    """Each named probability must lie in [0, 1]."""
    for name, p in probabilities.items():
        if not isinstance(p, Real):
            raise TypeError(f"{name} must be a number between 0 and 1, got {p!r}")
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"{name} must be a probability between 0 and 1, got {p!r}")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """``value`` must be one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")


def check_backend(backend: str) -> None:
    """``backend`` must be "auto" or the name of a backend."""
    if backend != "auto":
        from ..ops.backends import find

        find(backend)


def labels(count: int) -> tuple[str, ...]:
    """The names of the features of ``count`` modalities in error messages."""
    if count == 2:
        return ("audio", "visual")
    return tuple(f"feature {i + 1}" for i in range(count))


def check_features(inputs: Sequence[Tensor], dims: Sequence[int], num_segments: int) -> None:
    """The inputs must be one floating-point feature (B, n, d_i) for each modality, with n at most N
    and one B, n, device and dtype.
    """
    if len(inputs) != len(dims):
        raise ValueError(
            f"need one feature for each of the {len(dims)} modalities, got {len(inputs)}"
        )
    names, first = labels(len(inputs)), inputs[0]
    for name, x, width in zip(names, inputs, dims, strict=True):
        check_feature(name, x, width, num_segments)
        if x.shape[:2] != first.shape[:2]:
            needed = f"({first.shape[0]}, {first.shape[1]}, {width}) to go with {names[0]}"
            raise ValueError(f"{name} must have shape {needed}, got {tuple(x.shape)}")
        check_like(name, x, first, names[0])


def check_feature(name: str, x: Tensor, width: int, num_segments: int | None = None) -> None:
    """``x`` must be a floating-point tensor (B, n, width) with n from 1 to ``num_segments``."""
    layout = f"(B, {num_segments or 'N'}, {width})"
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor {layout}, got {type(x).__name__}")
    check_dense(name, x, layout)
    if not x.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got {x.dtype}")
    if x.ndim != 3 or x.shape[2] != width or x.shape[1] < 1:
        raise ValueError(f"{name} must have shape {layout}, got {tuple(x.shape)}")
    if num_segments is not None and x.shape[1] > num_segments:
        raise ValueError(
            f"{name} must have shape {layout}, or fewer segments, got {tuple(x.shape)}; "
            "cut_windows cuts longer clips"
        )


def check_like(name: str, x: Tensor, other: Tensor, other_name: str) -> None:
    """``x`` must have the device of ``other``, and its dtype unless autocast casts both."""
    if x.device != other.device:
        raise ValueError(f"{name} must be on {other.device} like {other_name}, got {x.device}")
    if x.dtype != other.dtype and not autocasts(x.device.type):
        raise TypeError(f"{name} must be {other.dtype} like {other_name}, got {x.dtype}")


def check_together(**features: Tensor) -> None:
    """All features must be tensors with the device and the dtype of the first one."""
    (first, like), *others = features.items()
    for name, x in features.items():
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")
    for name, x in others:
        check_like(name, x, like, first)
