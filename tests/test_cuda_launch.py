"""The CUDA backend up to the driver: what a call launches is what its plan says."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from jca_fast.kernels.cuda import native

from jca_fast import functional  # noqa: F401  (its import gives the ops their derivatives)
from jca_fast.ops import backends
from jca_fast.ops.library import overload
from jca_fast.ops.tiers import TIERS, precision
from tests.ptx import cuda_device, host_time, stub
from tests.ptx.cuda_device import (
    affinity_call,
    attention_call,
    name_of,
    released_call,
    visual_call,
)
from tests.ptx.cuda_layer import add_gradients, layer_call

SEED = torch.tensor(77)
STREAM = 0x5000
"""Of device 0, from the stub."""


@pytest.fixture
def driver():
    if why := stub.problem():
        pytest.skip(why)
    found = stub.driver()
    found.launches()
    return found


def operands(dtype, batch=3, m=70, length=50, n=10, d=9, shared=True):
    """grad_out, q, k, v; q and k lie transposed in memory, as in the layers."""
    torch.manual_seed(0)
    q, k = (torch.randn(batch, n, rows).to(dtype).mT for rows in (m, length))
    v = torch.randn(1 if shared else batch, length, d).to(dtype)
    return torch.randn(batch, m, d).to(dtype), q, k, v


def planned(op, call, workspace=0):
    """The plan of a call whose tensors stay where they are, with an address of the workspace."""
    storages = [t.untyped_storage().data_ptr() for t in call.tensors.values()]
    call.place({address: address for address in storages})
    if hasattr(call.values, "workspace"):
        call.values.workspace, call.values.workspace_size = workspace, 2**40
    if call.seed is not None:
        call.values.seed = call.seed.data_ptr()
    status, plan = cuda_device.plan_of(op, call.values)
    assert status == 0
    return plan.launches[: plan.count]


def facts(launch, name, size):
    """What a plan and a recorded launch have in common."""
    sizes = tuple(launch.grid), launch.threads, launch.shared_bytes, size
    return name, *sizes, bytes(launch.arguments)[:size]


def same(recorded, plan):
    got = [facts(x, x.kernel.decode(), x.argument_bytes) for x in recorded]
    return got == [facts(x, name_of(x), x.argument_bytes) for x in plan]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_a_forward_launches_its_plan(driver, tier, p):
    seed = SEED if p else None
    with precision(tier) as dtype:
        _, q, k, v = operands(dtype)
        out = torch.ops.jca_fast.tanh_attention.cuda(q, k, v, 0.25, p, seed)
    recorded = driver.launches()
    assert out.shape == (3, 70, 9)
    assert out.dtype == dtype
    call = attention_call(tier, dict(q=q, k=k, v=v, out=out), 0.25, p, seed)
    assert same(recorded, planned("tanh_attention", call))
    assert [x.stream for x in recorded] == [STREAM]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("shared", [False, True])
def test_a_backward_launches_its_plan(driver, tier, shared):
    with precision(tier) as dtype:
        g, q, k, v = operands(dtype, shared=shared)
        grads = torch.ops.jca_fast.tanh_attention_backward.cuda(g, q, k, v, 0.25, 0.3, SEED)
    recorded = driver.launches()
    assert [x.shape for x in grads] == [x.shape for x in (q, k, v)]
    assert len(recorded) == 2 + shared
    named = dict(zip(("dq", "dk", "dv"), grads, strict=True))
    # The workspace has been freed; sum_parts reads it, and its address comes first.
    sums = recorded[-1].kernel == b"sum_parts"
    workspace = int.from_bytes(bytes(recorded[-1].arguments[:8]), "little") if sums else 0
    call = attention_call(tier, dict(q=q, k=k, v=v, grad_out=g, **named), 0.25, 0.3, SEED)
    assert same(recorded, planned("tanh_attention_backward", call, workspace))


@pytest.mark.parametrize("tier", TIERS)
def test_the_affinity_launches_its_plans(driver, tier):
    with precision(tier) as dtype:
        _, q, k, _ = operands(dtype)
        c = torch.ops.jca_fast.joint_affinity.cuda(q, k, 0.25)
        grad = torch.zeros_like(c)
        dq, dk = torch.ops.jca_fast.joint_affinity_backward.cuda(grad, q, k, c, 0.25)
    forward, *backward = driver.launches()
    assert [c.shape, dq.shape, dk.shape] == [(3, 70, 50), q.shape, k.shape]
    call = affinity_call(tier, dict(q=q, k=k, c=c), 0.25)
    assert same([forward], planned("joint_affinity", call))
    call = affinity_call(tier, dict(q=q, k=k, c=c, grad_c=grad, dq=dq, dk=dk), 0.25)
    assert same(backward, planned("joint_affinity_backward", call))


@pytest.mark.parametrize("tier", TIERS)
def test_the_released_form_launches_its_plans(driver, tier):
    with precision(tier) as dtype:
        query, key, value, out, grad = (
            torch.zeros(2, 10, d, dtype=dtype) for d in (40, 35, 35, 40, 40)
        )
        options = 0.25, 0.3, SEED
        t = torch.ops.jca_fast.released_attention.cuda(query, key, value, *options)
        backward = torch.ops.jca_fast.released_attention_backward.cuda
        grads = backward(grad, out, query, key, value, *options)
    forward, *others = driver.launches()
    assert [x.shape for x in (t, *grads)] == [x.shape for x in (query, query, key, value)]
    call = released_call(tier, dict(query=query, key=key, value=value, out=t), *options)
    assert same([forward], planned("released_attention", call))
    tensors = dict(zip(("dquery", "dkey", "dvalue"), grads, strict=True))
    tensors |= dict(query=query, key=key, value=value, out=out, grad_out=grad)
    # The activation writes to the workspace, which has been freed: the third of its matrices.
    workspace = int.from_bytes(bytes(others[0].arguments[48:56]), "little")
    call = released_call(tier, tensors, *options)
    assert same(others, planned("released_attention_backward", call, workspace))


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("needed", [True, False])
def test_the_visual_reduction_launches_its_plans(driver, tier, needed):
    """``scratch`` is memory of the call, of which the recorded arguments know the address."""
    torch.manual_seed(0)
    with precision(tier) as dtype:
        query, keys = torch.randn(3, 24).to(dtype), torch.randn(3, 24, 7).to(dtype).mT
        out, weights = torch.ops.jca_fast.visual_reduction.cuda(query, keys, 0.25)
        arguments = torch.zeros_like(out), torch.zeros_like(weights), query, keys, weights
        dquery, dkeys = torch.ops.jca_fast.visual_reduction_backward.cuda(*arguments, 0.25, needed)
    assert dkeys.shape == (keys.shape if needed else (0,))
    names = "grad_out", "grad_weights", "query", "keys", "weights"
    tensors = dict(zip(names, arguments, strict=True)) | {"dquery": dquery}
    tensors |= {"dkeys": dkeys} if needed else {}
    calls = {
        "visual_reduction": dict(query=query, keys=keys, out=out, weights=weights),
        "visual_reduction_backward": tensors,
    }
    for launch, (op, named) in zip(driver.launches(), calls.items(), strict=True):
        scratch = Visual.from_buffer_copy(launch.arguments).scratch
        assert bool(scratch) == (needed or op == "visual_reduction")
        assert same([launch], planned(op, visual_call(tier, named, 0.25), scratch))


class Visual(ctypes.Structure):
    """``Visual`` of walk.h, up to the workspace; a matrix takes 24 bytes."""

    _fields_ = [("matrices", ctypes.c_uint64 * 3 * 7), ("scratch", ctypes.c_uint64)]


def layer(dtype, batch=2, channels=(40, 35), joints=()):
    """The groups of a layer of N = 10: inputs, joints, w_j, w_x, w_c, w_h."""
    n, k, count = 10, 9, len(channels)
    joint = [*joints, *joints][:count] or [sum(channels)] * count
    features = [[torch.zeros(batch, n, d, dtype=dtype) for d in ds] for ds in (channels, joints)]
    shapes = [(n, n)] * count, [(k, n)] * count, [(k, d) for d in joint], [(k, n)] * count
    return [*features, *([torch.zeros(s, dtype=dtype) for s in group] for group in shapes)]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("joints", [(), (50,), (24, 31)])
def test_a_layer_launches_its_plans(driver, tier, joints):
    options = [0.1, 0.2], 0.3, SEED
    with precision(tier) as dtype:
        groups = layer(dtype, joints=joints)
        results = torch.ops.jca_fast.joint_coattention.cuda(*groups, *options, True)
        outs, maps = results[:2], results[2:]
        backward = torch.ops.jca_fast.joint_coattention_backward.cuda
        flat = backward(outs, maps, *groups, *options, False)
    forward, *others = driver.launches()
    assert [x.shape for x in outs] == [x.shape for x in groups[0]]
    assert [x.shape for x in maps] == [(2, 9, 40), (2, 9, 35)]
    assert [x.shape for x in flat] == [x.shape for group in groups for x in group]
    call = layer_call(tier, groups, *options, True)
    call.add("modality", "out", outs)
    call.add("modality", "h", maps)
    assert same([forward], planned("joint_coattention", call))
    rest = iter(flat)
    call = layer_call(tier, groups, *options, False)
    call.add("modality", "grad_out", outs)
    call.add("modality", "h", maps)
    add_gradients(call, [[next(rest) for _ in group] for group in groups])
    # The workspace has been freed. It begins with Q of the first modality, behind 7 matrices.
    workspace = int.from_bytes(bytes(others[0].arguments[168:176]), "little")
    assert same(others, planned("joint_coattention_backward", call, workspace))


def test_autograd_launches_the_backward_of_a_layer(driver):
    groups = [[t.requires_grad_() for t in group] for group in layer(torch.float32)]
    outs = torch.ops.jca_fast.joint_coattention.cuda(*groups, [0.1, 0.1], 0.0, None, False)
    assert len(outs) == 2
    sum(x.sum() for x in outs).backward()
    names = [x.kernel.decode().removeprefix("joint_coattention_") for x in driver.launches()]
    assert names == ["forward", "prepare", "attention", "finish", "sums"]
    assert all(t.grad.shape == t.shape for group in groups for t in group)


WRONG_LAYERS = {
    "inputs is empty": (0, lambda group: []),
    "inputs[1] must have shape (2, 10, *), got (2, 10)": (
        0,
        lambda group: [group[0], group[1][..., 0]],
    ),
    "joints must hold 0, 1 or 2 tensors, got 3": (1, lambda group: [torch.zeros(2, 10, 4)] * 3),
    "joints[0] must have shape (2, 10, *), got (2, 9, 4)": (
        1,
        lambda group: [torch.zeros(2, 9, 4)],
    ),
    "w_j must hold one item for each of the 2 modalities, got 1": (2, lambda group: group[:1]),
    "w_x[1] must have the dtype of inputs[0]": (3, lambda group: [group[0], group[1].half()]),
    "w_c[0] must have shape (9, 75), got (9, 74)": (4, lambda group: [t[:, 1:] for t in group]),
    "w_h[0] must have shape (9, 10), got (8, 10)": (5, lambda group: [t[1:] for t in group]),
}


@pytest.mark.parametrize("text", WRONG_LAYERS)
def test_a_wrong_layer_is_refused_before_it_launches(driver, text):
    groups = layer(torch.float32)
    place, change = WRONG_LAYERS[text]
    groups[place] = change(groups[place])
    with pytest.raises(RuntimeError) as raised:
        torch.ops.jca_fast.joint_coattention.cuda(*groups, [1.0, 1.0], 0.0, None, False)
    assert text in str(raised.value)
    assert not driver.launches()


def test_a_layer_of_too_many_modalities_or_too_few_scales_is_refused(driver):
    groups = layer(torch.float32, channels=(3,) * 13)
    call = torch.ops.jca_fast.joint_coattention.cuda
    with pytest.raises(RuntimeError, match="inputs must hold at most 12 modalities, got 13"):
        call(*groups, [1.0] * 13, 0.0, None, False)
    with pytest.raises(RuntimeError, match="scales must hold one item for each of the 2"):
        call(*layer(torch.float32), [1.0], 0.0, None, False)
    assert not driver.launches()


def test_autograd_launches_the_backward(driver):
    _, q, k, v = (t.requires_grad_() for t in operands(torch.float32, batch=2))
    out = torch.ops.jca_fast.tanh_attention.cuda(q, k, v, 0.25, 0.0, None)
    out.sum().backward()
    names = [x.kernel.decode().removeprefix("tanh_attention_") for x in driver.launches()]
    assert names == ["narrow_attention_forward", "columns", "rows", "sum_parts"]
    assert all(t.grad.shape == t.shape for t in (q, k, v))


def test_an_empty_batch_launches_only_the_sum_of_a_shared_gradient(driver):
    g, q, k, v = operands(torch.float32, batch=0)
    assert torch.ops.jca_fast.tanh_attention.cuda(q, k, v, 1.0, 0.0, None).shape == (0, 70, 9)
    assert not driver.launches()
    torch.ops.jca_fast.tanh_attention_backward.cuda(g, q, k, v, 1.0, 0.0, None)
    assert [x.kernel for x in driver.launches()] == [b"sum_parts"]


def test_the_primary_context_is_current_in_every_thread_while_it_launches(driver):
    """A thread of autograd has no current context; one that has another keeps it."""
    _, q, k, v = operands(torch.bfloat16)
    call = torch.ops.jca_fast.tanh_attention.cuda
    threads = [threading.Thread(target=call, args=(q, k, v, 1.0, 0.0, None)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    call(q, k, v, 1.0, 0.0, None)
    recorded = driver.launches()
    assert len(recorded) == 4
    assert len({x.context for x in recorded}) == 1
    assert recorded[0].context
    assert ctypes.c_int.in_dll(driver.library, "stub_modules").value <= len(TIERS)


def test_what_the_driver_refuses_is_an_error_that_says_why(driver):
    _, q, k, v = operands(torch.float32)
    driver.fail(700)
    try:
        with pytest.raises(RuntimeError, match="cuLaunchKernel: an illegal memory access"):
            torch.ops.jca_fast.tanh_attention.cuda(q, k, v, 1.0, 0.0, None)
    finally:
        driver.fail(0)


WRONG = {
    "k must have shape (3, *, 10), got (3, 10, 50)": lambda q, k, v: (q, k.mT, v),
    "v must have shape (3, 50, *), got (2, 50, 9)": lambda q, k, v: (q, k, v.expand(2, 50, 9)),
    "v must have the dtype of q": lambda q, k, v: (q, k, v.double()),
    "q must have shape (*, *, *), got (70, 10)": lambda q, k, v: (q[0], k, v),
    "q must be float32, bfloat16 or float16": lambda q, k, v: (q.long(), k.long(), v.long()),
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_direct_call_is_refused_before_it_launches(driver, text):
    call = torch.ops.jca_fast.tanh_attention.cuda
    q, k, v = WRONG[text](*operands(torch.float32)[1:])
    with pytest.raises(RuntimeError) as raised:
        call(q, k, v, 1.0, 0.0, None)
    assert text in str(raised.value)
    assert not driver.launches()


def test_a_wrong_direct_call_names_the_arguments_of_its_op(driver):
    query, key, value = (torch.zeros(2, 10, d) for d in (40, 35, 36))
    with pytest.raises(
        RuntimeError, match=r"value must have shape \(2, 10, 35\), got \(2, 10, 36\)"
    ):
        torch.ops.jca_fast.released_attention.cuda(query, key, value, 1.0, 0.0, None)
    with pytest.raises(RuntimeError, match="key must have the dtype of query"):
        torch.ops.jca_fast.released_attention.cuda(query, key.half(), value, 1.0, 0.0, None)
    assert not driver.launches()


@pytest.mark.parametrize(
    ("p", "seed", "text"),
    [
        (1.5, SEED, "dropout_p must be a probability between 0 and 1, got 1.5"),
        (0.5, SEED.int(), "seed must be one int64 number"),
        (0.5, SEED.expand(2), "seed must be one int64 number"),
    ],
)
def test_a_wrong_dropout_is_refused(driver, p, seed, text):
    with pytest.raises(RuntimeError, match=text):
        torch.ops.jca_fast.tanh_attention.cuda(*operands(torch.float32)[1:], 1.0, p, seed)


def test_the_row_stands_before_triton_and_offers_only_its_ops():
    """Its launches cost the host least, so that "auto" takes it where both are trusted."""
    names = backends.names()
    assert names.index("cuda") < names.index("triton")
    t = torch.zeros(1, 1, 1)
    assert backends.choose("tanh_attention", "auto", (t, t, t)) != "cuda"
    with pytest.raises(RuntimeError, match="'cuda' cannot run tanh_attention: it runs on CUDA"):
        backends.choose("tanh_attention", "cuda", (t, t, t))
    with pytest.raises(RuntimeError, match="'cuda' has no kernel for tanh_dropout"):
        overload("tanh_dropout", "cuda")(t, 1.0, 0.0, None)


@pytest.mark.skipif(not native.library_path().is_file(), reason="the CUDA library is not built")
def test_the_library_loads_without_a_driver_and_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is a driver")
    code = (
        "import ctypes, sys; library = ctypes.CDLL(sys.argv[1])\n"
        "library.jca_cuda_problem.restype = ctypes.c_char_p\n"
        "print(library.jca_cuda_problem().decode(), library.jca_cuda_launch(None, 0, None))"
    )
    path = str(native.library_path())
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.stdout.startswith("no CUDA driver is installed")
    no_driver = 7  # jca_cuda_status
    assert done.stdout.split()[-1] == str(no_driver)


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
@pytest.mark.parametrize("version", [None, native.ABI_VERSION + 1])
def test_a_stale_library_is_named_with_the_way_to_build_it_again(monkeypatch, tmp_path, version):
    """The libraries of the first days had no version."""
    from jca_fast.kernels import cuda

    path = tmp_path / "libjca_cuda.so"
    source = f"int jca_cuda_abi_version(void) {{ return {version}; }}" if version else ""
    command = ["cc", "-shared", "-x", "c", "-", "-o", str(path)]
    subprocess.run(command, input=source, text=True, check=True)
    monkeypatch.setattr(native, "library_path", lambda: path)
    monkeypatch.setattr(native, "load", functools.cache(native.load.__wrapped__))
    expected = (
        f"the library libjca_cuda.so has ABI version {version or 0}, this package needs "
        f"{native.ABI_VERSION} (pip install -e . with nvcc builds it again)"
    )
    assert native.problem.__wrapped__() == cuda.describe() == expected
    with pytest.raises(RuntimeError, match="ABI version"):
        native.library()


def test_the_version_of_the_library_is_that_of_its_header():
    header = (Path(__file__).parents[1] / "kernels/cuda/plan.h").read_text()
    assert f"#define JCA_CUDA_ABI_VERSION {native.ABI_VERSION}\n" in header


def test_a_machine_that_cannot_run_it_says_why():
    if torch.cuda.is_available():
        pytest.skip("there is a device")
    from jca_fast.kernels import cuda

    assert cuda.problem()
    assert "nvcc" in cuda.describe()


@pytest.mark.parametrize("op", host_time.MEASURED)
def test_the_host_time_of_a_call_can_be_measured(driver, op):
    """``python -m tests.ptx.host_time``; a time is that beyond an op that does nothing."""
    times = host_time.measure(["cuda"], [op], rounds=2, calls=2)
    assert {way for _, _, way in times} == {op, f"{op}_backward"}
    assert len(driver.launches()) >= 2 * len(times)
