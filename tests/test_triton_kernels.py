"""The Triton kernels, by the interpreter or on a GPU: values and gradients against float64, masks, strides, memory."""

from __future__ import annotations

import pytest
import torch
from triton_device import DEVICE, kernels, table

from jca_fast.gpu.check import Case, run_checks
from jca_fast.ops import reference
from jca_fast.ops.dropout import keep_mask

ATTENTION = [
    Case("tanh_attention", (2, 70, 65, 10, 9, 0), 0.3),  # (B, M, L, N, D, v shared)
    Case("tanh_attention", (17, 3, 20, 5, 3, 1), 0.1),  # more samples than groups
    Case("tanh_attention", (1, 1, 1, 1, 1, 1)),
    Case("tanh_attention", (1, 20, 33, 70, 150, 1), 0.3),  # blocks of N and of D
]
RELEASED = [
    Case("released_attention", (2, 10, 40, 33), 0.3),  # (B, N, d, d_x)
    Case("released_attention", (2, 3, 1, 20)),
]
LAYER = [
    Case("joint_coattention", (2, 10, 20, 33, 9, 0)),  # (B, N, d_a, d_v, k, joints)
    Case("joint_coattention", (2, 7, 30, 20, 5, 0), 0.3),
    Case("joint_coattention", (2, 7, 1, 20, 5, 0), 0.3),  # modalities that are compiled differently
    Case("joint_coattention", (2, 7, 30, 20, 5, 1), 0.3),
    Case("joint_coattention", (2, 7, 30, 20, 5, 2)),
    Case("joint_coattention", (1, 70, 9, 12, 5, 0), 0.3),  # too many segments for one program
]
VISUAL = [
    Case("visual_reduction", (3, 49, 64)),  # (S, R, D)
    Case("visual_reduction", (2, 50, 100)),
    Case("visual_reduction", (2, 1, 1)),
    Case("visual_reduction", (1, 3, 1500)),
]
CASES = ATTENTION + RELEASED + LAYER + VISUAL


@pytest.fixture(autouse=True)
def _on_device(monkeypatch):
    monkeypatch.setattr(table, "SMALL", 0)  # large tiles: fewer programs to interpret
    with torch.device(DEVICE):
        yield


