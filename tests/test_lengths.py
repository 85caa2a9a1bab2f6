"""Clips of different lengths: a padded clip gives what the truly shorter clip gives."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from jca_fast import AVELocalizer, JointCoAttention
from jca_fast.heads import (
    AttentiveStatisticsPooling,
    UtteranceClassifier,
    segment_loss,
    video_scores,
    weak_loss,
)
from jca_fast.modules import (
    JOINT_STRATEGIES,
    ResidualRNN,
    cut_windows,
    join_windows,
    window_lengths,
    window_starts,
)
from jca_fast.training.distributed import Group
from jca_fast.training.inference import predict
from jca_fast.training.objective import Objective

N, LENGTHS = 7, [7, 3, 1, 5]
FORMS = pytest.mark.parametrize("form", ["paper", "released"])


def cut(module, segments):
    """A copy with N segments, its N x N and k x N weights cut to them."""
    short = copy.deepcopy(module)
    for layer in short.layers:
        for name, parameter in layer.named_parameters():
            over = (n for n in parameter.shape if n == module.num_segments)
            if any(over) and not name.startswith(("joint", "value", "output", "W_c")):
                slices = [slice(segments if n == N else None) for n in parameter.shape]
                parameter.data = parameter.data[tuple(slices)].clone()
        layer.num_segments = segments
    short.num_segments = segments
    return short


def padded(*widths, lengths=LENGTHS, fill=torch.nan, dtype=torch.float64):
    """A leaf feature for each width, with ``fill`` after each clip's length."""
    steps = torch.arange(N)
    used = (steps < torch.as_tensor(lengths)[:, None])[..., None]
    made = [torch.randn(len(lengths), N, width, dtype=dtype) for width in widths]
    return [torch.where(used, x, fill).requires_grad_() for x in made]


def fusion(form, joint=None, backend="auto", layers=3):
    module = JointCoAttention(6, 6, N, 4, layers, form, joint, backend=backend)
    for parameter in module.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter)  # biases, which would otherwise reach the padding
    return module.double()


def check_each_clip(run, inputs, lengths=LENGTHS, **tolerances):
    """``run(inputs, lengths)`` against ``run(one clip, cut)``; results and gradients."""
    outs = run(inputs, lengths)
    sum((t * torch.arange(1, N + 1)[:, None]).square().sum() for t in outs).backward()
    for b, length in enumerate(lengths):
        alone = [x.detach()[b : b + 1, :length].requires_grad_() for x in inputs]
        expected = run(alone, None)
        for got, short in zip(outs, expected, strict=True):
            torch.testing.assert_close(got[b : b + 1, :length], short, **tolerances)
            assert not got[b, length:].any()
        weights = torch.arange(1, length + 1)[:, None]
        sum((t * weights).square().sum() for t in expected).backward()
        for x, x_alone in zip(inputs, alone, strict=True):
            torch.testing.assert_close(x.grad[b : b + 1, :length], x_alone.grad, **tolerances)
            assert not x.grad[b, length:].any()


@FORMS
@pytest.mark.parametrize("joint", JOINT_STRATEGIES)
def test_padded_clips_are_the_shorter_clips(form, joint):
    module = fusion(form, joint)

    def run(inputs, lengths):
        if lengths is not None:
            return module(*inputs, lengths=torch.tensor(lengths))
        return cut(module, inputs[0].shape[1])(*inputs)

    check_each_clip(run, padded(6, 6))


@FORMS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_on_every_backend(form, backend, dtype):
    module = fusion(form, backend=backend).to(dtype)
    inputs = padded(6, 6, dtype=dtype)
    outs = module(*inputs, lengths=LENGTHS)
    for b, length in enumerate(LENGTHS):
        alone = (x[b : b + 1, :length] for x in inputs)
        torch.testing.assert_close(
            [x[b : b + 1, :length] for x in outs],
            list(cut(module, length)(*alone)),
            rtol=1e-12 if dtype == torch.float64 else 1e-4,
            atol=1e-12 if dtype == torch.float64 else 1e-4,
        )


