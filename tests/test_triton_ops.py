"""Every op's guarantees to PyTorch on the Triton backend, interpreted or on a GPU.

The ops and their small inputs come from test_contract.py; test_triton_kernels.py tests all sizes.
"""

from __future__ import annotations

import copy
from functools import partial

import pytest
import test_contract as contract
import torch
from numerics import assert_bitwise, error
from torch.utils.checkpoint import checkpoint
from triton_device import DEVICE, kernels, on_device  # noqa: F401

from jca_fast import AVELocalizer, JointCoAttention, explain
from jca_fast.functional import tanh_attention, visual_reduction
from jca_fast.ops import backends
from jca_fast.ops.backends.parity import QUICK, with_kernels

pytestmark = pytest.mark.usefixtures("on_device")

SERVED = tuple(case.op for case in with_kernels(QUICK, kernels))
NAMES = tuple(name for name in contract.NAMES if name.startswith(SERVED))
OPS = tuple(op for op in contract.registered() if op.removesuffix("_backward") in SERVED)
ONE_OF_EACH = (
    "tanh_attention_dropout",
    "released_attention",
    "joint_coattention_given",
    "visual_reduction",
)
"""For promises that the op layer keeps alike for every variant of an op."""
COMPILER = "aot_eager" if DEVICE == "cpu" else "inductor"


def case(name, dtype=torch.float32, backend="triton"):
    """An op by its kernels, and its inputs."""
    function, inputs = contract.cases(dtype)[name]
    return partial(function, backend=backend), inputs


def as_list(result):
    return [result] if isinstance(result, torch.Tensor) else list(result)


def backward(outputs, inputs, cotangents, **kwargs):
    return torch.autograd.grad(outputs, inputs, cotangents, **kwargs)


def assert_close(ours, theirs, tolerance=1e-5):
    """Each tensor's error relative to the largest number of its counterpart."""
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        found = error(a.detach(), b.detach().double())
        assert found <= tolerance, f"tensor {i}: error {found:.1e}"


@pytest.mark.parametrize("version", ["12.8", "12.9", "13.0"])
def test_an_assembler_that_compiles_the_kernels_wrongly_is_refused(version, monkeypatch):
    monkeypatch.setattr(kernels, "INTERPRETED", False)
    monkeypatch.setattr(kernels, "_ptxas", lambda: version)
    assert ("TRITON_PTXAS_PATH" in kernels.problem()) == (version == "12.8")


@pytest.mark.parametrize("op", OPS)
def test_opcheck(op):
    for args in contract.registered()[op]:
        torch.library.opcheck(getattr(torch.ops.jca_fast, op).triton, args)


@pytest.mark.parametrize("name", NAMES)
def test_backward_twice_gives_the_same_bits_and_changes_no_tensor_of_the_caller(name):
    function, inputs = case(name)
    outputs = as_list(function(*inputs))
    cotangents = [torch.randn_like(y) for y in outputs]
    given = [*inputs, *outputs, *cotangents]
    before, versions = [t.detach().clone() for t in given], [t._version for t in given]
    first = backward(outputs, inputs, cotangents, retain_graph=True)
    kept = [g.clone() for g in first]
    assert_bitwise(kept, backward(outputs, inputs, cotangents))
    assert_bitwise(kept, first)
    assert_bitwise([t.detach() for t in given], before)
    assert [t._version for t in given] == versions


