"""The Triton backend on a GPU only: graphs, streams, devices, and the self-check of "auto"."""

from __future__ import annotations

import time
from functools import partial

import pytest
import test_contract as contract
import torch
from numerics import assert_bitwise
from triton_device import DEVICE, on_device  # noqa: F401

from jca_fast.functional import tanh_attention
from jca_fast.ops import backends
from jca_fast.ops.backends import parity, trust
from jca_fast.ops.tiers import TIERS, precision

if DEVICE == "cpu":
    pytest.skip(
        "graphs, streams and devices need a GPU; these kernels are interpreted",
        allow_module_level=True,
    )

pytestmark = pytest.mark.usefixtures("on_device")
NAMES = contract.NAMES
TABLE = backends.BACKENDS


def step(name):
    """Inputs of an op, and a call that returns its outputs and the gradients of these inputs."""
    function, inputs = contract.cases(torch.float32)[name]
    function = partial(
        function, backend="triton", **({"seed": torch.tensor(9)} if "dropout" in name else {})
    )

    def call():
        outputs = function(*inputs)
        outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
        return [
            *outputs,
            *torch.autograd.grad(outputs, inputs, [torch.ones_like(y) for y in outputs]),
        ]

    return inputs, call


@pytest.fixture
def side():
    """A stream that has waited for all work so far."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    return stream


@pytest.mark.parametrize("name", NAMES)
def test_a_replayed_graph_gives_the_bits_of_eager_calls(name, side):
    inputs, call = step(name)
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    for factor in (1.0, -0.5):  # the second time with other numbers
        with torch.no_grad():
            for t in inputs:
                t.mul_(factor)
        expected = call()
        graph.replay()
        assert_bitwise(captured, expected)


def test_each_replay_draws_a_new_mask():
    q, k, v = (t.detach() for t in contract.cases(torch.float32)["tanh_attention"][1])
    call = partial(tanh_attention, q, k, v, 0.4, dropout_p=0.5, backend="triton")
    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call()
    masks = []
    for _ in range(2):
        graph.replay()
        masks.append(out.clone())
    assert not torch.equal(*masks)


@pytest.mark.parametrize("name", NAMES)
def test_runs_on_the_current_stream(name, side):
    inputs, call = step(name)
    expected, ready = call(), [t.detach().clone() for t in inputs]
    with torch.no_grad():
        for t in inputs:
            t.fill_(float("nan"))
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(10**8)  # on any other stream the numbers are not there yet
        with torch.no_grad():
            for t, value in zip(inputs, ready, strict=True):
                t.copy_(value)
        got = call()
    torch.cuda.current_stream().wait_stream(side)
    assert_bitwise(got, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_runs_on_the_device_of_its_tensors(name):
    with torch.device("cuda:1"):
        _, call = step(name)
        with torch.cuda.device(1):
            expected = call()
        with torch.cuda.device(0):
            got = call()
    assert_bitwise(got, expected)


@pytest.mark.parametrize("tier", TIERS)
def test_auto_checks_the_device_once_and_in_two_seconds(monkeypatch, tmp_path, tier):
    runs, run_checks = [], parity.run_checks
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(trust, "VERIFIED", frozenset())
    monkeypatch.setattr(trust, "_DECIDED", {})
    monkeypatch.setattr(backends, "BACKENDS", TABLE)
    monkeypatch.setattr(parity, "run_checks", lambda *args: runs.append(tier) or run_checks(*args))
    with precision(tier) as dtype:
        tensors = [t.detach().to(dtype) for t in contract.cases(torch.float32)["tanh_attention"][1]]
        assert backends.choose("tanh_attention", "auto", tensors) == "triton"  # compiles
        assert backends.choose("tanh_attention", "auto", tensors) == "triton"
        assert runs == [tier]
        trust._DECIDED.clear()
        trust._path().unlink()
        begin = time.perf_counter()
        assert backends.choose("tanh_attention", "auto", tensors) == "triton"
        assert time.perf_counter() - begin < 2