@FORMS
def test_zero_padding_alone_is_not_enough(form):
    module, inputs = fusion(form), padded(6, 6, fill=0.0)
    with torch.no_grad():
        bare, right = module(*inputs)[0], module(*inputs, lengths=LENGTHS)[0]
    assert (bare - right)[1, :3].abs().max() > 0.1


@FORMS
def test_parameters_get_the_gradient_of_the_shorter_clips(form):
    module, inputs = fusion(form), padded(6, 6)
    sum(x.square().sum() for x in module(*inputs, lengths=LENGTHS)).backward()
    twin = copy.deepcopy(module)
    twin.zero_grad()
    for b, length in enumerate(LENGTHS):
        alone = (x.detach()[b : b + 1, :length] for x in inputs)
        sum(x.square().sum() for x in twin(*alone)).backward()
    for got, expected in zip(module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(got.grad, expected.grad)


@FORMS
def test_fewer_segments_cut_the_weights(form):
    module = fusion(form)
    for n in range(1, N + 1):
        inputs = [torch.randn(2, n, 6, dtype=torch.float64) for _ in range(2)]
        torch.testing.assert_close(module(*inputs), cut(module, n)(*inputs))


def test_fewer_segments_with_a_called_key():
    module = fusion("released")
    inputs = [torch.randn(2, 4, 6, dtype=torch.float64) for _ in range(2)]
    expected = module(*inputs)
    for layer in module.layers:
        layer.key[0].register_forward_hook(lambda *_: None)
    torch.testing.assert_close(module(*inputs), expected)


@FORMS
def test_padding_anywhere(form):
    """Holes in a clip: the result is that of the remaining segments, concatenated."""
    module = fusion(form)
    mask = torch.tensor([[0, 1, 0, 0, 1, 1, 0], [1, 1, 1, 0, 0, 0, 0]]).bool()
    inputs = [torch.randn(2, N, 6, dtype=torch.float64) for _ in range(2)]
    outs = module(
        *(x.masked_fill(mask[..., None], torch.inf) for x in inputs), key_padding_mask=mask
    )
    by_zero = module(*inputs, key_padding_mask=mask)
    torch.testing.assert_close(outs, by_zero)
    for b in range(2):
        keep = ~mask[b]
        short = copy.deepcopy(module)
        for layer in short.layers:
            for name, p in layer.named_parameters():
                if not name.startswith(("joint", "value", "output", "W_c")):
                    for axis in range(p.ndim):
                        if p.shape[axis] == N:
                            p.data = p.data.index_select(axis, keep.nonzero()[:, 0])
            layer.num_segments = int(keep.sum())
        short.num_segments = int(keep.sum())
        expected = short(*(x[b : b + 1, keep] for x in inputs))
        torch.testing.assert_close([x[b : b + 1, keep] for x in outs], list(expected))
        assert not outs[0][b, mask[b]].any()


@FORMS
def test_maps_and_iterations(form):
    module, inputs = fusion(form), padded(6, 6)
    iterations, maps = module(*inputs, lengths=LENGTHS, return_all=True, return_maps=True)
    b, length = 1, 3
    alone = [x[b : b + 1, :length] for x in inputs]
    layers, short = cut(module, length)(*alone, return_all=True, return_maps=True)
    for got, expected in zip(iterations, layers, strict=True):
        torch.testing.assert_close([x[b : b + 1, :length] for x in got], list(expected))
    for got, expected in zip(maps, short, strict=True):
        for i in (0, 1):
            torch.testing.assert_close(got["C"][i][b : b + 1], expected["C"][i])
            h = got["H"][i][b : b + 1]
            h = h[:, :length] if form == "released" else h
            torch.testing.assert_close(h, expected["H"][i])


@FORMS
def test_every_way_to_say_it(form):
    module, inputs = fusion(form), padded(6, 6)
    expected = module(*inputs, lengths=torch.tensor(LENGTHS))
    mask = torch.arange(N) >= torch.tensor(LENGTHS)[:, None]
    for options in (
        {"lengths": LENGTHS},
        {"lengths": torch.tensor(LENGTHS, dtype=torch.int32)},
        {"key_padding_mask": mask},
    ):
        assert torch.equal(module(*inputs, **options)[0], expected[0])
        by_name = module(audio=inputs[0], visual=inputs[1], **options)
        assert torch.equal(by_name[1], expected[1])
    full = [torch.randn(4, N, 6, dtype=torch.float64) for _ in range(2)]
    torch.testing.assert_close(module(*full, lengths=[N] * 4), module(*full))


@FORMS
def test_an_empty_clip_is_zero(form):
    module, inputs = fusion(form), padded(6, 6, lengths=[0, 7])
    out = module(*inputs, lengths=[0, 7])
    assert not out[0][0].any()
    sum(x.sum() for x in out).backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_three_modalities():
    module = JointCoAttention(dims=(6, 6, 5), num_segments=N, num_layers=2).double()

    def run(inputs, lengths):
        if lengths is not None:
            return module(*inputs, lengths=lengths)
        return module(*inputs)

    check_each_clip(run, padded(6, 6, 5))


@FORMS
def test_dropout_and_compile(form):
    module = fusion(form)
    inputs = [x.detach() for x in padded(6, 6)]
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    lengths = torch.tensor(LENGTHS)
    expected = module(*inputs, lengths=lengths)
    torch.testing.assert_close(compiled(*inputs, lengths=lengths), expected)
    if form == "released":
        return  # the dropout of its update draws a mask over the padding, too
    for layer in module.layers:
        layer.dropout.p = 0.5
    torch.manual_seed(3)
    dropped = module(*inputs, lengths=lengths)
    torch.manual_seed(3)
    alone = module(*(x[:1, :7] for x in inputs))
    torch.testing.assert_close(dropped[0][:1], alone[0])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lengths": [1, 2, 3]}, ValueError, r"lengths must have shape \(4,\), got \(3,\)"),
        ({"lengths": [1, 2, 3, 8]}, ValueError, "lengths must lie between 0 and 7, got"),
        ({"lengths": [1, 2, 3, -1]}, ValueError, "lengths must lie between 0 and 7, got"),
        ({"lengths": [1.0, 2, 3, 4]}, TypeError, "lengths must be integers"),
        ({"lengths": 3}, TypeError, "lengths must be integers .*, got int"),
        ({"lengths": {1, 2, 3, 4}}, TypeError, "lengths must be integers .*, got set"),
        ({"lengths": [None, 2, 3, 4]}, TypeError, "lengths must be integers .*, got list"),
        ({"lengths": torch.ones(4).to(torch.complex128)}, TypeError, "lengths must be integers"),
        ({"key_padding_mask": torch.zeros(4, N)}, TypeError, "must be a bool tensor"),
        (
            {"key_padding_mask": torch.zeros(4, 3).bool()},
            ValueError,
            r"key_padding_mask must have shape \(4, 7\), got \(4, 3\)",
        ),
        (
            {"lengths": [1] * 4, "key_padding_mask": torch.zeros(4, N).bool()},
            ValueError,
            "either lengths or key_padding_mask",
        ),
    ],
)
def test_errors(options, error, message):
    module, inputs = fusion("paper"), padded(6, 6)
    with pytest.raises(error, match=message):
        module(*inputs, **options)


