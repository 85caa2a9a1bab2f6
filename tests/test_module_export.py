"""Modules in ONNX, and exported programs: the numbers of Python."""

from __future__ import annotations

import pytest
import torch

from jca_fast import AVELocalizer, JointCoAttention

FORMS = pytest.mark.parametrize("form", ["paper", "released"])


def fusion(form):
    features = torch.randn(2, 5, 6), torch.randn(2, 5, 4)
    return JointCoAttention(6, 4, 5, 3, 2, form).eval(), features


def localizer(form):
    sizes = {"audio_features": 10, "region_features": 14, "num_regions": 4, "num_segments": 5}
    inputs = torch.randn(2, 5, 10), torch.randn(2, 5, 4, 14)
    return AVELocalizer(8, 12, 2, form=form, **sizes).eval(), inputs


def outputs(result):
    return list(result) if isinstance(result, tuple) else [result]


def onnx_outputs(module, inputs, path, **options):
    """The outputs of the exported model in onnxruntime."""
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    runtime = pytest.importorskip("onnxruntime")
    torch.onnx.export(module, inputs, dynamo=True, verbose=False, **options).save(path)
    session = runtime.InferenceSession(path)
    names = [value.name for value in session.get_inputs()]
    arrays = [x.numpy() for x in (*inputs, *options.get("kwargs", {}).values())]
    return [torch.from_numpy(y) for y in session.run(None, dict(zip(names, arrays, strict=True)))]


@FORMS
@pytest.mark.parametrize("build", [fusion, localizer])
@pytest.mark.filterwarnings("ignore")
def test_onnx(form, build, tmp_path):
    module, inputs = build(form)
    with torch.no_grad():
        expected = outputs(module(*inputs))
    got = onnx_outputs(module, inputs, str(tmp_path / "model.onnx"))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@FORMS
@pytest.mark.filterwarnings("ignore")
def test_onnx_with_lengths(form, tmp_path):
    module, inputs = fusion(form)
    lengths = torch.tensor([3, 5])
    with torch.no_grad():
        expected = list(module(*inputs, lengths=lengths))
    path, named = str(tmp_path / "model.onnx"), {"lengths": lengths}
    got = onnx_outputs(module, inputs, path, kwargs=named)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@FORMS
@pytest.mark.parametrize("build", [fusion, localizer])
def test_exported_with_lengths(form, build):
    module, inputs = build(form)
    lengths = torch.tensor([3, 5])
    with torch.no_grad():
        program = torch.export.export(module, inputs, {"lengths": lengths}).module()
        torch.testing.assert_close(
            program(*inputs, lengths=lengths - 1), module(*inputs, lengths=lengths - 1)
        )


@FORMS
def test_exported_with_lengths_for_any_batch(form):
    module, _ = fusion(form)
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    features = torch.randn(2, 5, 6), torch.randn(2, 5, 4)
    shapes = {"inputs": (batch, batch), "lengths": batch}
    lengths = {"lengths": torch.tensor([3, 5])}
    program = torch.export.export(module, features, lengths, dynamic_shapes=shapes).module()
    wider = torch.randn(4, 5, 6), torch.randn(4, 5, 4)
    lengths = {"lengths": torch.tensor([3, 0, 1, 5])}
    torch.testing.assert_close(program(*wider, **lengths), module(*wider, **lengths))


@FORMS
@pytest.mark.parametrize("build", [fusion, localizer])
@pytest.mark.filterwarnings("ignore")
def test_traced_with_gradients(form, build, tmp_path):
    """Traced with grad on, saved and loaded: results and gradients of every parameter."""
    module, inputs = build(form)
    torch.jit.trace(module, inputs).save(str(tmp_path / "traced.pt"))
    traced = torch.jit.load(str(tmp_path / "traced.pt"))
    results = []
    for run in (module, traced):
        out = outputs(run(*inputs))
        sum(x.square().sum() for x in out).backward()
        results.append([out, {n: p.grad for n, p in run.named_parameters()}])
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_localizer_traced_with_lengths(tmp_path):
    """By name or by position, for other lengths and, without Python, from a file."""
    module, (audio, visual) = localizer("paper")
    lengths = torch.tensor([3, 5])
    named = {"audio": audio, "visual": visual, "lengths": lengths}
    torch.jit.trace(module, example_kwarg_inputs=named).save(str(tmp_path / "traced.pt"))
    traced = torch.jit.load(str(tmp_path / "traced.pt"))
    others = torch.tensor([4, 0])
    expected = module(audio, visual, lengths=others)
    torch.testing.assert_close(traced(audio, visual, others), expected)
    torch.testing.assert_close(traced(audio=audio, visual=visual, lengths=others), expected)


def test_a_replaced_recurrent_network_is_not_exported_with_lengths():
    module, inputs = localizer("paper")
    module.audio_network.rnn.register_forward_hook(lambda *_: None)
    lengths = {"lengths": torch.tensor([3, 5])}
    with pytest.raises(RuntimeError, match=r"rnn must be an nn\.LSTM without hooks"):
        torch.export.export(module, inputs, lengths)


@FORMS
@pytest.mark.filterwarnings("ignore")
def test_tensorboard_draws_the_graph(form, tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    module, inputs = localizer(form)
    with tensorboard.SummaryWriter(str(tmp_path)) as writer:
        writer.add_graph(module, inputs)
    assert any(tmp_path.iterdir())
