"""The native CPU kernels: every instruction set, the tanh itself, tails, threads, memory, errors.

test_tanh_attention.py, test_layer_ops.py and test_contract.py check the values and gradients of
each op on the default instruction set, together with the other backends.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numerics import assert_as_good_as_torch, assert_bitwise, value_and_grads
from op_calls import as_function
from torch.utils._pytree import tree_map_only

from jca_fast.functional import tanh_attention, visual_reduction
from jca_fast.ops import library, reference
from jca_fast.ops.backends.parity import QUICK, Case, arguments, tensors_of, with_kernels
from jca_fast.ops.dropout import keep_mask, keep_scale

cpu = pytest.importorskip("jca_fast.kernels.cpu")
native = pytest.importorskip("jca_fast.kernels.cpu.native")
if cpu.problem():
    pytest.skip(cpu.problem(), allow_module_level=True)

LIBRARY = native.library()
REGISTERED = torch.ops.jca_fast
LEVELS = LIBRARY.jca_isa_available().decode().split(",")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@contextmanager
def level(name: str):
    """Every kernel of this process on one instruction set."""
    before = LIBRARY.jca_isa_name()
    assert LIBRARY.jca_isa_select(name.encode()) == 0
    try:
        yield
    finally:
        LIBRARY.jca_isa_select(before)


@contextmanager
def threads(count: int):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def qkv(batch, m, length, n, d, shared=False, dtype=torch.float32, transposed=True):
    shapes = ((batch, m, n), (batch, length, n), (1 if shared else batch, length, d))
    tensors = [torch.randn(b, c, r) if transposed else torch.randn(b, r, c) for b, r, c in shapes]
    return [(t.mT if transposed else t).to(dtype) for t in tensors]


def layer(batch, n, dims, k, dtype=torch.float32):
    shapes = {"w_j": (n, n), "w_x": (k, n), "w_c": (k, sum(dims)), "w_h": (k, n)}
    weights = [[torch.randn(s).to(dtype) * 0.2 for _ in dims] for s in shapes.values()]
    return [torch.randn(batch, n, d).to(dtype) for d in dims], weights


CASES = {case.op: case for case in with_kernels(QUICK, cpu)} | {
    "tanh_attention": Case("tanh_attention", (2, 70, 141, 7, 13, 0)),
    "tanh_attention_shared": Case("tanh_attention", (19, 33, 35, 10, 6, 1)),
    "visual_reduction": Case("visual_reduction", (6, 9, 45)),
}
"""Every op that has a kernel, with sizes that leave tails in every direction."""


def call_of(name, dtype, dropout_p, seed=None, batch=None):
    """An op as a function of its tensors, and the tensors."""
    case = CASES[name]
    sizes = case.sizes if batch is None else (batch, *case.sizes[1:])
    case = case._replace(sizes=sizes, dropout=dropout_p)
    args, _ = arguments(case, tensors_of(case, dtype))
    given = lambda t: t if t.is_floating_point() else seed  # noqa: E731
    return as_function(case.op, tree_map_only(torch.Tensor, given, args))


@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("isa", LEVELS)
def test_every_instruction_set_is_as_good_as_plain_torch(isa, name, dtype, dropout_p):
    function, inputs = call_of(name, dtype, dropout_p, torch.tensor(-(2**61) + 5))
    exact = [t.double() for t in inputs]
    grad = torch.randn_like(function(*exact, backend="reference")).to(dtype).double()
    oracle = value_and_grads(lambda *t: function(*t, backend="reference"), exact, grad)
    theirs = value_and_grads(lambda *t: function(*t, backend="reference"), inputs, grad)
    with level(isa):
        ours = value_and_grads(lambda *t: function(*t, backend="cpu"), inputs, grad)
    assert_as_good_as_torch(["out"], ours[:1], theirs[:1], oracle[:1], factor=2)
    names = [f"gradient {i}" for i in range(len(inputs))]
    assert_as_good_as_torch(names, ours[1:], theirs[1:], oracle[1:], factor=3)


def tanh_of(y: torch.Tensor) -> torch.Tensor:
    """The kernels' tanh of each number: a 1 x 1 affinity matrix for every one."""
    one = torch.ones(1, 1, 1, dtype=y.dtype)
    return REGISTERED.joint_affinity.cpu(y.reshape(1, -1, 1), one, 1.0).reshape(y.shape)