# ---- recurrent blocks, the localizer, heads


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("normalize", [False, True])
def test_recurrent_block(cell, normalize):
    module = ResidualRNN(6, 4, cell=cell, normalize=normalize).double()

    def run(inputs, lengths):
        return (module(*inputs, lengths=lengths),)

    check_each_clip(run, padded(6))
    mask = torch.tensor([[0, 1, 0, 0, 1, 1, 0]]).bool()
    x = torch.randn(1, N, 6, dtype=torch.float64)
    out = module(x.masked_fill(mask[..., None], torch.nan), key_padding_mask=mask)
    torch.testing.assert_close(out[~mask], module(x[:, ~mask[0]])[0])
    assert module(x[:0], lengths=[]).shape == (0, N, 4)
    assert not module(x, lengths=[0]).any()


SMALL = {"audio_features": 10, "region_features": 14, "num_regions": 4, "num_segments": N}
ABLATIONS = [
    {},
    {"modalities": "audio"},
    {"modalities": "visual"},
    {"unimodal_rnn": False},
    {"joint_rnn": False},
    {"cell": "gru"},
    {"pooling": "max"},
    {"normalize": False},
]


@FORMS
@pytest.mark.parametrize("arguments", ABLATIONS, ids=str)
def test_localizer(form, arguments):
    model = AVELocalizer(8, 8, 2, num_classes=5, form=form, **{**SMALL, **arguments})
    model = model.double().eval()
    audio, regions = padded(10, 4 * 14)

    def run(inputs, lengths):
        visual = inputs[1].unflatten(-1, (4, 14))
        unread = sum(x.sum() for x in inputs) * 0 if lengths is None else 0
        scores = model(inputs[0], visual, lengths=lengths)
        logits = model.logits(inputs[0], visual, lengths=lengths)
        extra = [torch.where(x.isnan(), 0, x) * 0 for x in inputs]  # a gradient for an unread input
        return [scores + unread + extra[0][..., :1] + extra[1][..., :1], logits]

    check_each_clip(run, [audio, regions])
    model.zero_grad()
    model.logits(audio, regions.unflatten(-1, (4, 14)), lengths=LENGTHS).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_heads():
    (x,) = padded(6)
    lengths = torch.tensor(LENGTHS)
    classifier = UtteranceClassifier(6, 3).double()
    pooling = AttentiveStatisticsPooling(6, 4).double()
    frames = torch.cat([x.detach()[b, :n] for b, n in enumerate(LENGTHS)])  # (16, 6)
    out, pooled = classifier(x, LENGTHS), pooling(x, lengths)
    (out.sum() + pooled.sum()).backward()
    assert x.grad.isfinite().all()
    assert not x.grad[1, 3:].any()
    batch_norm = pooling.attention[2]
    expected = pooling.attention[1](pooling.attention[0](frames.mT[None]))
    torch.testing.assert_close(batch_norm.running_mean, 0.1 * expected.mean((0, 2)))
    pooling.eval()
    pooled = pooling(x, lengths)
    target = torch.randint(0, 6, (4, N))
    losses, weak = [], []
    for b, n in enumerate(LENGTHS):
        alone = x[b : b + 1, :n]
        torch.testing.assert_close(out[b : b + 1], classifier(alone))
        torch.testing.assert_close(pooled[b : b + 1], pooling(alone))
        losses.append(n * segment_loss(alone, target[b : b + 1, :n]))
        weak.append(weak_loss(alone, target[b : b + 1, 0], "mean"))
        for kind in ("max", "mean"):
            got = video_scores(x, kind, lengths)[b : b + 1]
            torch.testing.assert_close(got, video_scores(alone, kind))
    torch.testing.assert_close(segment_loss(x, target, lengths), sum(losses) / sum(LENGTHS))
    torch.testing.assert_close(weak_loss(x, target[:, 0], "mean", lengths), sum(weak) / 4)


