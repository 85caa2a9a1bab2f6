"""The dropout mask is the same in Triton's kernels, in two tile shapes, and in the CPU kernels."""

from __future__ import annotations

import pytest
import torch
from jca_fast.kernels import cpu
from triton_device import kernels, on_device, table  # noqa: F401

from jca_fast.ops.dropout import fold_seed, keep_mask

pytestmark = pytest.mark.usefixtures("on_device")

SEED, P = -(2**61) + 99, 0.4
TILES = {
    "small tiles": {"forward": table.Config(32, 32, 4, 1), "backward": table.Config(16, 32, 4, 1)},
    "large tiles": {"forward": table.Config(64, 128, 4, 1), "backward": table.Config(64, 64, 4, 1)},
}


@pytest.fixture(params=[*TILES, "native"])
def ops(request, monkeypatch):
    """Launchers: of the Triton kernels in each tile shape, and of the native CPU kernels."""
    if request.param == "native":
        if problem := cpu.problem():
            pytest.skip(problem)
        with torch.device("cpu"):
            yield cpu
        return
    for direction, tile in TILES[request.param].items():
        monkeypatch.setattr(table, direction, lambda *_, tile=tile: tile)
    yield kernels


@pytest.mark.parametrize(("rows", "columns"), [(40, 100), (5, 300)])
def test_forward_drops_what_the_mask_says(ops, rows, columns):
    """With k = q = 1 and v = 1, an element of the matrix shows whether it was kept."""
    ones, seed = torch.ones(2, max(rows, columns), 3), torch.tensor(SEED)
    out = ops.tanh_attention(
        ones[:, :rows], ones[:, :columns], torch.eye(columns)[None], 1.0, P, seed
    )
    assert torch.equal(out != 0, keep_mask(seed, P, 2, rows, columns))


@pytest.mark.parametrize(("rows", "columns"), [(40, 100), (5, 300)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["two passes", "one pass"])
def test_backward_drops_what_the_mask_says(ops, rows, columns, dtype):
    """With dO = 1 for one row only, dv = Pᵀ dO shows that row of the mask; dq counts kept ones."""
    ones, seed = torch.ones(2, max(rows, columns), 3, dtype=dtype), torch.tensor(SEED)
    grad = torch.eye(rows, dtype=dtype).expand(2, -1, -1)  # (B, M, D = M)
    q = ones[:, :rows]
    k = ones[:, :columns]
    v = ones[:, :columns, :1].expand(-1, -1, rows)
    dq, dk, dv = ops.tanh_attention_backward(grad, q, k, v, 0.1, P, seed)
    mask = keep_mask(seed, P, 2, rows, columns)
    assert torch.equal(dv.mT != 0, mask)
    for gradient, kept in ((dq, mask.sum(-1)), (dk, mask.sum(-2))):
        scale = gradient[0, 0, 0] / kept[0, 0]
        torch.testing.assert_close(gradient[..., 0], (kept * scale).to(dtype), rtol=3e-3, atol=0)


DIMS = (9, 13, 41)
"""Odd parts of a joint feature of 63 channels: tiles begin at 0, 9 and 22."""
COLUMNS = (0, 8, 9, 15, 16, 21, 22, 31, 32, 47, 48, 61, 62)
"""As many as there are segments: W_c picks these columns."""


def ones_of_a_layer(dtype):
    """Features of ones and W_j = 1, so that C > 0, and W_x = 0: W_c selects H from C."""
    n, count = len(COLUMNS), len(DIMS)
    picked = torch.eye(sum(DIMS), dtype=dtype)[list(COLUMNS)]  # (k = N, d)
    eye = torch.eye(n, dtype=dtype)
    inputs = [torch.ones(2, n, d, dtype=dtype) for d in DIMS]
    return inputs, [], [eye] * count, [0 * eye] * count, [picked] * count, [eye] * count


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_each_modality_of_a_layer_drops_what_its_mask_says(ops, dtype):
    seed = torch.tensor(SEED)
    maps = ops.joint_coattention(*ones_of_a_layer(dtype), [0.1] * 3, P, seed, True)[
        3:
    ]  # (B, k, d_x)
    for i, (h, rows) in enumerate(zip(maps, DIMS, strict=True)):
        mask = keep_mask(fold_seed(seed, i), P, 2, rows, sum(DIMS))
        assert torch.equal(h != 0, mask[..., list(COLUMNS)].mT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["two passes", "one pass"])
def test_backward_of_each_modality_of_a_layer_drops_what_its_mask_says(ops, dtype):
    """With dH = 1 for one row of the second sample only, dW_c = dHᵀ C shows its row of the mask."""
    seed = torch.tensor(SEED)
    groups = ones_of_a_layer(dtype)
    n = len(COLUMNS)
    grads = [
        torch.stack((torch.zeros(n, d, dtype=dtype), torch.eye(n, d, dtype=dtype))) for d in DIMS
    ]
    maps = [torch.ones(2, n, d, dtype=dtype) for d in DIMS]
    grad_w_c = ops.joint_coattention_backward(grads, maps, *groups, [0.1] * 3, P, seed)[9:12]
    for i, (gradient, rows) in enumerate(zip(grad_w_c, DIMS, strict=True)):
        mask = keep_mask(fold_seed(seed, i), P, 2, rows, sum(DIMS))[1]
        shown = min(rows, n)
        assert torch.equal(gradient[:shown] != 0, mask[:shown])
