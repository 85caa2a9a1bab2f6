"""The Triton kernels of joint_affinity, interpreted or on a GPU, against float64."""

from __future__ import annotations

import pytest
import torch
from triton_device import DEVICE, kernels, module, on_device, table  # noqa: F401

from jca_fast.functional import joint_affinity
from jca_fast.ops import reference
from jca_fast.ops.backends.parity import Case, run_checks

AFFINITY = module("joint_affinity")
pytestmark = pytest.mark.usefixtures("on_device")
CASES = [
    Case("joint_affinity", (2, 70, 65, 10)),  # (B, M, L, N)
    Case("joint_affinity", (1, 1, 1, 1)),
    Case("joint_affinity", (3, 64, 128, 16)),  # whole tiles, one of rows: dk needs no partial sums
    Case("joint_affinity", (2, 130, 33, 17)),  # two passes
    Case("joint_affinity", (1, 40, 70, 70)),  # blocks of N
]
SIZES = (2, 130, 97, 5)


@pytest.fixture
def precision():
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision("highest")


def arguments(sizes=SIZES, dtype=torch.float32):
    """q (B, M, N), k (B, L, N), a gradient of C and C (B, M, L)."""
    batch, rows, columns, segments = sizes
    q, k = (
        torch.randn(batch, rows, segments).to(dtype),
        torch.randn(batch, columns, segments).to(dtype),
    )
    return q, k, torch.randn(batch, rows, columns).to(dtype), reference.joint_affinity(q, k, 0.3)


@pytest.mark.parametrize("tier", ["exact", "float16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_error_is_no_worse_than_plain_torch(case, tier):
    for result in run_checks([case], tier, DEVICE, kernels):
        assert result.passed, result


@pytest.mark.parametrize("case", CASES, ids=str)
def test_tf32_error_is_that_of_the_tier(case):
    """PyTorch on the CPU has no TF32 to compare with: 10 mantissa bits an operand, one product."""
    for result in run_checks([case], "tf32", DEVICE, kernels):
        assert result.error < 2e-3, result


@pytest.mark.parametrize("programs", [1, 9, 16])  # 1, 3 and 4 spans of 6 tiles
def test_the_cut_into_programs_changes_no_bit(monkeypatch, programs):
    q, k, _, _ = arguments((2, 70, 330, 10))
    whole = kernels.joint_affinity(q, k, 0.3)
    monkeypatch.setattr(table, "AFFINITY_PROGRAMS", programs)
    assert torch.equal(kernels.joint_affinity(q, k, 0.3), whole)


@pytest.fixture
def allocated(monkeypatch):
    """The bytes of each piece of new memory, which holds NaN; the interpreter's are empty."""
    found: dict[int, int] = {}
    new_empty = torch.Tensor.new_empty

    def poisoned(*args, **kwargs):
        tensor = new_empty(*args, **kwargs)
        if tensor.numel():
            found[tensor.data_ptr()] = tensor.nbytes
        return tensor.fill_(float("nan"))

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("segments", [5, 16, 17])
def test_writes_all_it_returns_and_holds_no_second_matrix(allocated, dtype, segments):
    q, k, grad, c = arguments((2, 128, 97, segments), dtype)
    got = kernels.joint_affinity(q, k, 0.3)
    assert list(allocated.values()) == [c.nbytes]
    allocated.clear()
    grads = kernels.joint_affinity_backward(grad, q, k, c, 0.3)
    partials = sum(allocated.values()) - q.nbytes - k.nbytes
    assert partials <= c.nbytes // 2
    assert not any(t.isnan().any() for t in (got, *grads))


def test_changes_no_argument():
    given = arguments()
    before = [t.clone() for t in given]
    kernels.joint_affinity(*given[:2], 0.3)
    kernels.joint_affinity_backward(given[2], *given[:2], given[3], 0.3)
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


LAYOUTS = {
    "transposed": lambda t: t.mT.contiguous().mT,
    "expanded": lambda t: t[:1, :, :1].expand(t.shape),
    "every other row": lambda t: t.repeat_interleave(2, 1)[:, ::2],
    "part of a wider one": lambda t: torch.cat([t, t.neg()], -1)[..., : t.shape[-1]],
    "batches last": lambda t: t.permute(1, 2, 0).contiguous().permute(2, 0, 1),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("segments", [5, 20])
def test_takes_any_strides(layout, segments):
    q, k, grad, c = (layout(t) for t in arguments((2, 70, 40, segments)))
    torch.testing.assert_close(
        kernels.joint_affinity(q, k, 0.3), reference.joint_affinity(q, k, 0.3)
    )
    got = kernels.joint_affinity_backward(grad, q, k, c, 0.3)
    want = reference.joint_affinity_backward(grad, q, k, c, 0.3)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        assert a.is_contiguous()


@pytest.mark.parametrize("setting", ["highest", "high"])
@pytest.mark.parametrize("segments", [3, 30])
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_inf_go_through(precision, setting, segments, place, value):
    """Odd sizes: the zeros around a tile and the halves of a split number must add no NaN."""
    q, k, _, _ = (t.abs() + 0.1 for t in arguments((1, 40, 50, segments)))
    (q, k)[place][0, 7, 1] = value
    precision(setting)
    out = kernels.joint_affinity(q, k, 0.5)
    torch.testing.assert_close(
        out, reference.joint_affinity(q, k, 0.5), rtol=4e-3, atol=1e-5, equal_nan=True
    )


@pytest.mark.parametrize("setting", ["highest", "high"])
@pytest.mark.parametrize("segments", [3, 30])
@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_inf_go_through_the_backward(precision, setting, segments, place, value):
    q, k, grad, c = (t.abs() + 0.1 for t in arguments((1, 70, 50, segments)))
    (q, k, grad, c)[place][0, 7, 1] = value
    precision(setting)
    got = kernels.joint_affinity_backward(grad, q, k, c, 0.5)
    for a, b in zip(got, reference.joint_affinity_backward(grad, q, k, c, 0.5), strict=True):
        torch.testing.assert_close(a, b, rtol=4e-3, atol=2e-2, equal_nan=True)


@pytest.mark.parametrize("segments", [4, 40])
def test_no_sample(segments):
    q = torch.empty(0, 70, segments)
    k = torch.empty(0, 9, segments)
    c = torch.empty(0, 70, 9)
    assert kernels.joint_affinity(q, k, 1.0).shape == c.shape
    assert [g.shape for g in kernels.joint_affinity_backward(c, q, k, c, 1.0)] == [q.shape, k.shape]


@pytest.mark.parametrize("backend", ["triton", "auto"])
def test_the_public_function_runs_the_kernels(monkeypatch, backend):
    launched = []
    launch = AFFINITY.launch

    def record(kernel, *args, **meta):
        launched.append(kernel)
        launch(kernel, *args, **meta)

    monkeypatch.setattr(AFFINITY, "launch", record)
    low = [torch.randn(2, 7, 20), torch.randn(2, 7, 33), torch.randn(7, 7)]
    cotangent = torch.randn(2, 20, 33)

    def run(tensors, backend):
        leaves = [t.clone().requires_grad_() for t in tensors]
        c = joint_affinity(*leaves, backend=backend)
        return c.detach(), *torch.autograd.grad(c, leaves, cotangent.to(c.dtype))

    oracle = run([t.double() for t in low], "reference")
    for got, want in zip(run(low, backend), oracle, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
    assert launched == [
        AFFINITY.joint_affinity_forward_kernel,
        AFFINITY.joint_affinity_backward_kernel,
    ]