# ---- windows


def test_window_starts():
    assert window_starts(20, 10) == [0, 10]
    assert window_starts(23, 10) == [0, 10, 13]
    assert window_starts(23, 10, 5) == [0, 5, 10, 13]
    assert window_starts(10, 10, 3) == window_starts(4, 10) == [0]
    with pytest.raises(ValueError, match="step must be at most size = 4"):
        window_starts(20, 4, 5)
    with pytest.raises(ValueError, match="size must be an int of at least 1"):
        window_starts(20, 0)


@pytest.mark.parametrize("segments", [1, 4, 10, 11, 20, 23])
@pytest.mark.parametrize("step", [None, 1, 3, 10])
def test_windows_come_together_again(segments, step):
    x = torch.randn(2, segments, 3, dtype=torch.float64)
    windows = cut_windows(x, 10, step)
    assert windows.shape[2:] == (min(10, segments), 3)
    torch.testing.assert_close(join_windows(windows, segments, 10 if step is None else step), x)
    with pytest.raises(ValueError, match="y must have"):
        join_windows(windows[:, :0], segments, step)


def test_windows_of_clips_of_different_lengths():
    lengths = torch.tensor([23, 12, 5])
    counts = window_lengths(lengths, 23, 10, 5)
    assert counts.tolist() == [[10, 10, 10, 10], [10, 7, 2, 0], [5, 0, 0, 0]]
    fusion = JointCoAttention(6, 6, 10, num_layers=1).double()
    features = [torch.randn(3, 23, 6, dtype=torch.float64) for _ in range(2)]
    windows = [cut_windows(x, 10, 5).flatten(0, 1) for x in features]
    audio, _ = fusion(*windows, lengths=counts.flatten())
    joined = join_windows(audio.unflatten(0, (3, 4)), 23, 5)
    assert not joined[2, 5:].any()
    alone, _ = fusion(*(x[2:, :5] for x in features))
    torch.testing.assert_close(joined[2:, :5], alone)