@pytest.mark.parametrize("name", NAMES)
def test_second_derivatives_are_those_of_the_reference(name):
    seconds = []
    for backend, dtype in (("triton", torch.float32), ("reference", torch.float64)):
        torch.manual_seed(1)
        function, inputs = case(name, torch.float32, backend)
        inputs = [t.detach().to(dtype).requires_grad_() for t in inputs]
        first = torch.autograd.grad(contract.total(function(*inputs)), inputs, create_graph=True)
        seconds.append(torch.autograd.grad(contract.total(first), inputs))
    assert_close(*seconds, tolerance=1e-4)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_vmap_of_values_and_gradients(name):
    inputs = case(name)[1]
    batch = torch.stack([inputs[0], -inputs[0]]).detach()
    rest = [t.detach() for t in inputs[1:]]

    def gradient(backend):
        function = case(name, backend=backend)[0]
        scalar = lambda x, w: contract.total(function(x, w, *rest[1:]))  # noqa: E731
        return torch.func.grad_and_value(scalar, argnums=(0, 1))

    grads, values = torch.func.vmap(gradient("triton"), in_dims=(0, None))(batch, rest[0])
    for i, x in enumerate(batch):
        single, value = gradient("reference")(x, rest[0])
        assert_close([values[i], *(g[i] for g in grads)], [value, *single])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_autocast_gives_its_dtype_full_precision_gradients_and_the_errors_of_torch(name, dtype):
    results = []
    for backend, wide in (
        ("triton", torch.float32),
        ("reference", torch.float32),
        ("reference", torch.float64),
    ):
        torch.manual_seed(1)
        function, inputs = case(name, torch.float32, backend)
        inputs = [t.detach().to(wide).requires_grad_() for t in inputs]
        with torch.autocast(DEVICE, dtype, enabled=wide == torch.float32):
            outputs = as_list(function(*inputs))
        # A layer adds its residual in the dtype of its inputs.
        narrow = dtype if not name.startswith("joint_coattention") else wide
        assert {y.dtype for y in outputs} == {narrow if wide == torch.float32 else wide}
        grads = backward(outputs, inputs, [torch.ones_like(y) for y in outputs])
        assert {g.dtype for g in grads} == {wide}
        results.append([t.detach().double() for t in (*outputs, *grads)])
    for ours, theirs, exact in zip(*results, strict=True):
        assert error(ours, exact) <= 3 * error(theirs, exact) + 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_compiles_without_graph_breaks_for_any_batch(name, monkeypatch):
    function, inputs = case(name)
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=COMPILER)
    monkeypatch.setattr(contract, "B", 3)
    plain, others = case(name, backend="reference")
    for tensors in (inputs, others):
        eager, traced = as_list(plain(*tensors)), as_list(compiled(*tensors))
        cotangents = [torch.randn_like(y) for y in eager]
        assert_close(
            [*traced, *backward(traced, tensors, cotangents)],
            [*eager, *backward(eager, tensors, cotangents)],
        )


def test_a_compiled_call_draws_a_new_mask_each_time():
    (q, k, v), function = (
        case("tanh_attention")[1],
        partial(tanh_attention, scale=0.4, dropout_p=0.5, backend="triton"),
    )
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=COMPILER)
    assert not torch.equal(compiled(q, k, v), compiled(q, k, v))


@pytest.mark.parametrize("form", ["paper", "released"])
def test_exports_with_a_dynamic_batch(form):
    module = JointCoAttention(6, 4, 5, 3, 1, form, backend="triton").eval()
    batch = torch.export.Dim("batch", min=2)
    args = (torch.randn(3, 5, 6), torch.randn(3, 5, 4))
    program = torch.export.export(module, args, dynamic_shapes={"inputs": ({0: batch}, {0: batch})})
    called = {str(node.target) for node in program.graph.nodes}
    assert {"jca_fast.joint_coattention.triton", "jca_fast.released_attention.triton"} & called
    args = (torch.randn(4, 5, 6), torch.randn(4, 5, 4))
    assert_close(program.module()(*args), module(*args))


@pytest.mark.parametrize("form", ["paper", "released"])
def test_activation_checkpointing_recomputes_the_same_mask(form):
    module = JointCoAttention(6, 4, 5, 3, 1, form, dropout=0.4, backend="triton")
    inputs = [torch.randn(2, 5, d, requires_grad=True) for d in (6, 4)]
    grads = []
    for call in (module, partial(checkpoint, module, use_reentrant=False)):
        torch.manual_seed(1)
        contract.total(call(*inputs)).backward()
        leaves = [*inputs, *module.parameters()]
        grads.append([t.grad for t in leaves])
        for t in leaves:
            t.grad = None
    assert_bitwise(*grads)


