"""tanh_attention on every backend: values and gradients against a float64 oracle, strides, dropout,
bad input.
"""

from __future__ import annotations

import pytest
import torch
from numerics import assert_as_good_as_torch, assert_bitwise, value_and_grads

from benchmarks.shapes import SMALL, Shape
from jca_fast.functional import tanh_attention
from jca_fast.ops import reference

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
STRIDES = ("contiguous", "transposed", "sliced")


def make_inputs(
    shape: Shape, dtype: torch.dtype, strides: str = "contiguous"
) -> tuple[list[torch.Tensor], float]:
    """q, k, v in float32-exact values and the scale; "transposed" is the layout that the modules
    use.
    """
    batches = (shape.B, shape.B, 1 if shape.shared else shape.B)
    sizes = ((shape.M, shape.N), (shape.L, shape.N), (shape.L, shape.D))
    return [
        _laid_out(torch.randn(b, *s), strides).to(dtype)
        for b, s in zip(batches, sizes, strict=True)
    ], 0.3


def _laid_out(t: torch.Tensor, strides: str) -> torch.Tensor:
    if strides == "transposed":
        return t.mT.contiguous().mT
    if strides == "sliced":
        wide = t.new_zeros(t.shape[0], t.shape[1] + 3, t.shape[2] + 2)
        wide[:, 1:-2, 1:-1] = t
        return wide[:, 1:-2, 1:-1]
    return t


def as_dtype(tensors, dtype):
    return [t.to(dtype) for t in tensors]


