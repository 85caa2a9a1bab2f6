"""Every op's guarantees to PyTorch: opcheck, derivatives, vmap, compile, export, autocast,
checkpointing.
"""

from __future__ import annotations

import copy
import importlib
import pickle
from functools import partial

import pytest
import torch
from op_calls import floating
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.checkpoint import checkpoint

from jca_fast import JointCoAttention
from jca_fast.functional import joint_affinity, joint_coattention, tanh_attention, visual_reduction
from jca_fast.ops.backends.parity import QUICK, Case, arguments, tensors_of
from jca_fast.ops.library import SCHEMAS, overload

B = 2
N = 3
AUDIO = 4
VISUAL = 2
K = 3


def rand(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def layer(*tensors, joints=0, **kwargs):
    """joint_coattention with its arguments in one flat list, as gradcheck needs them."""
    groups = [tensors[:2], *(tensors[2 + joints + i : 4 + joints + i] for i in (0, 2, 4, 6))]
    return joint_coattention(*groups, joints=tensors[2 : 2 + joints], **kwargs)


def layer_inputs(joints=0, dtype=torch.float64):
    width = 5 if joints else AUDIO + VISUAL
    shapes = [(B, N, AUDIO), (B, N, VISUAL), *[(B, N, 5)] * joints]
    shapes += [(N, N)] * 2 + [(K, N)] * 2 + [(K, width)] * 2 + [(K, N)] * 2
    return [rand(*s, dtype=dtype) for s in shapes]


def small(case):
    """The case with sizes from 2 to 5."""
    return case._replace(sizes=tuple(min(n, 2 + i % 4) for i, n in enumerate(case.sizes)))


SMALL = {case.op: small(case) for case in QUICK}
SHARED = Case("tanh_attention", (*SMALL["tanh_attention"].sizes[:-1], 1))
"""All samples share v."""


def public(case, dtype):
    """The function that users call, as a function of the tensors of its op, and these tensors."""
    args, _ = arguments(case, tensors_of(case, dtype, torch.get_default_device()))
    names = [a.name for a in overload(case.op, "reference")._schema.arguments]
    seed = lambda x: isinstance(x, torch.Tensor) and not floating(x)  # noqa: E731
    given = zip(names, args, strict=False)  # the last ones have defaults
    options = {name: x for name, x in given if isinstance(x, float) or seed(x)}
    function = getattr(importlib.import_module(f"jca_fast.ops.{case.op}"), case.op)
    function = layer if function is joint_coattention else function
    tensors = [t.requires_grad_() for t in tree_flatten(args)[0] if floating(t)]
    return partial(function, **options), tensors


def cases(dtype=torch.float64):
    """Every op as a function of tensors, and small inputs."""
    found = {op: public(case._replace(dropout=0.0), dtype) for op, case in SMALL.items()}
    dropped = {f"{op}_dropout": public(case, dtype) for op, case in SMALL.items() if case.dropout}
    affinity = [rand(B, N, AUDIO, dtype=dtype), rand(B, N, 5, dtype=dtype), rand(N, N, dtype=dtype)]
    regions = found["visual_reduction"][1]
    return {
        **found,
        **dropped,
        "tanh_attention_shared_v": public(SHARED, dtype),
        "joint_affinity": (joint_affinity, affinity),
        "joint_coattention_given": (partial(layer, joints=1), layer_inputs(1, dtype)),
        "joint_coattention_cross": (partial(layer, joints=2), layer_inputs(2, dtype)),
        "visual_reduction": (partial(visual_reduction, return_weights=True), regions),
    }


NAMES = tuple(cases())


def total(result) -> torch.Tensor:
    """A scalar that weights every output differently."""
    tensors = [result] if isinstance(result, torch.Tensor) else result
    return sum((i + 1) * t.square().sum() for i, t in enumerate(tensors))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_first_and_second_order(backend, name):
    function, inputs = cases()[name]
    function = partial(function, backend=backend)
    torch.autograd.gradcheck(function, inputs)
    torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


def test_third_order(backend):
    (q, k, v), f = cases()["tanh_attention"][1], partial(tanh_attention, scale=0.4)
    plain = lambda q, k, v: torch.tanh(q @ k.mT * 0.4) @ v  # noqa: E731

    def third(function):
        first = torch.autograd.grad(function(q, k, v).square().sum(), q, create_graph=True)[0]
        second = torch.autograd.grad(first.square().sum(), k, create_graph=True)[0]
        return torch.autograd.grad(second.square().sum(), v)[0]

    torch.testing.assert_close(third(partial(f, backend=backend)), third(plain))


@pytest.mark.parametrize("name", NAMES)
def test_vmap_of_values_and_gradients(backend, name):
    function, inputs = cases()[name]
    function = partial(function, backend=backend)
    batch = torch.stack([inputs[0], 2 * inputs[0], -inputs[0]]).detach()
    rest = [t.detach() for t in inputs[1:]]
    mapped = torch.func.vmap(lambda x: total(function(x, *rest)))(batch)
    torch.testing.assert_close(mapped, torch.stack([total(function(x, *rest)) for x in batch]))
    gradient = torch.func.grad(lambda *t: total(function(*t)), argnums=tuple(range(len(inputs))))
    mapped = torch.func.vmap(gradient, in_dims=(0, *(None for _ in rest)))(batch, *rest)
    single = zip(*(gradient(x, *rest) for x in batch), strict=True)
    for got, expected in zip(mapped, single, strict=True):
        torch.testing.assert_close(got, torch.stack(expected))


@pytest.mark.parametrize("name", NAMES)
def test_compiles_without_graph_breaks(backend, name):
    torch._dynamo.reset()
    function, inputs = cases(torch.float32)[name]
    function = partial(function, backend=backend)
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
    eager, traced = total(function(*inputs)), total(compiled(*inputs))
    torch.testing.assert_close(traced, eager)
    for got, expected in zip(
        torch.autograd.grad(traced, inputs), torch.autograd.grad(eager, inputs), strict=True
    ):
        torch.testing.assert_close(got, expected)


def test_compiled_graph_serves_other_sizes_and_draws_new_masks(backend):
    torch._dynamo.reset()
    function = torch.compile(
        lambda q, k, v: tanh_attention(q, k, v, 0.3, dropout_p=0.5, backend=backend),
        fullgraph=True, dynamic=True, backend="aot_eager",
    )  # fmt: skip
    for batch in (2, 3, 5):
        q = torch.randn(batch, 6, 4)
        k = torch.randn(batch, 9, 4)
        v = torch.randn(1, 9, 3)
        first, second = function(q, k, v), function(q, k, v)
        assert first.shape == (batch, 6, 3)
        assert not torch.equal(first, second)


@pytest.mark.parametrize("form", ["paper", "released"])
def test_exports_with_a_dynamic_batch(form):
    module = JointCoAttention(6, 4, 5, 3, 2, form).eval()
    batch = torch.export.Dim("batch", min=2)
    args = (torch.randn(3, 5, 6), torch.randn(3, 5, 4))
    program = torch.export.export(module, args, dynamic_shapes={"inputs": ({0: batch}, {0: batch})})
    args = (torch.randn(7, 5, 6), torch.randn(7, 5, 4))
    for got, expected in zip(program.module()(*args), module(*args), strict=True):
        torch.testing.assert_close(got, expected)


def registered():
    """Each registered op with arguments for opcheck: with and without dropout, v of its samples or
    shared, with each value of a last flag; gradients without memory of their elements.
    """
    plain = SMALL["released_attention"]._replace(dropout=0.0)
    found = {name: [] for name in SCHEMAS}
    for case in (*SMALL.values(), SHARED, plain):
        calls = arguments(case, tensors_of(case, torch.float32, torch.get_default_device()))
        for name, args in zip((case.op, f"{case.op}_backward"), calls, strict=True):
            if name != case.op:
                args = (tree_map(lambda t: t.new_ones(1).expand_as(t), args[0]), *args[1:])
            found[name].append(args)
            if args[-1] is True:
                found[name].append((*args[:-1], False))
    return found


@pytest.mark.parametrize("op", tuple(SCHEMAS))
def test_opcheck(backend, op):
    for args in registered()[op]:
        torch.library.opcheck(getattr(getattr(torch.ops.jca_fast, op), backend), args)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_autocast_gives_its_dtype_and_full_precision_gradients(backend, name, dtype):
    function, inputs = cases(torch.float32)[name]
    with torch.autocast("cpu", dtype):
        result = function(*inputs, backend=backend)
    first = result if isinstance(result, torch.Tensor) else result[0]
    # A layer adds its residual in the dtype of its inputs.
    assert first.dtype == (torch.float32 if name.startswith("joint_coattention") else dtype)
    total(result).backward()
    assert all(t.grad.dtype == torch.float32 for t in inputs)
    function, exact = (
        cases(torch.float32)[name][0],
        [t.detach().double().requires_grad_() for t in inputs],
    )
    total(function(*exact)).backward()
    for got, expected in zip(inputs, exact, strict=True):
        torch.testing.assert_close(
            got.grad.double(), expected.grad, rtol=0.1, atol=0.1 * expected.grad.abs().max().item()
        )


@pytest.mark.parametrize("form", ["paper", "released"])
def test_activation_checkpointing_keeps_masks_and_gradients(form):
    module = JointCoAttention(6, 4, 5, 3, 2, form, dropout=0.4)
    audio, visual = rand(3, 5, 6, dtype=torch.float32), rand(3, 5, 4, dtype=torch.float32)
    torch.manual_seed(1)
    plain = torch.autograd.grad(total(module(audio, visual)), (audio, visual))
    torch.manual_seed(1)
    again = torch.autograd.grad(
        total(checkpoint(module, audio, visual, use_reentrant=False)), (audio, visual)
    )
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("form", ["paper", "released"])
def test_deepcopy_and_pickle(form):
    module = JointCoAttention(6, 4, 5, 3, 2, form).eval()
    audio, visual = torch.randn(3, 5, 6), torch.randn(3, 5, 4)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        for a, b in zip(module(audio, visual), twin(audio, visual), strict=True):
            assert torch.equal(a, b)