@pytest.mark.parametrize("tier", ["exact", "float16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_error_is_no_worse_than_plain_torch(case, tier):
    for result in run_checks([case], tier, DEVICE):
        assert result.passed, result


@pytest.mark.parametrize("tier", ["exact", "float16"])
@pytest.mark.parametrize("case", [ATTENTION[0], LAYER[1]], ids=str)
def test_the_tiles_of_small_batches(monkeypatch, case, tier):
    monkeypatch.setattr(table, "SMALL", 2**40)
    for result in run_checks([case], tier, DEVICE):
        assert result.passed, result


@pytest.mark.parametrize("case", [ATTENTION[0], LAYER[1], VISUAL[0]], ids=str)
def test_tf32_error_is_that_of_the_tier(case):
    """PyTorch on the CPU has no TF32 to compare with: 10 mantissa bits per operand, three products in a row."""
    for result in run_checks([case], "tf32", DEVICE):
        assert result.error < 4e-3, result


@pytest.fixture
def memory(monkeypatch):
    """New memory holds NaN, and the sizes asked for are recorded."""
    sizes: list[int] = []
    new_empty, empty_like = torch.Tensor.new_empty, torch.empty_like

    def poisoned(tensor):
        if not tensor.is_floating_point():
            return tensor
        sizes.append(tensor.numel())
        return tensor.fill_(float("nan"))

    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: poisoned(new_empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: poisoned(empty_like(*a, **k)))
    return sizes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_writes_all_it_returns_and_never_holds_the_matrix(memory, dtype):
    batch, rows, columns, segments, width = 2, 129, 130, 4, 3
    q, k, v, grad = (torch.randn(s).to(dtype) for s in ((batch, rows, segments), (batch, columns, segments),
                                                       (1, columns, width), (batch, rows, width)))  # fmt: skip
    seed = torch.tensor(3)
    out = kernels.tanh_attention(q, k, v, 0.3, 0.3, seed)
    grads = kernels.tanh_attention_backward(grad, q, k, v, 0.3, 0.3, seed)
    assert not any(t.isnan().any() for t in (out, *grads))
    assert max(memory) < batch * rows * columns


def layer_arguments(dims, segments=5, width=4, batch=2):
    total = sum(dims)
    shapes = ((segments, segments), (width, segments), (width, total), (width, segments))
    weights = [[0.3 * torch.randn(shape) for _ in dims] for shape in shapes]
    return [torch.randn(batch, segments, d) for d in dims], weights


@pytest.mark.parametrize("dims", [(17, 40), (9, 20, 33)])
def test_layer_of_any_number_of_modalities(memory, dims):
    inputs, weights = layer_arguments(dims)
    options = ([0.2] * len(dims), 0.3, torch.tensor(-(2**40)))
    got = kernels.joint_coattention(inputs, [], *weights, *options, True)
    want = reference.joint_coattention(inputs, [], *weights, *options, True)
    grads = [torch.randn_like(x) for x in inputs]
    got_grads = kernels.joint_coattention_backward(grads, got[len(dims) :], inputs, [], *weights, *options)
    want_grads = reference.joint_coattention_backward(grads, want[len(dims) :], inputs, [], *weights, *options)
    for a, b in zip((*got, *got_grads), (*want, *want_grads), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tile", [table.Config(32, 32, 4, 1), table.Config(64, 128, 4, 1)], ids=str)
def test_mask_is_the_one_mask_for_every_tile_shape(monkeypatch, tile):
    """With k = q = 1 and v = 1, an element of the matrix shows whether it was kept."""
    monkeypatch.setattr(table, "forward", lambda *_: tile)
    batch, rows, columns, seed = 2, 40, 100, torch.tensor(-(2**61) + 99)
    ones = torch.ones(batch, max(rows, columns), 3)
    eye = torch.eye(columns)[None]
    out = kernels.tanh_attention(ones[:, :rows], ones[:, :columns], eye, 1.0, 0.4, seed)
    assert torch.equal(out != 0, keep_mask(seed, 0.4, batch, rows, columns))


@pytest.mark.parametrize("tile", [table.Config(16, 32, 4, 1), table.Config(64, 64, 4, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_backward_uses_the_mask_of_the_forward(monkeypatch, tile, dtype):
    """dv = Pᵀ dO: with dO = 1 for one row only, dv shows that row of the mask, in every pass and tile shape."""
    monkeypatch.setattr(table, "backward", lambda *_: tile)
    rows, columns, seed = 40, 100, torch.tensor(17)
    ones = torch.ones(1, max(rows, columns), 3, dtype=dtype)
    grad = torch.eye(rows, dtype=dtype)[None]  # (1, M, D = M)
    q, k = ones[:, :rows], ones[:, :columns]
    dq, _, dv = kernels.tanh_attention_backward(grad, q, k, ones[:, :columns, :1].expand(1, -1, rows), 0.1, 0.4, seed)
    mask = keep_mask(seed, 0.4, 1, rows, columns)
    assert torch.equal(dv.mT != 0, mask)
    torch.testing.assert_close(dq[0, :, 0] / dq[0, 0, 0], (mask.sum(-1) / mask[0, 0].sum())[0].to(dtype),
                               rtol=2e-3, atol=0)  # fmt: skip


@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize("name", ["q", "k", "v"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_inf_go_through(monkeypatch, name, value, precision):
    """Odd sizes: neither the zeros around a tile nor the halves of a split number may make a NaN of their own."""
    torch.set_float32_matmul_precision(precision)
    monkeypatch.setattr(table, "forward", lambda *_: table.Config(32, 32, 4, 1))
    tensors = {"q": torch.rand(1, 40, 3) + 0.1, "k": torch.rand(1, 50, 3) + 0.1, "v": torch.rand(1, 50, 4) + 0.1}
    tensors[name][0, 7, 1] = value
    try:
        out = kernels.tanh_attention(*tensors.values(), 0.5, 0.0, None)
    finally:
        torch.set_float32_matmul_precision("highest")
    want = reference.tanh_attention(*tensors.values(), 0.5, 0.0, None)
    torch.testing.assert_close(out, want, rtol=4e-3, atol=1e-5, equal_nan=True)


def test_no_sample():
    empty, shared = torch.empty(0, 4, 3), torch.ones(1, 4, 2)
    assert kernels.tanh_attention(empty, empty, shared, 1.0, 0.0, None).shape == (0, 4, 2)
    dq, _, dv = kernels.tanh_attention_backward(torch.empty(0, 4, 2), empty, empty, shared, 1.0, 0.0, None)
    assert dq.shape == (0, 4, 3)
    assert not dv.any()
    inputs, weights = layer_arguments((3, 4), batch=0)
    out = kernels.joint_coattention(inputs, [], *weights, [1.0, 1.0], 0.0, None, True)
    grads = kernels.joint_coattention_backward(inputs, out[2:], inputs, [], *weights, [1.0, 1.0], 0.0, None)
    assert not any(g.any() for g in grads)
    out, attention = kernels.visual_reduction(torch.empty(0, 8), torch.empty(0, 5, 8), 1.0)
    assert (out.shape, attention.shape) == ((0, 8), (0, 5))


def test_visual_backward_of_frozen_regions_is_the_same():
    query, regions = torch.randn(3, 20), torch.randn(3, 7, 20)
    out, weights = kernels.visual_reduction(query, regions, 0.2)
    args = (torch.randn_like(out), torch.randn_like(weights), query, regions, weights, 0.2)
    frozen, none = kernels.visual_reduction_backward(*args, False)
    assert none.numel() == 0
    assert torch.equal(frozen, kernels.visual_reduction_backward(*args, True)[0])
