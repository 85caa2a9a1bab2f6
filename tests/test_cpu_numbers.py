"""NaN, infinity, extremes and the accuracy of tanh and its slope in the native CPU kernels."""

from __future__ import annotations

import pytest
import torch
from test_cpu_kernels import DTYPES, LEVELS, REGISTERED, level

from jca_fast.ops import reference

INF, NAN = float("inf"), float("nan")


def kinds(t: torch.Tensor) -> list[list[bool]]:
    """Where a tensor is NaN, inf and -inf."""
    return [mask.tolist() for mask in (t.isnan(), t.isposinf(), t.isneginf())]


def assert_same_kinds(ours, theirs):
    for mine, plain in zip(ours, theirs, strict=True):
        assert kinds(mine) == kinds(plain)


def attention(q, k, v, scale=0.5, p=0.0, seed=None):
    return REGISTERED.tanh_attention.cpu(q, k, v, scale, p, seed)


@pytest.mark.parametrize("special", [INF, -INF, NAN])
@pytest.mark.parametrize("where", ["q", "k", "v", "grad"])
@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
@pytest.mark.parametrize("isa", LEVELS)
def test_special_numbers_of_tanh_attention_go_as_in_plain_pytorch(isa, dropout_p, where, special):
    tensors = {
        "grad": torch.rand(1, 6, 4),
        "q": torch.randn(1, 6, 3),
        "k": torch.randn(1, 9, 3),
        "v": torch.rand(1, 9, 4),
    }
    tensors[where][0, 2, 1] = special
    grad, *qkv = tensors.values()
    rest = (0.5, dropout_p, torch.tensor(3) if dropout_p else None)
    with level(isa):
        ours = REGISTERED.tanh_attention_backward.cpu(grad, *qkv, *rest)
        out = REGISTERED.tanh_attention.cpu(*qkv, *rest)
    assert_same_kinds(ours, reference.tanh_attention_backward(grad, *qkv, *rest))
    assert_same_kinds([out], [reference.tanh_attention(*qkv, *rest)])


@pytest.mark.parametrize("isa", LEVELS)
def test_an_infinite_gradient_of_joint_affinity_stays_infinite(isa):
    q, k = torch.rand(1, 5, 3), torch.rand(1, 6, 3)
    grad = torch.rand(1, 5, 6)
    grad[0, 1, 2] = INF
    c = REGISTERED.joint_affinity.cpu(q, k, 0.5)
    with level(isa):
        ours = REGISTERED.joint_affinity_backward.cpu(grad, q, k, c, 0.5)
    theirs = reference.joint_affinity_backward(grad, q, k, c, 0.5)
    assert_same_kinds(ours, theirs)
    assert theirs[0].isinf().any()


