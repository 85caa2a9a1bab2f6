"""Exported programs choose their backend where they run, and run without Python."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.export.passes import move_to_device_pass

from jca_fast import AVELocalizer, JointCoAttention
from jca_fast.ops import library

FORMS = pytest.mark.parametrize("form", ["paper", "released"])


def fusion(form, **kwargs):
    features = torch.randn(2, 5, 6), torch.randn(2, 5, 4)
    return JointCoAttention(6, 4, 5, 3, 2, form, **kwargs).eval(), features


def targets(program):
    """The library's ops in a graph."""
    names = (str(node.target) for node in program.graph.nodes if node.op == "call_function")
    return {name for name in names if name.startswith("jca_fast")}


def ran(recorded, op, backend, call):
    """The result of ``call``, and whether it ran the registered ``op`` of ``backend``."""
    recorded.clear()
    return call(), (op, backend) in recorded


@pytest.fixture
def recorded(monkeypatch):
    """The (op, backend) of every choice that "auto" makes."""
    found = []
    choose = library.choose

    def spy(op, requested, tensors):
        found.append((op, choose(op, requested, tensors)))
        return found[-1][1]

    monkeypatch.setattr(library, "choose", spy)
    return found


@FORMS
@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_program_names_no_backend(form, strict):
    module, inputs = fusion(form)
    program = torch.export.export(module, inputs, strict=strict)
    op = "joint_coattention" if form == "paper" else "released_attention"
    assert targets(program) == {f"jca_fast.{op}.auto"}
    assert targets(program.run_decompositions()) == {f"jca_fast.{op}.auto"}
    torch.testing.assert_close(program.module()(*inputs), module(*inputs), rtol=0, atol=0)


def test_a_named_backend_stays_in_the_program():
    module, inputs = fusion("paper", backend="reference")
    program = torch.export.export(module, inputs)
    assert targets(program) == {"jca_fast.joint_coattention.reference"}


@FORMS
def test_the_backend_is_chosen_where_the_program_runs(form, recorded, monkeypatch):
    module, inputs = fusion(form)
    program = torch.export.export(module, inputs).module()
    op = "joint_coattention" if form == "paper" else "released_attention"
    monkeypatch.setenv("JCA_FAST_BACKEND", "reference")
    got, was_reference = ran(recorded, op, "reference", lambda: program(*inputs))
    assert was_reference
    torch.testing.assert_close(got, module(*inputs), rtol=0, atol=0)


@FORMS
def test_a_program_moves_to_another_device(form):
    module, inputs = fusion(form)
    program = move_to_device_pass(torch.export.export(module, inputs), "meta")
    out = program.module()(*(x.to("meta") for x in inputs))
    assert [(x.device.type, x.shape) for x in out] == [("meta", x.shape) for x in inputs]


def test_a_whole_localizer_names_no_backend(tmp_path):
    sizes = {"audio_features": 10, "region_features": 14, "num_regions": 4, "num_segments": 5}
    model = AVELocalizer(8, 12, 2, **sizes).eval()
    inputs = torch.randn(2, 5, 10), torch.randn(2, 5, 4, 14)
    program = torch.export.export(model, inputs)
    assert all(name.endswith(".auto") for name in targets(program))
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    torch.testing.assert_close(loaded(*inputs), model(*inputs), rtol=0, atol=0)


