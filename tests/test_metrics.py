"""Metrics of event localization against published numbers, hand-counted cases and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jca_fast.training import metrics


def random_classes(n: int = 23, segments: int = 10, classes: int = 5):
    return torch.randint(classes, (n, segments)), torch.randint(classes, (n, segments))


def test_both_accuracies_of_the_published_evaluation(shared):
    golden = np.load(shared / "golden" / "open" / "R_metric.any.npz")
    predicted, target = (torch.from_numpy(golden[name]) for name in ("pred", "label"))
    exact, batch_mean = float(golden["sample_mean"]), float(golden["released_batch_mean"])
    assert metrics.segment_accuracy(predicted, target) == pytest.approx(exact, abs=1e-12)
    assert metrics.batch_mean_accuracy(predicted, target) == pytest.approx(batch_mean, abs=1e-12)
    assert exact - batch_mean > 0.03  # the file tells the two apart
    summary = metrics.summarize(predicted, target, 29)
    assert (summary["accuracy"], summary["batch_mean_accuracy"]) == pytest.approx(
        (exact, batch_mean), abs=1e-12
    )
    assert (summary["num_clips"], summary["num_segments"]) == (402, 4020)


def test_the_short_last_batch_weighs_more_in_the_batch_mean():
    target = torch.zeros(5, 2, dtype=torch.int64)
    predicted = torch.tensor([[0, 0], [0, 0], [0, 1], [0, 1], [1, 1]])
    assert metrics.segment_accuracy(predicted, target) == pytest.approx(6 / 10)
    assert metrics.batch_mean_accuracy(predicted, target, batch_size=4) == pytest.approx(
        (6 / 8 + 0) / 2
    )
    assert metrics.batch_mean_accuracy(predicted, target, batch_size=5) == pytest.approx(6 / 10)


def test_confusion_matrices_of_parts_add_up_and_hold_the_accuracies():
    predicted, target = random_classes()
    whole = metrics.confusion_matrix(predicted, target, 7)
    parts = sum(
        metrics.confusion_matrix(p, t, 7)
        for p, t in zip(predicted.split(4), target.split(4), strict=True)
    )
    assert torch.equal(whole, parts)
    assert whole[2, 4] == ((target == 2) & (predicted == 4)).sum()  # row = true class
    assert whole.diagonal().sum() / whole.sum() == pytest.approx(
        metrics.segment_accuracy(predicted, target)
    )
    per_class = metrics.per_class_accuracy(whole)
    assert per_class[3] == pytest.approx(float((predicted[target == 3] == 3).float().mean()))
    assert per_class[5] is None  # no such segment


def test_a_segment_without_a_prediction_is_wrong_for_its_class_too():
    target = torch.tensor([[0, 0, 1, 1]])
    result = metrics.summarize(torch.tensor([[0, metrics.UNDEFINED, 1, 1]]), target, 3)
    assert result["class_segments"] == [2, 2, 0]
    assert result["per_class_accuracy"] == [0.5, 1.0, None]
    assert result["accuracy"] == 0.75
    used = torch.tensor([[True, True, True, False]])
    padded = metrics.summarize(torch.tensor([[0, 1, 1, 0]]), target, 3, used=used)
    assert padded["class_segments"] == [2, 1, 0]
    assert padded["per_class_accuracy"] == [0.5, 1.0, None]


def test_majority_class_comes_from_the_reference():
    target, reference = torch.tensor([[0, 0, 1]]), torch.tensor([[1, 1, 0]])
    assert metrics.majority_baseline(target) == pytest.approx(2 / 3)
    assert metrics.majority_baseline(target, reference) == pytest.approx(1 / 3)


def test_event_f1_counts_whole_events():
    background = 9
    target = torch.tensor([[9, 1, 1, 1, 9, 2, 2, 9]])
    assert metrics.event_f1(target, target, background) == 1.0
    half = torch.tensor([[9, 1, 1, 9, 9, 2, 9, 9]])  # overlaps 2/3 and 1/2
    assert metrics.event_f1(half, target, background) == 1.0
    assert metrics.event_f1(half, target, background, min_iou=0.6) == pytest.approx(0.5)
    split = torch.tensor([[9, 1, 9, 1, 9, 3, 3, 9]])  # two short events, one of a wrong class
    assert metrics.event_f1(split, target, background) == 0.0
    nothing = torch.full_like(target, background)
    assert metrics.event_f1(nothing, nothing, background) is None


def test_pointing_game_counts_only_segments_with_an_object_to_point_at():
    attention = torch.tensor([[[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.1, 0.1, 0.8]]])
    position = torch.tensor([[[0, 1, 0], [0, 1, 1], [0, 0, 0], [0, 0, 1]]])
    game = metrics.pointing_game(attention, position)
    assert (game.hits, game.segments, game.accuracy) == (2, 3, pytest.approx(2 / 3))
    assert game.chance == pytest.approx((1 / 3 + 2 / 3 + 1 / 3) / 3)
    audible = torch.tensor([[1, 1, 1, 0]])
    assert metrics.pointing_game(attention, position, audible).accuracy == pytest.approx(1 / 2)
    both = game + metrics.pointing_game(attention, position, audible)
    assert (both.hits, both.segments) == (3, 5)
    assert metrics.PointingGame().accuracy is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: metrics.segment_accuracy(a, a[:1]), r"one shape, got \(2, 3\) and \(1, 3\)"),
        (lambda a: metrics.segment_accuracy(a[:0], a[:0]), "at least one segment"),
        (lambda a: metrics.batch_mean_accuracy(a, a, 0), "batch_size must be at least 1, got 0"),
        (
            lambda a: metrics.confusion_matrix(a + 4, a, 4),
            r"predicted must hold classes 0 .. 3, got 4 .. 4",
        ),
        (lambda a: metrics.pointing_game(a[None].float(), a[None, :1]), "attention and position"),
        (
            lambda a: metrics.pointing_game(a[None].float(), a[None], a),
            r"counts must have shape \(1, 2\)",
        ),
    ],
)
def test_wrong_shapes_and_values_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2, 3, dtype=torch.int64))