@pytest.mark.parametrize("strides", STRIDES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_error_is_no_worse_than_plain_torch(backend, name, dtype, strides):
    inputs, scale = make_inputs(SMALL[name], dtype, strides)
    exact = as_dtype(inputs, torch.float64)
    grad = torch.randn(SMALL[name].B, SMALL[name].M, SMALL[name].D).to(dtype).double()

    def plain(q, k, v):
        return torch.tanh(q @ k.mT * scale) @ v

    oracle = value_and_grads(plain, exact, grad)
    theirs = value_and_grads(plain, inputs, grad)
    ours = value_and_grads(
        lambda q, k, v: tanh_attention(q, k, v, scale, backend=backend), inputs, grad
    )
    assert [t.dtype for t in ours] == [dtype] * 4
    assert_as_good_as_torch(["out"], ours[:1], theirs[:1], oracle[:1], factor=2)
    assert_as_good_as_torch(["dq", "dk", "dv"], ours[1:], theirs[1:], oracle[1:], factor=3)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("name", ["paper", "released", "odd", "one_of_each", "no_sample"])
def test_dropout_uses_the_one_mask(backend, name, dtype):
    inputs, scale = make_inputs(SMALL[name], dtype, "transposed")
    exact, seed = as_dtype(inputs, torch.float64), torch.tensor(-(2**62) + 12345)
    grad = torch.randn(SMALL[name].B, SMALL[name].M, SMALL[name].D).double()

    def plain(q, k, v):
        return reference.tanh_attention(q, k, v, scale, 0.3, seed)

    def ours(q, k, v):
        return tanh_attention(q, k, v, scale, dropout_p=0.3, seed=seed, backend=backend)

    oracle, theirs = value_and_grads(plain, exact, grad), value_and_grads(plain, inputs, grad)
    mine = value_and_grads(ours, inputs, grad)
    assert_as_good_as_torch(["out", "dq", "dk", "dv"], mine, theirs, oracle, factor=3)


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_dropout_probabilities(backend, p):
    (q, k, v), _ = make_inputs(SMALL["paper"], torch.float32)
    out = tanh_attention(q, k, v, 0.3, dropout_p=p, seed=1, backend=backend)
    if p == 1.0:
        assert not out.any()
    elif p == 0.0:
        assert_bitwise([out], [tanh_attention(q, k, v, 0.3, backend=backend)])
    else:
        assert not torch.allclose(out, tanh_attention(q, k, v, 0.3, backend=backend))


def test_generator_and_default_seed(backend):
    (q, k, v), _ = make_inputs(SMALL["paper"], torch.float32)

    def call(**kwargs):
        return tanh_attention(q, k, v, 0.3, dropout_p=0.5, backend=backend, **kwargs)

    first = call(generator=torch.Generator().manual_seed(3))
    assert_bitwise([first], [call(generator=torch.Generator().manual_seed(3))])
    torch.manual_seed(7)
    second, third = call(), call()
    torch.manual_seed(7)
    assert_bitwise([second], [call()])
    assert not torch.equal(second, third)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_inf_go_through_as_in_torch(backend, bad):
    (q, k, v), scale = make_inputs(SMALL["odd"], torch.float32)
    q[0, 3, 2] = bad
    v[0, 4, 1] = bad
    expected = torch.tanh(q @ k.mT * scale) @ v
    torch.testing.assert_close(
        tanh_attention(q, k, v, scale, backend=backend), expected, equal_nan=True
    )


@pytest.mark.parametrize("magnitude", [1e-30, 1e-12, 1e-6, 1e-3, 1.0, 1e3])
def test_relative_accuracy_at_every_magnitude(backend, magnitude):
    """One column and v = 1: the output is tanh itself, and small arguments must stay relatively
    accurate.
    """
    q = torch.linspace(-3, 3, 200).mul(magnitude).reshape(1, 200, 1)
    one = torch.ones(1, 1, 1)
    out = tanh_attention(q, one, one, 1.0, backend=backend)[0, :, 0].double()
    exact = torch.tanh(q[0, :, 0].double())
    relative = ((out - exact).abs() / exact.abs()).max().item()
    assert relative < 5e-7
    assert tanh_attention(q * 0, one, one, 1.0, backend=backend).eq(0).all()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_bitwise_repeat_and_inputs_untouched(backend, dropout):
    inputs, scale = make_inputs(SMALL["odd_tails"], torch.float32, "transposed")
    before = [t.clone() for t in inputs]
    grad = torch.randn(3, 65, 33)

    def call(q, k, v):
        return tanh_attention(q, k, v, scale, dropout_p=dropout, seed=5, backend=backend)

    assert_bitwise(value_and_grads(call, inputs, grad), value_and_grads(call, inputs, grad))
    assert_bitwise(inputs, before)


def test_backward_twice_and_accumulation(backend):
    inputs, scale = make_inputs(SMALL["paper"], torch.float32)
    leaves = [t.requires_grad_() for t in inputs]
    out = tanh_attention(*leaves, scale, backend=backend)
    grad = torch.randn_like(out)
    out.backward(grad, retain_graph=True)
    once = [t.grad.clone() for t in leaves]
    out.backward(grad)
    for t, g in zip(leaves, once, strict=True):
        torch.testing.assert_close(t.grad, 2 * g)


def test_expanded_grad_out_and_unused_gradients(backend):
    """``out.sum()`` gives an expanded gradient; inputs that need no gradient get none."""
    (q, k, v), scale = make_inputs(SMALL["odd"], torch.float32)
    k.requires_grad_()
    tanh_attention(q, k, v, scale, backend=backend).sum().backward()
    exact = k.detach().double().requires_grad_()
    (torch.tanh(q.double() @ exact.mT * scale) @ v.double()).sum().backward()
    torch.testing.assert_close(k.grad.double(), exact.grad, rtol=1e-4, atol=1e-5)
    assert q.grad is None
    assert v.grad is None


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda a: a | {"q": [1.0]}, TypeError, r"q must be a tensor \(B, M, N\), got list"),
        (
            lambda a: a | {"q": a["q"][0]},
            ValueError,
            r"q must have 3 dimensions .* got shape \(17, 7\)",
        ),
        (lambda a: a | {"k": a["k"].int()}, TypeError, r"k must be float32, .* got torch.int32"),
        (lambda a: a | {"k": a["k"][:1]}, ValueError, r"k must have shape \(2, \*, 7\)"),
        (lambda a: a | {"k": a["k"][..., :5]}, ValueError, r"k must have shape \(2, \*, 7\)"),
        (lambda a: a | {"v": a["v"][:, :4]}, ValueError, r"v must have shape \(\*, 31, \*\)"),
        (
            lambda a: a | {"v": a["v"].double()},
            TypeError,
            r"v must be torch.float32 like q, got torch.float64",
        ),
        (lambda a: a | {"v": a["v"][..., :0]}, ValueError, r"v must have at least 1 element"),
        (
            lambda a: a | {"dropout_p": 1.5},
            ValueError,
            r"dropout_p must be a probability between 0 and 1, got 1.5",
        ),
        (
            lambda a: a | {"dropout_p": 0.5, "seed": torch.zeros(2)},
            ValueError,
            r"seed must be an int or an int64",
        ),
        (
            lambda a: a | {"dropout_p": 0.5, "seed": 1, "generator": torch.Generator()},
            ValueError,
            r"either seed or generator",
        ),
        (
            lambda a: a | {"backend": "fastest"},
            ValueError,
            r"backend must be 'auto' or one of .*'reference'",
        ),
    ],
)
def test_errors_name_argument_got_and_needed(change, error, message):
    (q, k, v), scale = make_inputs(SMALL["odd"], torch.float32)
    arguments = change({"q": q, "k": k, "v": v, "scale": scale})
    with pytest.raises(error, match=message):
        tanh_attention(**arguments)
