"""Heads, losses and metrics on top of the fused features, against written-out definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from jca_fast.heads import (
    AdditiveAngularMargin,
    AttentiveStatisticsPooling,
    UtteranceClassifier,
    ccc_loss,
    concordance,
    equal_error_rate,
    min_dcf,
    segment_loss,
    video_scores,
    weak_loss,
)


def test_segment_loss_takes_classes_one_hot_and_soft_labels():
    logits = torch.randn(3, 5, 4)
    classes = torch.randint(0, 4, (3, 5))
    expected = -torch.log_softmax(logits, -1).gather(-1, classes[..., None]).mean()
    torch.testing.assert_close(segment_loss(logits, classes), expected)
    torch.testing.assert_close(segment_loss(logits, F.one_hot(classes, 4)), expected)
    soft = torch.softmax(torch.randn(3, 5, 4), -1)
    torch.testing.assert_close(
        segment_loss(logits, soft), -(soft * torch.log_softmax(logits, -1)).sum(-1).mean()
    )
    with pytest.raises(
        ValueError, match=r"target must have shape \(3, 5\) or \(3, 5, 4\), got \(3,\)"
    ):
        segment_loss(logits, classes[:, 0])


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_weak_loss_is_cross_entropy_of_the_pooled_scores(pooling):
    logits = torch.randn(3, 5, 4)
    scores = logits.max(dim=1).values if pooling == "max" else logits.sum(dim=1) / 5
    torch.testing.assert_close(video_scores(logits, pooling), scores)
    classes = torch.tensor([0, 3, 1])
    torch.testing.assert_close(
        weak_loss(logits, classes, pooling), F.cross_entropy(scores, classes)
    )
    torch.testing.assert_close(
        weak_loss(logits, F.one_hot(classes, 4), pooling), F.cross_entropy(scores, classes)
    )
    with pytest.raises(
        ValueError, match=r"target must have shape \(3,\) or \(3, 4\), got \(3, 5\)"
    ):
        weak_loss(logits, torch.zeros(3, 5), pooling)
    with pytest.raises(ValueError, match="pooling must be 'max' or 'mean'"):
        weak_loss(logits, classes, "median")


def test_weak_training_learns_the_background_from_the_noisy_clips(shared):
    """The 178 real background clips beside planted events, with labels of videos only."""
    import h5py

    root = shared / "data" / "ave"
    with (
        h5py.File(root / "audio_feature_noisy.h5") as file,
        h5py.File(root / "labels_noisy.h5") as labels,
    ):
        noisy = torch.from_numpy(file["avadataset"][:]).float()
        targets = torch.from_numpy(labels["avadataset"][:]).float()
    assert noisy.shape == (178, 10, 128)
    assert targets.argmax(-1).unique().tolist() == [28]
    events = noisy[
        torch.randint(0, 178, (140,))
    ].clone()  # the same sounds, with an event in 3 of 10 seconds
    classes = torch.arange(140) % 5
    events[:, 4:7] += F.one_hot(classes, 128)[:, None] * 3.0
    clips = torch.cat((events, noisy))
    videos = torch.cat((F.one_hot(classes, 29).float(), targets))
    linear = torch.nn.Linear(128, 29)
    optimizer = torch.optim.Adam(linear.parameters(), lr=0.03)
    for _ in range(150):
        optimizer.zero_grad()
        weak_loss(linear(clips), videos).backward()
        optimizer.step()
    logits = linear(clips)
    assert (video_scores(logits)[140:].argmax(-1) == 28).float().mean() > 0.95
    assert (video_scores(logits)[:140].argmax(-1) == classes).float().mean() > 0.95
    where = logits[:140].gather(-1, classes[:, None, None].expand(-1, 10, 1))[..., 0].argmax(-1)
    assert (
        (where >= 4) & (where < 7)
    ).float().mean() > 0.95  # found in time without a label in time


def test_utterance_classifier_leaves_padding_out():
    model = UtteranceClassifier(6, 3)
    x, lengths = torch.randn(4, 5, 6), torch.tensor([5, 1, 3, 4])
    expected = torch.stack([model.linear(x[i, : lengths[i]].mean(0)) for i in range(4)])
    torch.testing.assert_close(model(x, lengths), expected)
    torch.testing.assert_close(model(x), model(x, torch.full((4,), 5)))
    x[1, 1:] = float("nan")
    assert model(x, lengths).isfinite().all()


def test_concordance_is_its_definition():
    x, y = torch.randn(50, dtype=torch.double), torch.randn(50, dtype=torch.double)
    y = 0.7 * x + 0.4 * y + 0.2
    covariance = np.cov(x, y, bias=True)
    expected = (
        2
        * covariance[0, 1]
        / (covariance[0, 0] + covariance[1, 1] + (x.mean() - y.mean()).item() ** 2)
    )
    assert concordance(x, y).item() == pytest.approx(expected, rel=1e-12)
    assert concordance(x.view(5, 10), y.view(5, 10)).item() == pytest.approx(expected, rel=1e-12)
    assert concordance(x, x).item() == pytest.approx(1.0)
    assert concordance(x, -x + 2 * x.mean()).item() == pytest.approx(-1.0)
    assert concordance(x, x + 1) < 1  # unlike a correlation
    rows = concordance(x.view(5, 10), y.view(5, 10), dim=1)
    torch.testing.assert_close(rows[2], concordance(x[20:30], y[20:30]))
    assert ccc_loss(x.view(5, 10), y.view(5, 10), dim=1).item() == pytest.approx(
        1 - rows.mean().item()
    )


def test_concordance_of_constants_and_wrong_shapes():
    x = torch.full((4,), 2.0, requires_grad=True)
    ccc_loss(x, torch.full((4,), 2.0)).backward()
    assert concordance(x, torch.full((4,), 3.0)).item() == 0
    assert x.grad.isfinite().all()
    with pytest.raises(ValueError, match=r"must have one shape, got \(4,\) and \(4, 1\)"):
        concordance(torch.zeros(4), torch.zeros(4, 1))


def test_attentive_statistics_pooling_is_its_definition():
    pool = AttentiveStatisticsPooling(6, hidden_dim=5).double().eval()
    x = torch.randn(3, 7, 6, dtype=torch.double)
    hidden = torch.relu(x @ pool.attention[0].weight[..., 0].mT + pool.attention[0].bias)
    norm = pool.attention[2]
    hidden = torch.tanh(
        (hidden - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight
        + norm.bias
    )
    weights = torch.softmax(
        hidden @ pool.attention[4].weight[..., 0].mT + pool.attention[4].bias, dim=1
    )
    mean = (weights * x).sum(1)
    deviation = ((weights * x**2).sum(1) - mean**2).clamp_min(1e-4).sqrt()
    torch.testing.assert_close(pool(x), torch.cat((mean, deviation), 1))
    still = pool(torch.ones(2, 7, 6, dtype=torch.double))
    torch.testing.assert_close(
        still, torch.tensor([1.0] * 6 + [0.01] * 6, dtype=torch.double).expand(2, -1)
    )


def test_additive_angular_margin_is_its_definition():
    loss = AdditiveAngularMargin(6, 4, margin=0.3, scale=10.0).double()
    embedding, speaker = torch.randn(5, 6, dtype=torch.double), torch.tensor([0, 1, 2, 3, 1])
    angles = torch.arccos(F.normalize(embedding) @ F.normalize(loss.weight).mT)
    shifted = angles + 0.3 * F.one_hot(speaker, 4)
    assert shifted.max() < math.pi  # the published shortcut is not in use
    torch.testing.assert_close(
        loss(embedding, speaker), F.cross_entropy(10 * shifted.cos(), speaker)
    )
    bare = AdditiveAngularMargin(6, 4, margin=0.0, scale=10.0).double()
    torch.testing.assert_close(
        bare(embedding, speaker), F.cross_entropy(10 * bare.cosines(embedding), speaker)
    )


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_additive_angular_margin_at_the_ends(sign):
    """Exactly with and against a speaker's vector: finite, and worse the farther from it."""
    loss = AdditiveAngularMargin(6, 4, margin=0.3)
    embedding = (sign * loss.weight[:1].detach()).requires_grad_()
    value = loss(embedding, torch.tensor([0]))
    value.backward()
    assert value.isfinite()
    assert embedding.grad.isfinite().all()


