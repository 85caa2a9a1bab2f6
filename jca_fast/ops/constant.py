"""A mark for functions whose result torch.compile treats as a constant."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])


def assume_constant_result(function: F) -> F:
    """torch.compiler.assume_constant_result without importing torch._dynamo."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
