"""Forward mode, vmap and transforms of transforms in compiled and exported programs.

Reverse mode inside an exported program is left out: PyTorch cannot export it.
"""

from __future__ import annotations

import functools

import pytest
import torch
from test_contract import registered
from test_derivatives import assert_close, case, leaves, modules
from test_portable_programs import targets
from torch.autograd import forward_ad
from torch.func import grad, jvp, vmap
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from jca_fast.ops import reference
from jca_fast.ops.library import overload


def by_jvp(function, inputs, tangents):
    return leaves(jvp(function, tuple(inputs), tuple(tangents))[1])


def by_dual_level(function, inputs, tangents):
    with forward_ad.dual_level():
        out = function(*map(forward_ad.make_dual, inputs, tangents))
        return [forward_ad.unpack_dual(t).tangent for t in leaves(out)]


def of_pairs(function, derivative):
    """``derivative`` of ``function`` as one function of all inputs and all tangents."""

    def run(*args):
        half = len(args) // 2
        return derivative(function, args[:half], args[half:])

    return run


class Forward(torch.nn.Module):
    """A module whose forward is a function."""

    def __init__(self, function):
        super().__init__()
        self.run = function

    def forward(self, *args):
        return self.run(*args)


class Derivative(Forward):
    """A module whose forward is a derivative of another's."""

    def __init__(self, module, derivative):
        super().__init__(of_pairs(lambda *inputs: self.module(*inputs), derivative))
        self.module = module


@functools.cache
def needs_export_of(derivative):
    """Skip where PyTorch cannot export this derivative of its own Linear: before 2.13."""
    module, x = torch.nn.Linear(2, 2), torch.ones(1, 2)
    try:
        program = torch.export.export(Derivative(module, derivative), (x, x)).module()
        assert_close(program(x, x), [x @ module.weight.mT])
    except (AssertionError, RuntimeError) as error:
        pytest.skip(f"PyTorch {torch.__version__} cannot export it: {str(error)[:60]}")


def floating(x):
    return isinstance(x, torch.Tensor) and x.is_floating_point()


def as_double(x):
    return x.detach().double() if floating(x) else x


@pytest.mark.parametrize(
    ("name", "derivative"),
    [("tanh_attention_dropout", by_jvp), ("joint_coattention_cross", by_dual_level)],
)
def test_compiled_forward_mode(name, derivative):
    torch._dynamo.reset()
    function, inputs, tangents = case(name, "auto")
    run = of_pairs(function, derivative)
    compiled = torch.compile(run, backend="eager", fullgraph=True)
    assert_close(compiled(*inputs, *tangents), run(*inputs, *tangents))


def test_compiled_transforms_of_transforms():
    torch._dynamo.reset()
    function, inputs, tangents = case("tanh_attention", "auto")
    square = lambda q: function(q, *inputs[1:]).square().sum()  # noqa: E731

    def run(q, t):
        return (
            jvp(grad(square), (q,), (t,))[1],
            grad(lambda x: jvp(square, (x,), (t,))[1])(q),
            vmap(lambda u: jvp(square, (q,), (u,))[1])(torch.stack([t, q])),
        )

    expected = run(inputs[0], tangents[0])
    assert_close(torch.compile(run, backend="eager")(inputs[0], tangents[0]), expected)


@pytest.mark.parametrize(
    ("op", "compiler", "requires_grad"),
    [
        ("joint_coattention", "eager", False),
        ("tanh_attention_backward", "eager", True),
        ("tanh_attention", "aot_eager", True),
        ("joint_coattention", None, False),
    ],
)
def test_a_registered_op_in_a_graph_with_a_level_of_forward_mode(op, compiler, requires_grad):
    """The graph enters the level, so Python sees tangents without one. None stands for export."""
    torch._dynamo.reset()
    args = [tree_map(as_double, a) for a in registered()[op][-1]]
    flat, spec = tree_flatten(args)
    places = [i for i, a in enumerate(flat) if floating(a)]
    inputs = tuple(flat[i].requires_grad_(requires_grad) for i in places)
    tangents = tuple(torch.randn_like(x) for x in inputs)

    def of(function):
        def run(*xs):
            given = list(flat)
            for i, x in zip(places, xs, strict=True):
                given[i] = x
            return leaves(function(*tree_unflatten(given, spec)))[0]

        return of_pairs(run, by_dual_level)

    expected = of(getattr(reference, op))(*inputs, *tangents)
    bare = of(overload(op, "auto"))
    if compiler is None:
        needs_export_of(by_dual_level)
        program = torch.export.export(Forward(bare), (*inputs, *tangents))
        assert targets(program)
        run = program.module()
    else:
        run = torch.compile(bare, backend=compiler, fullgraph=True)
    assert_close(run(*inputs, *tangents), expected)


@pytest.mark.parametrize(("form", "derivative"), [("paper", by_jvp), ("released", by_dual_level)])
def test_exported_forward_mode(form, derivative):
    needs_export_of(derivative)
    module, inputs = modules()[form]
    module = module.eval()
    tangents = tuple(torch.randn_like(x) for x in inputs)
    program = torch.export.export(Derivative(module, derivative), (*inputs, *tangents))
    assert not targets(program)
    got = program.module()(*inputs, *tangents)
    assert_close(got, derivative(module, inputs, tangents))


def test_exported_vmap():
    module, inputs = modules()["released"]
    module = module.eval()

    class Mapped(torch.nn.Module):
        def forward(self, *stacked):
            return vmap(module)(*stacked)

    stacked = tuple(torch.stack([x, -x]) for x in inputs)
    program = torch.export.export(Mapped(), stacked)
    assert_close(program.module()(*stacked), vmap(module)(*stacked))


def test_transforms_of_an_exported_program():
    torch._dynamo.reset()
    module, inputs = modules()["paper"]
    module = module.eval()
    program = torch.export.export(module, inputs).module()
    tangents = tuple(torch.randn_like(x) for x in inputs)
    expected = by_jvp(module, inputs, tangents)
    assert_close(by_jvp(program, inputs, tangents), expected)
    assert_close(by_dual_level(program, inputs, tangents), expected)
    compiled = torch.compile(of_pairs(program, by_jvp), backend="eager")
    assert_close(compiled(*inputs, *tangents), expected)