def test_additive_angular_margin_pulls_from_every_angle():
    """The true speaker's logit falls with the angle up to 180 degrees, also beyond the margin."""
    loss = AdditiveAngularMargin(3, 2, margin=0.5, scale=1.0)
    loss.weight.data = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    angles = torch.linspace(0.01, math.pi - 0.01, 60)
    circle = torch.stack(
        (angles.cos(), angles.sin(), torch.zeros(60)), 1
    )  # at right angles to the other speaker
    values = torch.stack([loss(point[None], torch.tensor([0])) for point in circle])
    assert (values.diff() > 0).all()
    with pytest.raises(ValueError, match="margin must lie in"):
        AdditiveAngularMargin(6, 4, margin=2.0)


def test_additive_angular_margin_under_autocast():
    loss = AdditiveAngularMargin(6, 4)
    embedding = torch.randn(5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(embedding.bfloat16(), torch.tensor([0, 1, 2, 3, 1]))
    assert value.dtype == torch.float32


def rates(scores: np.ndarray, same: np.ndarray) -> list[tuple[float, float]]:
    """(miss, false alarm) at every threshold, one comparison at a time."""
    thresholds = [*np.unique(scores), np.inf]
    return [
        (sum(same & (scores < t)) / same.sum(), sum(~same & (scores >= t)) / (~same).sum())
        for t in thresholds
    ]


@pytest.mark.parametrize("ties", [False, True])
def test_error_rates_are_their_definitions(ties):
    rng = np.random.default_rng(0)
    same = rng.random(200) < 0.3
    scores = rng.normal(size=200) + 1.5 * same
    scores = np.round(scores) if ties else scores
    points = rates(scores, same)
    tensors = torch.from_numpy(scores), torch.from_numpy(same.astype(np.int64))
    for prior, c_miss, c_alarm in ((0.05, 1.0, 1.0), (0.01, 10.0, 1.0), (0.5, 1.0, 3.0)):
        costs = [c_miss * prior * miss + c_alarm * (1 - prior) * alarm for miss, alarm in points]
        expected = min(costs) / min(c_miss * prior, c_alarm * (1 - prior))
        assert min_dcf(*tensors, prior, c_miss, c_alarm) == pytest.approx(expected, rel=1e-12)
    eer = equal_error_rate(*tensors)
    below = max(miss for miss, alarm in points if miss <= alarm)
    above = min(miss for miss, alarm in points if miss >= alarm)
    assert below <= eer <= above
    if not ties:
        assert eer == pytest.approx(min(points, key=lambda p: abs(p[0] - p[1]))[0], abs=0.02)


def test_error_rates_at_the_ends():
    same = torch.tensor([1, 1, 0, 0])
    assert equal_error_rate(torch.tensor([4.0, 3.0, 2.0, 1.0]), same) == 0
    assert equal_error_rate(torch.tensor([1.0, 2.0, 3.0, 4.0]), same) == 1
    assert equal_error_rate(torch.zeros(4), same) == 0.5
    assert min_dcf(torch.tensor([4.0, 3.0, 2.0, 1.0]), same) == 0
    assert min_dcf(torch.zeros(4), same) == 1
    with pytest.raises(ValueError, match="pairs of the same speaker and pairs of different"):
        equal_error_rate(torch.zeros(4), torch.ones(4))
    with pytest.raises(ValueError, match="prior must lie strictly between"):
        min_dcf(torch.zeros(4), same, prior=1.0)
    with pytest.raises(ValueError, match="must have one shape"):
        min_dcf(torch.zeros(3), same)