LAYOUTS = {
    "transposed": lambda t: t.mT.contiguous().mT,
    "expanded over the batch": lambda t: t[:1].expand_as(t),
    "expanded over the last": lambda t: t[..., :1].expand_as(t),
    "every second element": lambda t: torch.stack((t, torch.randn_like(t)), -1).flatten(-2)[
        ..., ::2
    ],
    "every third row": lambda t: torch.stack([t] + [torch.randn_like(t)] * 2, -2).flatten(-3, -2)[
        ..., ::3, :
    ],
    "off by one element": lambda t: torch.cat((torch.randn_like(t).flatten()[:1], t.flatten()))[
        1:
    ].view_as(t),
}
"""Views with the numbers, or some of the numbers, of a tensor."""


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_strides_of_inputs_and_gradients_are_honoured(name, layout):
    function, inputs = case(name)
    plain = case(name, backend="reference")[0]
    inputs = [t.detach().contiguous() for t in inputs]
    views = [LAYOUTS[layout](t) for t in inputs]
    assert any(
        a.stride() != b.stride() or a.storage_offset() for a, b in zip(views, inputs, strict=True)
    )
    cotangents = [LAYOUTS[layout](torch.randn_like(y)) for y in as_list(plain(*views))]
    results = []
    for call, dtype in ((function, torch.float32), (plain, torch.float64)):
        leaves = [t.to(dtype).requires_grad_() for t in views]
        outputs = as_list(call(*leaves))
        results.append([*outputs, *backward(outputs, leaves, [c.to(dtype) for c in cotangents])])
    assert_close(*results)


def twins(build):
    """A module on the kernels, and one with the same weights on plain PyTorch."""
    torch.manual_seed(2)
    module = build("triton")
    twin = build("reference")
    twin.load_state_dict(copy.deepcopy(module.state_dict()))
    return module, twin


def step(module, inputs):
    """The outputs of one training step, the gradients of the inputs and the weights after it."""
    torch.manual_seed(3)
    leaves = [t.detach().requires_grad_() for t in inputs]
    outputs = as_list(module(*leaves))
    contract.total(outputs).backward()
    torch.optim.SGD(module.parameters(), 0.1).step()
    return [*outputs, *(t.grad for t in leaves), *module.parameters()]


@pytest.mark.parametrize(
    ("form", "joint", "layers"),
    [
        ("paper", "concat", 2),
        ("paper", "cross", 1),
        ("released", "concat_fc", 2),
        ("released", "cross", 1),
    ],
)
def test_joint_coattention_with_dropout_trains_as_on_the_reference(form, joint, layers):
    modules = twins(
        lambda b: JointCoAttention(6, 9, 5, 3, layers, form, joint, 0.4, backend=b).train()
    )
    inputs = [torch.randn(2, 5, d) for d in (6, 9)]
    assert_close(*(step(m, inputs) for m in modules), tolerance=2e-5)


@pytest.mark.parametrize("form", ["paper", "released"])
def test_the_localizer_trains_as_on_the_reference(form):
    sizes = {"audio_dim": 6, "visual_dim": 4, "num_layers": 1, "num_segments": 3, "num_classes": 4}
    options = {
        "audio_features": 5,
        "region_features": 7,
        "num_regions": 6,
        "attention_dim": 3,
        "form": form,
    }
    modules = twins(lambda b: AVELocalizer(**sizes, **options, rnn_dropout=0.0, backend=b).train())
    inputs = torch.rand(2, 3, 5), torch.rand(2, 3, 6, 7)
    with torch.backends.cudnn.flags(allow_tf32=False):  # its LSTMs would amplify a last bit
        results = [step(m, inputs) for m in modules]
    assert_close(*results, tolerance=2e-5)


def test_what_the_kernels_cannot_serve_is_refused_by_name_and_goes_to_plain_torch_by_auto():
    wide = [t.detach() for t in case("tanh_attention", torch.float64)[1]]
    with pytest.raises(
        RuntimeError, match=r"'triton' cannot run tanh_attention: it takes .* got torch.float64"
    ):
        tanh_attention(*wide, 0.4, backend="triton")
    assert_bitwise([tanh_attention(*wide, 0.4)], [tanh_attention(*wide, 0.4, backend="reference")])
    assert "triton     cannot run: it takes float32, bfloat16 and float16" in explain(*wide)
    assert backends.choose("tanh_attention", "auto", wide) == "reference"
    assert backends.choose("tanh_attention", "auto", [t.float() for t in wide]) == "triton"
    with pytest.raises(RuntimeError, match="up to 8192 channels of a region, got 8193"):
        visual_reduction(torch.ones(1, 8193), torch.ones(1, 2, 8193), backend="triton")