def test_a_long_clip_says_how():
    with pytest.raises(ValueError, match="cut_windows cuts longer clips"):
        fusion("paper")(*(torch.zeros(1, N + 1, 6).double() for _ in range(2)))


# ---- training


@pytest.mark.parametrize("loss", ["softmargin", "softmargin_logits", "cross_entropy"])
@pytest.mark.parametrize("weak", [False, True], ids=["segments", "clips"])
def test_the_loss_leaves_the_padding_out(loss, weak):
    model = AVELocalizer(8, 8, 1, num_classes=5, **SMALL).double().eval()
    objective = Objective(model, loss)
    audio, regions = (x.detach() for x in padded(10, 4 * 14))
    visual = regions.unflatten(-1, (4, 14))
    classes = torch.randint(0, 5, (4,) if weak else (4, N))
    labels = nn.functional.one_hot(classes, 5).double()
    got, predicted = objective(audio, visual, labels, torch.tensor(LENGTHS))
    got.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    total, weights = 0.0, 0
    for b, n in enumerate(LENGTHS):
        label = labels[b : b + 1] if weak else labels[b : b + 1, :n]
        one, classes = objective(audio[b : b + 1, :n], visual[b : b + 1, :n], label)
        assert torch.equal(predicted[b : b + 1, ...] if weak else predicted[b : b + 1, :n], classes)
        weight = 1 if weak else n
        total, weights = total + weight * one, weights + weight
    torch.testing.assert_close(got, total / weights)


def test_prediction_reads_the_clips_without_their_padding():
    model = AVELocalizer(8, 8, 1, num_classes=5, **SMALL).eval()
    audio, regions = (x.detach() for x in padded(10, 4 * 14, dtype=torch.float32))
    visual = regions.unflatten(-1, (4, 14))
    clips = torch.utils.data.TensorDataset(audio, visual)
    group = Group(torch.device("cpu"))
    found = predict(Objective(model), clips, group, batch_size=3, lengths=LENGTHS)
    for b, n in enumerate(LENGTHS):
        alone = torch.utils.data.TensorDataset(audio[b : b + 1, :n], visual[b : b + 1, :n])
        torch.testing.assert_close(found[b : b + 1, :n], predict(Objective(model), alone, group))
