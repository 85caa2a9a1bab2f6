"""joint_coattention, joint_affinity and visual_reduction on every backend against a
float64 oracle.
"""

from __future__ import annotations

import pytest
import torch
from numerics import assert_as_good_as_torch, assert_bitwise

from jca_fast.functional import joint_affinity, joint_coattention, visual_reduction
from jca_fast.ops.dropout import fold_seed, keep_mask

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LAYERS = {
    "paper": (3, 10, (48, 32), 8),
    "odd": (2, 7, (17, 31), 5),
    "three_modalities": (2, 6, (9, 5, 12), 4),
    "one_segment": (2, 1, (6, 4), 3),
    "one_channel": (1, 5, (1, 1), 1),
    "no_sample": (0, 5, (6, 4), 3),
}
"""B, N, widths of the modalities, k."""


def make_layer(name: str, joints: int, dtype: torch.dtype) -> list[list[torch.Tensor]]:
    """inputs, joints, w_j, w_x, w_c, w_h in values exact in ``dtype``; inputs laid out as slices of
    a wider tensor.
    """
    batch, n, dims, k = LAYERS[name]
    wide = [torch.randn(batch, n, d + 3)[..., 1:-2] for d in dims]
    own = [11 + i for i in range(len(dims))][: joints or None]
    widths = [sum(dims)] * len(dims) if joints == 0 else own * (len(dims) if joints == 1 else 1)
    groups = [
        wide,
        [torch.randn(batch, n, w) for w in own] if joints else [],
        [torch.randn(n, n) * 0.4 for _ in dims],
        [torch.randn(k, n) * 0.4 for _ in dims],
        [torch.randn(k, w) * 0.2 for w in widths],
        [torch.randn(k, n) * 0.4 for _ in dims],
    ]
    return [[t.to(dtype) for t in group] for group in groups]


def plain_layer(groups, p=0.0, seed=None):
    """The equations, line by line."""
    inputs, joints, w_j, w_x, w_c, w_h = groups
    given = joints or [torch.cat(inputs, dim=-1)]
    given = given if len(given) == len(inputs) else given * len(inputs)
    out = []
    for i, (x, joint) in enumerate(zip(inputs, given, strict=True)):
        c = torch.tanh(x.mT @ (w_j[i] @ joint) * joint.shape[-1] ** -0.5)
        if seed is not None:
            c = (
                c
                * keep_mask(fold_seed(seed, i), p, *c.shape).to(c.dtype)
                / (1 - round(p * 65536) / 65536)
            )
        h = torch.relu(w_x[i] @ x + w_c[i] @ c.mT)
        out.append(x + w_h[i].mT @ h)
    return out


def run(function, groups, cotangents):
    """Outputs and the gradient of every input tensor."""
    leaves = [[t.detach().requires_grad_() for t in group] for group in groups]
    out = function(leaves)
    flat = [t for group in leaves for t in group]
    grads = torch.autograd.grad(
        out, flat, [g.to(o.dtype) for g, o in zip(cotangents, out, strict=True)]
    )
    return [o.detach() for o in out], list(grads)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("joints", ["concat", "shared", "each"])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_is_no_worse_than_plain_torch(backend, name, joints, dtype, dropout):
    modalities = len(LAYERS[name][2])
    groups = make_layer(name, {"concat": 0, "shared": 1, "each": modalities}[joints], dtype)
    exact = [[t.double() for t in group] for group in groups]
    cotangents = [torch.randn(x.shape).to(dtype).double() for x in groups[0]]
    seed = torch.tensor(77) if dropout else None

    def ours(groups):
        inputs, given, *weights = groups
        return joint_coattention(
            inputs, *weights, joints=given, dropout_p=dropout, seed=seed, backend=backend
        )

    oracle = run(lambda g: plain_layer(g, dropout, seed), exact, cotangents)
    theirs = run(lambda g: plain_layer(g, dropout, seed), groups, cotangents)
    mine = run(ours, groups, cotangents)
    labels = [f"tensor {i}" for i in range(50)]
    assert_as_good_as_torch(labels[: len(mine[0])], mine[0], theirs[0], oracle[0], factor=2)
    assert_as_good_as_torch(labels[: len(mine[1])], mine[1], theirs[1], oracle[1], factor=3)


