"""Where the tests of the Triton kernels run: on the GPU, or on the CPU by Triton's interpreter (see conftest.py).

In the interpreter float32 products are cut to TF32 as the hardware does it; bfloat16 rounds toward zero, which no
hardware does. Test modules that import this one are skipped without triton.
"""

from __future__ import annotations

import pytest

triton = pytest.importorskip("triton", reason="triton is not installed")
if not triton.knobs.runtime.interpret:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("the kernels need a GPU or TRITON_INTERPRET=1", allow_module_level=True)

from jca_fast.kernels import triton as kernels  # noqa: E402
from jca_fast.kernels.triton import table  # noqa: E402

DEVICE = "cpu" if triton.knobs.runtime.interpret else "cuda"

__all__ = ["DEVICE", "kernels", "table"]
