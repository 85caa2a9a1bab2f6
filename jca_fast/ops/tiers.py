"""Precision tiers and architecture classes, the terms that GPU kernels share with their checks and
tables.

A *tier* is a dtype together with the float32 precision of PyTorch: "exact" and "tf32" are float32,
"bfloat16" and "float16" are the dtypes of these names. Kernels and their launch tables distinguish
three tiers: both 16-bit dtypes run the same instructions on the same tiles and are called "half".
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import NamedTuple

import torch


class Tier(NamedTuple):
    """The dtype of a tier, its ``torch.backends.cuda.matmul.fp32_precision``, and its name in
    launch tables.
    """

    dtype: torch.dtype
    fp32_precision: str
    kernel: str


TIERS = {
    "exact": Tier(torch.float32, "ieee", "exact"),
    "tf32": Tier(torch.float32, "tf32", "tf32"),
    "bfloat16": Tier(torch.bfloat16, "ieee", "half"),
    "float16": Tier(torch.float16, "ieee", "half"),
}
KERNEL_TIERS = ("exact", "tf32", "half")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""The dtypes of the tiers."""
CLASSES = (80, 86, 90, 100, 120)
"""Compute capabilities (90 for 9.0) that have a class."""


def tier(dtype: torch.dtype) -> str:
    """The tier of a dtype under the current float32 precision of PyTorch."""
    return float32_tier() if dtype == torch.float32 else str(dtype).removeprefix("torch.")


def kernel_tier(dtype: torch.dtype) -> str:
    """The tier of a dtype by its name in launch tables: "exact", "tf32" or "half"."""
    return float32_tier() if dtype == torch.float32 else "half"


def float32_tier() -> str:
    """The tier of float32 under the current setting of cuBLAS: "exact" or "tf32".

    ``torch.set_float32_matmul_precision`` sets it too ("high" and "medium" are the same on CUDA).
    The getter of that function raises where the backends of PyTorch have separate settings, so it
    is not used.
    """
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "exact"


@contextlib.contextmanager
def precision(name: str) -> Iterator[torch.dtype]:
    """Set the float32 precision of a tier inside the context; yields the tier's dtype."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    dtype, matmul.fp32_precision, _ = TIERS[name]
    try:
        yield dtype
    finally:
        matmul.fp32_precision = before


def architecture_class(capability: int) -> str:
    """The class of compute capability ``capability`` (80 for 8.0): the nearest one that is not
    newer.
    """
    known = [c for c in CLASSES if c <= capability]
    return f"sm{known[-1] if known else CLASSES[0]}"


@functools.cache
def device_class(index: int) -> str:
    """The class of CUDA device ``index``. The result is cached because this runs on every call."""
    major, minor = torch.cuda.get_device_capability(index)
    return architecture_class(major * 10 + minor)