def test_layer_repeats_bitwise_and_leaves_inputs(backend):
    groups = make_layer("odd", 0, torch.float32)
    before = [t.clone() for group in groups for t in group]
    cotangents = [torch.randn(x.shape) for x in groups[0]]

    def ours(groups):
        return joint_coattention(groups[0], *groups[2:], dropout_p=0.3, seed=5, backend=backend)

    first, second = run(ours, groups, cotangents), run(ours, groups, cotangents)
    assert_bitwise(first[0] + first[1], second[0] + second[1])
    assert_bitwise([t for group in groups for t in group], before)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda g: g | {"inputs": g["inputs"][:1]},
            ValueError,
            r"inputs must hold two or more modalities",
        ),
        (
            lambda g: g | {"inputs": [g["inputs"][0], g["inputs"][1][:, :4]]},
            ValueError,
            r"inputs\[1\] must have shape",
        ),
        (
            lambda g: g | {"w_j": g["w_j"][:1]},
            ValueError,
            r"w_j must hold one weight for each of the 2 modalities, got 1",
        ),
        (
            lambda g: g | {"w_c": [w[:, :9] for w in g["w_c"]]},
            ValueError,
            r"w_c\[0\] must have shape \(5, 48\) \(k, d\)",
        ),
        (
            lambda g: g | {"w_h": [w.double() for w in g["w_h"]]},
            TypeError,
            r"w_h\[0\] must be torch.float32 like inputs",
        ),
        (
            lambda g: g | {"joints": [torch.zeros(2, 7, 9)] * 3},
            ValueError,
            r"joints must hold 0, 1 or 2 tensors",
        ),
        (
            lambda g: g | {"scales": [1.0]},
            ValueError,
            r"scales must hold one factor for each of the 2 modalities, got 1",
        ),
    ],
)
def test_layer_errors(change, error, message):
    inputs, _, w_j, w_x, w_c, w_h = make_layer("odd", 0, torch.float32)
    arguments = change({"inputs": inputs, "w_j": w_j, "w_x": w_x, "w_c": w_c, "w_h": w_h})
    with pytest.raises(error, match=message):
        joint_coattention(**arguments)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", [(3, 10, 48, 80), (2, 7, 17, 31), (1, 1, 1, 1), (0, 3, 4, 5)])
def test_affinity_is_no_worse_than_plain_torch(backend, sizes, dtype):
    batch, n, rows, columns = sizes
    exact = [torch.randn(batch, n, rows), torch.randn(batch, n, columns), torch.randn(n, n)]
    low = [t.to(dtype) for t in exact]
    exact = [t.double() for t in low]
    cotangent = [torch.randn(batch, rows, columns).to(dtype).double()]

    def plain(groups):
        (x, joint, weight) = groups[0]
        return [torch.tanh(x.mT @ (weight @ joint) * columns**-0.5)]

    def ours(groups):
        return [joint_affinity(*groups[0], backend=backend)]

    oracle = run(plain, [exact], cotangent)
    theirs = run(plain, [low], cotangent)
    mine = run(ours, [low], cotangent)
    assert_as_good_as_torch(["C"], mine[0], theirs[0], oracle[0], factor=2)
    assert_as_good_as_torch(["x", "joint", "weight"], mine[1], theirs[1], oracle[1], factor=3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", [(6, 49, 64), (5, 50, 33), (1, 1, 1), (3, 7, 130), (0, 49, 16)])
@pytest.mark.parametrize("frozen", [False, True])
def test_reduction_is_no_worse_than_plain_torch(backend, sizes, dtype, frozen):
    segments, count, width = sizes
    low = [
        torch.randn(segments, width).to(dtype),
        torch.randn(segments, count, width + 1).to(dtype)[..., :-1],
    ]
    exact = [t.double() for t in low]
    cotangents = [
        torch.randn(segments, width).to(dtype).double(),
        torch.randn(segments, count).to(dtype).double(),
    ]

    def plain(query, regions):
        weights = torch.softmax((regions @ query[..., None])[..., 0] * width**-0.5, dim=-1)
        return (weights[:, None] @ regions)[:, 0], weights

    def run_one(function, tensors):
        leaves = [t.detach().requires_grad_(i == 0 or not frozen) for i, t in enumerate(tensors)]
        out = function(*leaves)
        wanted = [t for t in leaves if t.requires_grad]
        grads = torch.autograd.grad(out, wanted, [g.to(out[0].dtype) for g in cotangents])
        return [o.detach() for o in out], list(grads)

    oracle, theirs = run_one(plain, exact), run_one(plain, low)
    mine = run_one(lambda q, r: visual_reduction(q, r, return_weights=True, backend=backend), low)
    assert_as_good_as_torch(["out", "weights"], mine[0], theirs[0], oracle[0], factor=2)
    assert_as_good_as_torch(
        ["query", "regions"][: len(mine[1])], mine[1], theirs[1], oracle[1], factor=3
    )


def test_reduction_takes_any_leading_sizes(backend):
    query, regions = torch.randn(2, 3, 8), torch.randn(2, 3, 5, 8)
    out, weights = visual_reduction(query, regions, return_weights=True, backend=backend)
    assert out.shape == (2, 3, 8)
    assert weights.shape == (2, 3, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3))
    single = visual_reduction(query[0, 0], regions[0, 0], backend=backend)
    torch.testing.assert_close(single, out[0, 0])


def test_reduction_with_scale_zero_is_the_mean(backend):
    query, regions = torch.randn(4, 8), torch.randn(4, 5, 8)
    torch.testing.assert_close(
        visual_reduction(query, regions, 0.0, backend=backend), regions.mean(1)
    )


@pytest.mark.parametrize(
    ("query", "regions", "message"),
    [
        (
            torch.zeros(2, 8),
            torch.zeros(2, 8),
            r"regions must be \(..., R, D\) for a query \(..., D\)",
        ),
        (torch.zeros(2, 8), torch.zeros(3, 5, 8), r"regions must have shape \(2, \*, 8\)"),
        (torch.zeros(2, 8), torch.zeros(2, 0, 8), r"at least one region"),
    ],
)
def test_reduction_errors(query, regions, message):
    with pytest.raises(ValueError, match=message):
        visual_reduction(query, regions)