@pytest.mark.parametrize("isa", LEVELS)
def test_tanh_is_relatively_accurate_everywhere(isa):
    y = torch.cat(
        [
            torch.logspace(-30, 1.2, 200_001, dtype=torch.float64),
            torch.linspace(0.2, 12, 100_001).double(),
        ]
    )
    y = torch.cat([y, -y]).float()
    exact = torch.tanh(y.double())
    with level(isa):
        relative = ((tanh_of(y).double() - exact) / exact).abs()
        double = tanh_of(y.double())
    for low, high in ((0, 1e-4), (1e-4, 1e-3), (1e-3, 0.1), (0.1, 0.6), (0.6, 2), (2, 100)):
        inside = (y.abs() >= low) & (y.abs() < high)
        assert relative[inside].max() < 4e-7, (low, high)
    np.testing.assert_allclose(double.numpy(), np.tanh(y.double().numpy()), rtol=2e-15, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("isa", LEVELS)
def test_tanh_of_special_numbers(isa, dtype):
    inf = float("inf")
    y = torch.tensor([0.0, inf, -inf, 50.0, -50.0, float("nan"), 3e4, -3e4], dtype=dtype)
    with level(isa):
        got = tanh_of(y)
    assert got[:5].tolist() == [0, 1, -1, 1, -1]
    assert got[5].isnan()
    assert got[6:].tolist() == [1, -1]


@pytest.mark.parametrize("isa", LEVELS)
def test_nan_and_infinity_stay_in_their_rows(isa):
    q, k, v = qkv(1, 70, 45, 7, 5)
    q[0, 3] = float("nan")
    q[0, 66, 2] = float("inf")
    q[0, 9, 0] = -float("inf")
    with level(isa):
        ours = tanh_attention(q, k, v, 0.3, backend="cpu")
        grads = REGISTERED.tanh_attention_backward.cpu(
            torch.ones(1, 70, 5), q, k, v, 0.3, 0.0, None
        )
    plain = reference.tanh_attention(q, k, v, 0.3, 0.0, None)
    assert torch.equal(ours.isnan(), plain.isnan())
    torch.testing.assert_close(ours, plain, equal_nan=True, rtol=1e-4, atol=1e-4)
    expected = reference.tanh_attention_backward(torch.ones(1, 70, 5), q, k, v, 0.3, 0.0, None)
    for mine, theirs in zip(grads, expected, strict=True):
        assert torch.equal(mine.isnan(), theirs.isnan())


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_mask_is_the_reference_mask_bit_for_bit(isa, dtype):
    """v is the identity and every score saturates, so the output is the mask itself."""
    batch = 3
    m = 70
    length = 101
    q, k = (
        torch.full((batch, m, 1), 9.0, dtype=dtype),
        torch.full((batch, length, 1), 9.0, dtype=dtype),
    )
    v = torch.eye(length, dtype=dtype)[None]
    for seed, p in ((0, 0.3), (-1, 0.5), (2**63 - 1, 0.999), (123456789012345, 1e-4)):
        with level(isa):
            got = REGISTERED.tanh_attention.cpu(q, k, v, 1.0, p, torch.tensor(seed))
        mask = keep_mask(torch.tensor(seed), p, batch, m, length)
        assert torch.equal(got != 0, mask)
        torch.testing.assert_close(got[mask], torch.full_like(got[mask], keep_scale(p)))


@pytest.mark.parametrize("isa", LEVELS)
def test_the_backward_regenerates_the_mask(isa):
    """With c = 0 and v = 1, dq is the mask times k."""
    batch = 2
    m = 37
    length = 141
    p = 0.3
    seed = torch.tensor(17)
    q = torch.zeros(batch, m, 1)
    k = torch.randn(batch, length, 1)
    v = torch.ones(1, length, 1)
    with level(isa):
        dq, _, _ = REGISTERED.tanh_attention_backward.cpu(
            torch.ones(batch, m, 1), q, k, v, 1.0, p, seed
        )
    kept = keep_mask(seed, p, batch, m, length).double() * keep_scale(p)
    torch.testing.assert_close(dq.double(), kept @ k.double(), rtol=1e-5, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(*(st.integers(1, n) for n in (4, 140, 140, 20, 20))),
    shared=st.booleans(),
    transposed=st.booleans(),
    dropout_p=st.sampled_from([0.0, 0.4]),
    isa=st.sampled_from(LEVELS),
)
def test_any_size(sizes, shared, transposed, dropout_p, isa):
    q, k, v = qkv(*sizes, shared, transposed=transposed)
    grad = torch.randn(sizes[0], sizes[1], sizes[4])
    seed = torch.tensor(3) if dropout_p else None
    with level(isa):
        ours = value_and_grads(
            lambda *t: tanh_attention(*t, 0.3, dropout_p=dropout_p, seed=seed), (q, k, v), grad
        )
    exact = [t.double() for t in (q, k, v)]
    oracle = value_and_grads(
        lambda *t: reference.tanh_attention(*t, 0.3, dropout_p, seed), exact, grad
    )
    for mine, theirs in zip(ours, oracle, strict=True):
        torch.testing.assert_close(
            mine.double(), theirs, rtol=2e-5, atol=2e-5 * theirs.abs().max().item()
        )


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(0, 19),
    n=st.integers(1, 12),
    dims=st.lists(st.integers(1, 140), min_size=2, max_size=9),
    k=st.integers(1, 12),
)
def test_any_layer(batch, n, dims, k):
    inputs, weights = layer(batch, n, dims, k, torch.float64)
    args = (inputs, [], *weights, [0.2] * len(dims), 0.0, None)
    outs = REGISTERED.joint_coattention.cpu(*args, True)
    expected = reference.joint_coattention(*args, True)
    for mine, theirs in zip(outs, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    grads = [torch.randn_like(x) for x in inputs]
    maps = expected[len(dims) :]
    ours = REGISTERED.joint_coattention_backward.cpu(grads, maps, *args)
    for mine, theirs in zip(
        ours, reference.joint_coattention_backward(grads, maps, *args), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("regions_need_grad", [True, False])
@pytest.mark.parametrize("shape", [(5, 49, 512), (3, 1, 1), (2, 8, 257), (9, 50, 19)])
def test_visual_reduction_reads_any_strides(shape, regions_need_grad):
    samples, regions, width = shape
    count = 2 if regions_need_grad else 1
    for stored in (
        torch.randn(samples, width, regions).mT,
        torch.randn(samples, regions, width + 3)[..., 1:-2],
    ):
        inputs, grad = (torch.randn(width, samples).mT, stored), stored[:, 0]
        exact = [t.double() for t in inputs]
        oracle = value_and_grads(lambda q, r: reference.visual_reduction(q, r, 0.2)[0], exact, grad)
        plain = value_and_grads(lambda q, r: reference.visual_reduction(q, r, 0.2)[0], inputs, grad)
        leaves = [
            inputs[0].clone().requires_grad_(),
            stored.detach().requires_grad_(regions_need_grad),
        ]
        out = visual_reduction(*leaves, 0.2, backend="cpu")
        grads = torch.autograd.grad(out, leaves[:count], grad)
        torch.testing.assert_close(out.double(), oracle[0], rtol=1e-5, atol=1e-5)
        assert_as_good_as_torch(("out",), [out.detach()], plain[:1], oracle[:1], 2)
        assert_as_good_as_torch(
            ("dq", "dk")[:count], grads, plain[1 : count + 1], oracle[1 : count + 1], 3
        )
        if regions_need_grad:
            torch.testing.assert_close(grads[1].double(), oracle[2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [1, None], ids=["one", "several"])
@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
@pytest.mark.parametrize("name", CASES)
def test_any_number_of_threads_gives_the_same_bits(name, dropout_p, batch):
    function, inputs = call_of(name, torch.float32, dropout_p, torch.tensor(5), batch)
    grad = torch.randn_like(function(*inputs, backend="cpu"))
    results = []
    for count in (1, 2, 3, 4, 8):
        with threads(count):
            results.append(value_and_grads(lambda *t: function(*t, backend="cpu"), inputs, grad))
    for result in results[1:]:
        assert_bitwise(results[0], result)


def test_calls_from_several_python_threads_give_the_same_bits():
    calls = [
        as_function(case.op, arguments(case, tensors_of(case, torch.float32))[0]) for case in QUICK
    ]
    jobs = [partial(function, *inputs, backend="cpu") for function, inputs in calls]
    expected = [job() for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert_bitwise(list(pool.map(lambda job: job(), jobs)), expected)


def test_the_forward_does_not_depend_on_how_a_batch_is_split():
    q, k, v = qkv(5, 70, 141, 7, 13, shared=True)
    parts = [attention_of(q[i:j], k[i:j], v) for i, j in ((0, 1), (1, 5))]
    assert_bitwise([torch.cat(parts)], [attention_of(q, k, v)])


def attention_of(q, k, v):
    return tanh_attention(q, k, v, 0.3, backend="cpu")


EVERY_RESULT = """
import hashlib, sys, torch
from test_cpu_kernels import CASES, DTYPES, call_of, value_and_grads
torch.manual_seed(0)
digest = hashlib.sha256()
for dtype in DTYPES:
    for dropout_p in (0.0, 0.3):
        for name in CASES:
            function, inputs = call_of(name, dtype, dropout_p, torch.tensor(5))
            grad = torch.randn_like(function(*inputs, backend="cpu"))
            for t in value_and_grads(lambda *t: function(*t, backend="cpu"), inputs, grad):
                digest.update(t.double().contiguous().numpy().tobytes())
print(digest.hexdigest())
"""


def test_no_result_depends_on_what_was_in_memory():
    """glibc fills fresh memory with a chosen byte, which must not affect any result."""
    seen = set()
    for byte in ("1", "170"):
        memory = environment(MALLOC_PERTURB_=byte, MALLOC_MMAP_THRESHOLD_=str(2**30))
        memory["PYTHONPATH"] = os.pathsep.join(sys.path)
        code = [sys.executable, "-c", EVERY_RESULT]
        done = subprocess.run(code, capture_output=True, text=True, check=True, env=memory)
        seen.add(done.stdout)
    assert len(seen) == 1


PEAK = """
import pathlib, torch
from jca_fast.functional import tanh_attention
torch.set_num_threads(2)
q, k, v = torch.randn(2, 4, 6000), torch.randn(2, 4, 6000), torch.randn(1, 3, 6000)
leaves = [t.mT.requires_grad_() for t in (q, k, v)]
small = [t[:, :64].detach().requires_grad_() for t in leaves]
for seed in (None, 7):
    tanh_attention(*small, 0.1, dropout_p=0.3 if seed else 0.0, seed=seed).sum().backward()
def peak():  # of this process; getrusage would start with the peak of the parent that forked it
    return int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
before = peak()
for seed in (None, 7):
    tanh_attention(*leaves, 0.1, dropout_p=0.3 if seed else 0.0, seed=seed).sum().backward()
print(peak() - before)
"""


def test_memory_does_not_grow_as_rows_times_columns():
    """Two 6,000 x 6,000 affinity matrices are 275 MiB; both passes with dropout need a few."""
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 30


def test_status_codes_become_messages():
    block = ctypes.create_string_buffer(512)
    status = LIBRARY.jca_tanh_attention_forward(block)
    words = LIBRARY.jca_status_string(status)
    assert words == b"argument block of another version of the library"
    assert LIBRARY.jca_isa_select(b"no such level") != 0
    assert LIBRARY.jca_status_string(12345) == b"unknown status"


def test_every_native_kernel_belongs_to_a_registered_op_and_has_its_backward():
    names = native.op_names()
    assert names <= set(library.SCHEMAS)
    assert names == {name for op in library.OPS if op in names for name in (op, f"{op}_backward")}
    with pytest.raises(AttributeError, match="has no attribute 'no_such_op'"):
        cpu.no_such_op  # noqa: B018


def test_the_first_call_of_a_process_may_be_to_the_registered_op():
    """The library is not loaded yet, and its kernel must run from the first call on."""
    code = (
        "import torch, jca_fast.functional; t = torch.ones(1, 2, 3)\n"
        "print(torch.ops.jca_fast.tanh_attention.cpu(t, t, t, 1.0, 0.0, None).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    out = REGISTERED.tanh_attention.cpu(*[torch.ones(1, 2, 3)] * 3, 1.0, 0.0, None)
    assert done.stdout.strip() == str(out.tolist())


def test_the_reference_serves_where_pytorch_lacks_a_function_of_the_shim():
    """libc stands in for a PyTorch without the stable C shim."""
    code = (
        "import ctypes.util, pathlib; import jca_fast.kernels.cpu.native as native\n"
        "native.torch_path = lambda: pathlib.Path(ctypes.util.find_library('c'))\n"
        "import torch; from jca_fast.functional import explain, tanh_attention\n"
        "t = torch.ones(1, 2, 3); print(explain(t, t, t)); tanh_attention(t, t, t, 1.0)\n"
        "try: torch.ops.jca_fast.tanh_attention.cpu(t, t, t, 1.0, 0.0, None)\n"
        "except RuntimeError as error: print('direct:', error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    reason = f"need torch >= 2.10, this is {torch.__version__}: PyTorch has no function aoti_torch"
    assert done.stdout.count(reason) == 2
    assert "reference  chosen" in done.stdout


@pytest.mark.parametrize("isa", LEVELS)
def test_the_environment_variable_selects_the_instruction_set(isa):
    code = "import jca_fast.kernels.cpu as c; print(c.describe())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=environment(JCA_FAST_ISA=isa),
    )
    assert done.stdout.startswith(isa + " ")


def test_an_unknown_instruction_set_is_a_stated_reason():
    code = (
        "import torch; from jca_fast.functional import explain, tanh_attention\n"
        "t = torch.ones(1, 2, 3); print(explain(t, t, t)); tanh_attention(t, t, t, 1.0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=environment(JCA_FAST_ISA="v9"),
    )
    assert "JCA_FAST_ISA='v9' is not among" in done.stdout
    assert "reference  chosen" in done.stdout


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, **changes}


def test_threads_come_from_torch():
    """The library must not bring a second pool: no thread is added beside torch's."""
    with threads(2):
        tanh_attention(*qkv(8, 64, 64, 4, 4), 0.3, backend="cpu")
        assert LIBRARY.jca_threads() == 2
    with threads(1):
        assert LIBRARY.jca_threads() == 1
