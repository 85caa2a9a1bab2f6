"""Every kind of derivative of every op, against that of the plain formula."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from test_contract import NAMES, cases, registered, total
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap

from jca_fast import JointCoAttention
from jca_fast.ops import reference
from jca_fast.ops.library import OPS, overload

VARIANTS = {
    "tanh_attention": "tanh_attention_dropout",
    "joint_coattention": "joint_coattention_cross",
}
FEW = tuple(VARIANTS.get(op, op) for op in OPS)
"""One variant of each op."""


def leaves(result):
    return [result] if isinstance(result, torch.Tensor) else list(result)


def case(name, backend):
    """The op, small float64 inputs without requires_grad, and a tangent for each of them."""
    function, inputs = cases()[name]
    inputs = tuple(t.detach() for t in inputs)
    return partial(function, backend=backend), inputs, tuple(torch.randn_like(t) for t in inputs)


def numeric(function, inputs, tangents, step=1e-6):
    """The directional derivative by central differences."""
    ahead = leaves(function(*(x + step * t for x, t in zip(inputs, tangents, strict=True))))
    behind = leaves(function(*(x - step * t for x, t in zip(inputs, tangents, strict=True))))
    return [(a - b) / (2 * step) for a, b in zip(ahead, behind, strict=True)]


def assert_close(got, expected, **kwargs):
    for a, b in zip(leaves(got), leaves(expected), strict=True):
        torch.testing.assert_close(a, b, **kwargs)


@pytest.mark.parametrize("name", NAMES)
def test_jvp_is_the_directional_derivative(backend, name):
    function, inputs, tangents = case(name, backend)
    expected = numeric(function, inputs, tangents)
    assert_close(jvp(function, inputs, tangents)[1], expected, rtol=1e-6, atol=1e-7)
    with torch.no_grad():
        assert_close(jvp(function, inputs, tangents)[1], expected, rtol=1e-6, atol=1e-7)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(x, t) for x, t in zip(inputs, tangents, strict=True)]
        found = [forward_ad.unpack_dual(t).tangent for t in leaves(function(*duals))]
    assert_close(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", FEW)
def test_forward_mode_composes_with_every_transform(backend, name):
    function, inputs, tangents = case(name, backend)
    expected = jvp(function, inputs, tangents)[1]
    assert_close(linearize(function, *inputs)[1](*tangents), expected)
    many = torch.stack([tangents[0], -2 * tangents[0]])
    first = lambda t: jvp(lambda x: function(x, *inputs[1:]), (inputs[0],), (t,))[1]  # noqa: E731
    rows = [leaves(first(t)) for t in many]
    assert_close(vmap(first)(many), [torch.stack(r) for r in zip(*rows, strict=True)])
    scalar = lambda x: total(function(x, *inputs[1:]))  # noqa: E731
    second = torch.autograd.functional.hessian(scalar, inputs[0])
    assert_close(hessian(scalar)(inputs[0]), second)
    assert_close(jacrev(jacfwd(scalar))(inputs[0]), second)


@pytest.mark.parametrize("name", FEW)
def test_gradcheck_of_forward_mode_and_of_batched_gradients(backend, name):
    function, inputs = cases()[name]
    function = partial(function, backend=backend)
    # test_contract.py has compared every entry of the reverse mode
    modes = {"check_batched_grad": True, "fast_mode": True}
    torch.autograd.gradcheck(function, inputs, check_forward_ad=True, **modes)
    torch.autograd.gradgradcheck(function, inputs, **modes)


@pytest.mark.parametrize("name", FEW)
def test_batched_gradients(backend, name):
    function, inputs, _ = case(name, backend)
    first = lambda x: leaves(function(x, *inputs[1:]))[0]  # noqa: E731
    slow = torch.autograd.functional.jacobian(first, inputs[0])
    assert_close(torch.autograd.functional.jacobian(first, inputs[0], vectorize=True), slow)
    assert_close(jacrev(first)(inputs[0]), slow)
    assert_close(jacfwd(first)(inputs[0]), slow)


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_compiled_transforms(backend, name, compiler):
    torch._dynamo.reset()
    function, inputs, _ = case(name, backend)
    scalar = lambda x: total(function(x, *inputs[1:]))  # noqa: E731
    transforms = [grad(scalar)]
    if compiler == "aot_eager":  # traces what "eager" traces, and more
        transforms += [
            lambda x: vjp(scalar, x)[1](torch.ones((), dtype=x.dtype))[0],
            jacrev(lambda x: leaves(function(x, *inputs[1:]))[0].sum(-1)),
        ]
    for transform in transforms:
        expected = transform(inputs[0])
        assert expected.abs().max() > 0
        assert_close(torch.compile(transform, backend=compiler)(inputs[0]), expected)


@pytest.mark.parametrize("name", FEW)
def test_second_order_under_a_compiler_that_runs_the_graph(backend, name):
    torch._dynamo.reset()
    function, inputs = cases()[name]
    function = partial(function, backend=backend)

    def second(call):
        first = torch.autograd.grad(total(call(*inputs)), inputs, create_graph=True)
        return torch.autograd.grad(total(first), inputs)

    assert_close(second(torch.compile(function, backend="eager")), second(function))


@pytest.mark.parametrize("op", OPS)
def test_the_registered_op_is_differentiable(backend, op):
    for args in registered()[op]:
        given = [a.double().requires_grad_() if _floating(a) else a for a in _flat(args)]
        wanted = [t for t in given if _floating(t)]
        results = {}
        for name, function in (("bare", overload(op, backend)), ("plain", getattr(reference, op))):
            out = leaves(function(*_rebuilt(args, iter(given))))
            out = [t for t in out if t.requires_grad]
            results[name] = torch.autograd.grad(total(out[:2]), wanted, allow_unused=True)
        for got, expected in zip(results["bare"], results["plain"], strict=True):
            torch.testing.assert_close(got, expected)
        wanted = _rebuilt(args, iter(given))
        tangents = [torch.ones_like(t) if _floating(t) else t for t in _flat(wanted)]
        with forward_ad.dual_level():
            duals = [
                forward_ad.make_dual(t.detach(), u) if _floating(t) else t
                for t, u in zip(given, tangents, strict=True)
            ]
            out = leaves(overload(op, backend)(*_rebuilt(args, iter(duals))))
            assert forward_ad.unpack_dual(out[0]).tangent.abs().max() > 0


def _floating(x):
    return isinstance(x, torch.Tensor) and x.is_floating_point()


def _flat(args):
    return [x for a in args for x in (a if isinstance(a, list) else [a])]


def _rebuilt(args, flat):
    return [[next(flat) for _ in a] if isinstance(a, list) else next(flat) for a in args]


REVERSE = {
    "grad": lambda f: lambda *x: grad(lambda *y: total(f(*y)), tuple(range(len(x))))(*x),
    "vjp": lambda f: lambda *x: (lambda out, pull: pull(out))(*vjp(f, *x)),
    "jacrev": lambda f: lambda *x: jacrev(lambda y: leaves(f(y, *x[1:]))[0].sum(-1))(x[0]),
}


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("inner", REVERSE)
def test_reverse_over_reverse(backend, name, inner):
    """Every level of nested transforms records the op, and so does autograd around them."""
    function, inputs, tangents = case(name, backend)
    first = REVERSE[inner](function)
    slope = numeric(first, inputs, tangents)
    weights = [torch.randn_like(s) for s in slope]
    expected = sum((w * s).sum() for w, s in zip(weights, slope, strict=True))

    def weighted(*x):
        return sum((w * g).sum() for w, g in zip(weights, leaves(first(*x)), strict=True))

    nested = grad(weighted, argnums=tuple(range(len(inputs))))(*inputs)
    leaf = [x.clone().requires_grad_() for x in inputs]
    around = torch.autograd.grad(weighted(*leaf), leaf, allow_unused=True, materialize_grads=True)
    for found in (nested, around):
        got = sum((g * t).sum() for g, t in zip(found, tangents, strict=True))
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def modules():
    paper = JointCoAttention(4, 3, 3, 2, 2).double()
    released = JointCoAttention(4, 3, 3, 2, 2, "released").double()
    pair = (torch.randn(2, 3, 4).double(), torch.randn(2, 3, 3).double())
    return {"paper": (paper, pair), "released": (released, pair)}


@pytest.mark.parametrize("form", ["paper", "released"])
@pytest.mark.parametrize("frozen", [False, True])
def test_forward_mode_through_modules(form, frozen):
    module, inputs = modules()[form]
    module = module.eval().requires_grad_(not frozen)
    tangents = tuple(torch.randn_like(t) for t in inputs)
    with torch.no_grad():
        expected = numeric(module, inputs, tangents)
    assert_close(
        [t.detach() for t in jvp(module, inputs, tangents)[1]], expected, rtol=1e-6, atol=1e-7
    )
    scalar = lambda x: total(module(x, inputs[1]))  # noqa: E731
    second = torch.autograd.functional.hessian(scalar, inputs[0])
    assert_close(hessian(scalar)(inputs[0]).detach(), second)
    weights = {k: v.detach() for k, v in module.named_parameters()}
    of_weights = lambda w: total(functional_call(module, w, inputs))  # noqa: E731
    tangent = {k: torch.randn_like(v) for k, v in weights.items()}
    gradient = grad(of_weights)(weights)
    slope = sum((gradient[k] * tangent[k]).sum() for k in weights)
    assert_close(jvp(of_weights, (weights,), (tangent,))[1], slope)


@pytest.mark.parametrize("form", ["paper", "released"])
@pytest.mark.parametrize("how", ["export", "export under no_grad", "trace", "trace under no_grad"])
def test_an_exported_or_traced_model_trains(form, how):
    module, inputs = modules()[form]
    with torch.set_grad_enabled("no_grad" not in how):
        if how.startswith("export"):
            twin = torch.export.export(module, inputs).module()
        else:
            twin = torch.jit.trace(module, inputs)
    expected = torch.autograd.grad(total(module(*inputs)), list(module.parameters()))
    got = torch.autograd.grad(total(twin(*inputs)), list(twin.parameters()))
    by_size = lambda t: (tuple(t.shape), t.abs().sum().item())  # noqa: E731
    for a, b in zip(sorted(got, key=by_size), sorted(expected, key=by_size), strict=True):
        torch.testing.assert_close(a, b)