@FORMS
def test_a_loaded_program_trains_as_the_module(form, tmp_path):
    module, inputs = fusion(form)
    torch.export.save(torch.export.export(module, inputs), tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    for twin in (module, loaded):
        sum(x.square().sum() for x in twin(*inputs)).backward()
    gradients = dict(loaded.named_parameters())
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(gradients[name].grad, parameter.grad)


LOAD = """
import sys, torch
if len(sys.argv) > 2: __import__(sys.argv[2])
program = torch.export.load(sys.argv[1]).module()
print(float(sum(x.sum() for x in program(torch.ones(2, 5, 6), torch.ones(2, 5, 4)))))
"""


def test_the_import_that_a_loading_process_needs(tmp_path):
    module, inputs = fusion("paper")
    path = str(tmp_path / "model.pt2")
    torch.export.save(torch.export.export(module, inputs), path)
    ones = torch.ones(2, 5, 6), torch.ones(2, 5, 4)
    expected = float(sum(x.sum() for x in module(*ones)))
    command = [sys.executable, "-c", LOAD, path]
    run = subprocess.run([*command, "jca_fast.functional"], capture_output=True, text=True)
    assert float(run.stdout) == pytest.approx(expected, rel=1e-6), run.stderr
    forgotten = subprocess.run(command, capture_output=True, text=True)
    assert forgotten.returncode != 0
    assert "jca_fast" in forgotten.stderr


def test_the_native_library_defines_the_same_ops():
    """The library's list of schemas is for programs without Python."""
    native = pytest.importorskip("jca_fast.kernels.cpu.native")
    if (loaded := native.load()[0]) is None:
        pytest.skip(native.load()[1])
    import ctypes

    loaded.jca_op_schemas.restype = ctypes.c_char_p
    lines = loaded.jca_op_schemas().decode().splitlines()
    expected = {
        f"{op}.{overload}{schema}"
        for op, schema in library.SCHEMAS.items()
        if op in native.op_names()
        for overload in ("cpu", "auto")
    }
    assert set(lines) == expected
    assert len(lines) == len(expected)


ALONE = """
import ctypes, sys, torch
library = ctypes.CDLL(sys.argv[1])
library.jca_load.restype = ctypes.c_char_p
problem = library.jca_load()
assert problem is None, problem
assert "jca_fast" not in sys.modules
saved = torch.load(sys.argv[2])
torch.save([torch.ops.jca_fast.joint_coattention.auto(*saved[0]),
            torch.ops.jca_fast.joint_coattention.cpu(*saved[0]),
            torch.ops.jca_fast.joint_coattention_backward.auto(*saved[1])], sys.argv[2])
"""


@pytest.mark.parametrize("joints", [0, 2])
def test_the_native_library_serves_a_program_that_has_no_package(joints, tmp_path):
    """As in C++ (examples/cpp, `make cpp`): ops and kernels come from the library alone."""
    from jca_fast.kernels.cpu import native

    if native.load()[0] is None:
        pytest.skip(native.load()[1])
    inputs = [torch.randn(2, 3, 4), torch.randn(2, 3, 5)]
    given = [torch.randn(2, 3, 6) for _ in range(joints)] or None
    weights = [
        [torch.randn(*shape) for _ in inputs]
        for shape in ((3, 3), (2, 3), (2, 6 if joints else 9), (2, 3))
    ]
    layer = (inputs, given, *weights, [0.3, 0.4], 0.2, torch.tensor(7))
    maps = [torch.rand(2, 2, x.shape[2]) for x in inputs]
    calls = ((*layer, True, False), (inputs, maps, *layer, False))
    torch.save(calls, path := str(tmp_path / "calls.pt"))
    command = [sys.executable, "-c", ALONE, str(native.library_path()), path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ops = torch.ops.jca_fast
    forward = ops.joint_coattention.cpu(*calls[0])
    expected = [forward, forward, ops.joint_coattention_backward.cpu(*calls[1])]
    torch.testing.assert_close(torch.load(path), expected, rtol=0, atol=0)


def test_none_is_an_empty_list_of_joints(backend):
    """PyTorch's ahead-of-time compiler passes it so, to whatever backend the program names."""
    inputs = [torch.randn(2, 3, 4), torch.randn(2, 3, 5)]
    weights = [
        [torch.randn(*shape, requires_grad=True) for _ in inputs]
        for shape in ((3, 3), (2, 3), (2, 9), (2, 3))
    ]
    rest = (*weights, [0.3, 0.4], 0.0, None, True)
    flat = [w for group in weights for w in group]
    results = []
    for overload, joints in ((backend, []), (backend, None), ("auto", None)):
        op = library.overload("joint_coattention", overload)
        with torch.inference_mode():
            plain = op(inputs, joints, *rest)
        out = op(inputs, joints, *rest)
        torch.testing.assert_close(out, plain, rtol=0, atol=0)
        results.append([out, torch.autograd.grad(sum(x.sum() for x in out[:2]), flat)])
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)
    torch.testing.assert_close(results[2], results[0])
