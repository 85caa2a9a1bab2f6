"""The device of the Triton kernels' tests: the GPU, or the CPU by Triton's interpreter.

In the interpreter float32 operands are truncated to TF32, as in hardware; bfloat16 rounds toward
zero, unlike any hardware. Test modules that import this one are skipped without triton.
``on_device`` is a fixture.
"""

from __future__ import annotations

import dataclasses
import importlib

import pytest

triton = pytest.importorskip("triton", reason="triton is not installed")
if not triton.knobs.runtime.interpret:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("the kernels need a GPU or TRITON_INTERPRET=1", allow_module_level=True)

import torch  # noqa: E402
from jca_fast.kernels import triton as kernels  # noqa: E402
from jca_fast.kernels.triton import launch, sums, table  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from triton.runtime import interpreter  # noqa: E402

from jca_fast.ops import backends  # noqa: E402

DEVICE = "cpu" if triton.knobs.runtime.interpret else "cuda"

__all__ = ["DEVICE", "Memory", "kernels", "launch", "module", "on_device", "serve", "sums", "table"]


def module(name: str):
    """A module of the kernels; in the package its name belongs to the launcher."""
    return importlib.import_module(f"{kernels.__name__}.{name}")


def patch_once() -> None:
    """Let the interpreter search ``triton.language`` once per launch, not at every device function.

    That search takes more than half of the interpreter's time. A patched module has no builtins
    left.
    """
    patch, core = interpreter._patch_lang, triton.language.core

    def patch_lang(fn):
        languages = [
            value for value in fn.__globals__.values() if value is triton.language or value is core
        ]
        if any(core.is_builtin(language.dot) for language in languages):
            return patch(fn)
        return interpreter._LangPatchScope()

    interpreter._patch_lang = patch_lang


if DEVICE == "cpu":
    patch_once()


def serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offer the kernels, without a self-check, and plain PyTorch where they cannot run a call.

    The interpreter's tensors are on the CPU, so only this reason of the backend is removed.
    """
    monkeypatch.delenv("JCA_FAST_BACKEND", raising=False)
    row = backends.find("triton")

    def reasons(op, tensors):
        found = row.reasons(op, tensors)
        return [r for r in found if DEVICE == "cuda" or "runs on CUDA tensors" not in r]

    trusted = dataclasses.replace(row, reasons=reasons, cautions=lambda op, tensors: [])
    monkeypatch.setattr(backends, "BACKENDS", (trusted, backends.find("reference")))


@pytest.fixture
def on_device(monkeypatch):
    """New tensors are on DEVICE, where the kernels run; tiles are large, so programs are few.

    Dynamo is reset, because it caches the choice of backends.
    """
    monkeypatch.setattr(table, "SMALL", 0)
    serve(monkeypatch)
    torch._dynamo.reset()
    with torch.device(DEVICE):
        yield


class Memory(TorchDispatchMode):
    """Inside, uninitialised memory holds NaN; ``largest`` is the most elements of an allocation."""

    NEW = (
        torch.ops.aten.empty,
        torch.ops.aten.empty_like,
        torch.ops.aten.empty_strided,
        torch.ops.aten.new_empty,
        torch.ops.aten.new_empty_strided,
    )

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if (
                isinstance(tensor, torch.Tensor) and tensor.dtype != torch.uint8
            ):  # the interpreter's view of arguments
                self.largest = max(
                    self.largest, tensor.untyped_storage().nbytes() // tensor.element_size()
                )
                if function.overloadpacket in self.NEW and tensor.is_floating_point():
                    tensor.fill_(float("nan"))
        return result