@pytest.mark.parametrize("isa", LEVELS)
def test_a_nan_in_h_passes_the_gradient_on_as_relu_does(isa):
    """relu'(NaN) lets the gradient through; the opposite comparison with 0 drops it."""
    x, grad = torch.randn(1, 3, 5), torch.rand(1, 3, 5)
    weights = [[torch.randn(s)] for s in ((3, 3), (2, 3), (2, 5), (2, 3))]
    rest = ([0.5], 0.0, None)
    with level(isa):
        h = REGISTERED.joint_coattention.cpu([x], [], *weights, *rest, True)[1]
        h[0, 1, 2] = NAN
        ours = REGISTERED.joint_coattention_backward.cpu([grad], [h], [x], [], *weights, *rest)
    grad_h = torch.where(h <= 0, 0, weights[3][0] @ grad)
    expected = (grad_h @ x.mT).sum(0)  # dW_x
    torch.testing.assert_close(ours[2], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("isa", LEVELS)
def test_finite_operands_do_not_overflow(isa, dtype):
    q = torch.tensor([[[2e38, 1.0], [-2e38, 0.5], [1e-38, 1.0]]], dtype=dtype)
    k = torch.tensor([[[0.0, 1.0], [1e-38, -1.0]]], dtype=dtype)
    v = torch.tensor([[[1.0], [2.0]]], dtype=dtype)
    for scale in (9.0, -9.0, 1.0, 1e-6):
        with level(isa):
            out = attention(q, k, v, scale)
            c = REGISTERED.joint_affinity.cpu(q, k, scale)
        exact = reference.tanh_attention(q.double(), k.double(), v.double(), scale, 0.0, None)
        torch.testing.assert_close(out.double(), exact, rtol=2e-2, atol=1e-6)
        exact = torch.tanh(q.double() @ k.double().mT * scale)
        torch.testing.assert_close(c.double(), exact, rtol=2e-2, atol=1e-6)


@pytest.mark.parametrize("isa", LEVELS)
def test_a_small_scale_does_not_lose_small_operands(isa):
    """q times the scale would be subnormal and lose digits; the score is not subnormal."""
    q, k = torch.tensor([[[3.3e-36]]]), torch.tensor([[[1e37]]])
    with level(isa):
        out = attention(q, k, torch.ones(1, 1, 1), 1e-6)
    exact = torch.tanh(q.double() * k.double() * 1e-6)
    torch.testing.assert_close(out.double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("isa", LEVELS)
def test_dropout_does_not_overflow_v(isa):
    """v / (1 - p) overflows; the sum of the products does not."""
    seed, p = torch.tensor(5), 0.9
    q, k = torch.full((1, 4, 1), 1e-3), torch.ones(1, 40, 1)
    v, grad = torch.full((1, 40, 2), 1e38), torch.full((1, 4, 2), 1e-3)
    with level(isa):
        out = attention(q, k, v, 1.0, p, seed)
        grads = REGISTERED.tanh_attention_backward.cpu(grad, q, k, v, 1.0, p, seed)
    exact = reference.tanh_attention(q.double(), k.double(), v.double(), 1.0, p, seed)
    assert exact.abs().max() > 1e36
    torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=0)
    doubles = [t.double() for t in (grad, q, k, v)]
    exact = reference.tanh_attention_backward(*doubles, 1.0, p, seed)
    for mine, theirs in zip(grads, exact, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("isa", LEVELS)
def test_a_negative_scale(isa, dtype):
    q, k, v = (torch.randn(2, *s).to(dtype) for s in ((70, 7), (45, 7), (45, 5)))
    grad = torch.randn(2, 70, 5).to(dtype)
    with level(isa):
        out = attention(q, k, v, -0.4)
        grads = REGISTERED.tanh_attention_backward.cpu(grad, q, k, v, -0.4, 0.0, None)
        mirrored = attention(-q, k, v, 0.4)
        reversed_grads = REGISTERED.tanh_attention_backward.cpu(grad, -q, k, v, 0.4, 0.0, None)
    assert torch.equal(out, mirrored)
    assert torch.equal(grads[0], -reversed_grads[0])
    assert torch.equal(grads[1], reversed_grads[1])
    assert torch.equal(grads[2], reversed_grads[2])


@pytest.mark.parametrize("scale", [0.0, -0.0, 1e-39, INF, -INF, NAN])
@pytest.mark.parametrize("isa", LEVELS)
def test_scales_without_a_limit(isa, scale):
    """tanh and its slope at scales at which no finite score is large, or every score is."""
    q, k, v = torch.randn(2, 70, 7), torch.randn(2, 45, 7), torch.randn(2, 45, 5)
    grad = 1e30 * torch.randn(2, 70, 5)
    q[0, 3, 2] = INF
    with level(isa):
        ours = [attention(q, k, v, scale), REGISTERED.joint_affinity.cpu(q[1:], k[1:], scale)]
        ours += REGISTERED.tanh_attention_backward.cpu(
            grad[1:], q[1:], k[1:], v[1:], scale, 0, None
        )
    plain = [reference.tanh_attention(q, k, v, scale, 0.0, None)]
    plain += [reference.joint_affinity(q[1:], k[1:], scale)]
    plain += reference.tanh_attention_backward(grad[1:], q[1:], k[1:], v[1:], scale, 0.0, None)
    assert_same_kinds(ours, plain)
    torch.testing.assert_close(ours[1:], plain[1:], rtol=1e-4, atol=1e-12, equal_nan=True)


RANGES = ((0.0, 0.1), (0.1, 0.3), (0.3, 1.0), (1.0, 3.0), (3.0, 8.0), (8.0, 9.05), (9.05, 40.0))


def scores(low: float, high: float) -> torch.Tensor:
    y = torch.linspace(low, high, 40_000)
    return torch.cat([y, -y]).reshape(1, -1, 1)


@pytest.mark.parametrize("limits", RANGES)
@pytest.mark.parametrize("isa", LEVELS)
def test_errors_of_tanh_and_of_its_slope(isa, limits):
    """docs/numerics.md: tanh within 1.1e-7; the slope against 1 - tanh^2 in plain PyTorch.

    Without fused multiply-adds (x86-64-v2) the slope is within 3.5 times its error.
    """
    bound = 3.5 if isa == "v2" else 1.7 if limits[1] <= 0.3 else 1.1
    y, one = scores(*limits), torch.ones(1, 1, 1)
    exact = torch.tanh(y.double())
    with level(isa):
        out = attention(y, one, one, 1.0)
        slope = REGISTERED.tanh_attention_backward.cpu(
            torch.ones_like(y), y, one, one, 1.0, 0.0, None
        )
    assert (out.double() - exact).abs().max() <= 1.1e-7
    plain = torch.tanh(y)
    exact_slope = 1 / torch.cosh(y.double()) ** 2
    theirs = (1 - plain * plain - exact_slope).abs().max().item()
    assert (slope[0].double() - exact_slope).abs().max().item() <= bound * theirs


@pytest.mark.parametrize("limits", RANGES)
@pytest.mark.parametrize("isa", LEVELS)
def test_joint_affinity_is_as_exact_as_torch_tanh(isa, limits):
    y, one = scores(*limits), torch.ones(1, 1, 1)
    exact = torch.tanh(y.double())
    with level(isa):
        ours = REGISTERED.joint_affinity.cpu(y, one, 1.0)
    error, plain = ((t.double() - exact).abs().max().item() for t in (ours, torch.tanh(y)))
    assert error <= 1.5 * plain


@pytest.mark.parametrize("isa", LEVELS)
def test_the_slope_goes_on_where_tanh_is_1(isa):
    y, one = torch.linspace(9, 18, 2000).reshape(1, -1, 1), torch.ones(1, 1, 1)
    with level(isa):
        slope = REGISTERED.tanh_attention_backward.cpu(
            torch.ones_like(y), y, one, one, 1.0, 0.0, None
        )[0]
    exact = 1 / torch.cosh(y.double()) ** 2
    torch.testing.assert_close(slope.double(), exact, rtol=1e-2, atol=0)


@pytest.mark.parametrize("isa", LEVELS)
def test_the_outer_tanh_of_the_released_form_is_exact_close_to_1(isa):
    """Its gradients take the slope 1 - out^2 from it."""
    value, ten = torch.linspace(3, 9, 2000).reshape(-1, 1, 1), torch.full((2000, 1, 1), 10.0)
    with level(isa):
        out = REGISTERED.released_attention.cpu(ten, ten, value, 1.0, 0.0, None)
    exact = torch.tanh(value.double())
    assert (out.double() - exact).abs().max() <= 3.3e-8
