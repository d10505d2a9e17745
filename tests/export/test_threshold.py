"""The threshold of `auto`: what every one would have given, and which is taken."""

import numpy as np
import pytest
import torch
from torch import Tensor

from export import threshold
from export.threshold import (
    chance_to_differ,
    escalation_curve,
    gain_where_they_differ,
    least_passes,
)
from tests.export.test_calibrate import uncertain


def two_answers(n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """(first, aggregated, labels): probabilities of 4 classes, the second surer of what is right; ties among them."""
    logits, labels = uncertain(n, seed=seed)
    hint = torch.nn.functional.one_hot(labels, 4)
    return (logits.softmax(1) * 50).round() / 50, (logits + hint).softmax(1), labels


def by_brute_force(first: Tensor, aggregated: Tensor, labels: Tensor, threshold: float) -> float:
    """The share of right answers at a threshold, image by image."""
    right = 0
    for one, all_copies, label in zip(first, aggregated, labels, strict=True):
        answer = all_copies if one.max() <= threshold else one
        right += int(answer.argmax() == label)
    return right / len(labels)


@pytest.mark.parametrize("seed", range(5))
def test_curve_is_what_every_threshold_gives_image_by_image(seed: int):
    first, aggregated, labels = two_answers(80, seed)
    curve = escalation_curve(first, aggregated, labels, rest_passes=3)
    points = [curve.point(k) for k in range(len(curve.thresholds))]
    seen = sorted({0.0, 1.0} | set(first.max(1).values.sort().values.tolist()[:-1]))
    assert {point.threshold for point in points} <= set(seen)
    for point in points:
        doubt = (first.max(1).values <= point.threshold).double().mean().item()
        assert point.top1 == pytest.approx(
            by_brute_force(first, aggregated, labels, point.threshold)
        )
        assert point.escalation_rate == pytest.approx(doubt)
        assert point.forward_passes == pytest.approx(1 + 3 * doubt)


@pytest.mark.parametrize("wanted", [0.0, 0.3, 0.5, 0.61, 0.7, 0.99, 1.0])
def test_threshold_that_is_none_of_the_curves_has_a_point_on_it(wanted: float):
    first, aggregated, labels = two_answers(80)
    found = escalation_curve(first, aggregated, labels, rest_passes=3).at(wanted)
    doubt = (first.max(1).values <= wanted).double().mean().item()
    assert found.escalation_rate == pytest.approx(doubt)
    assert found.top1 == pytest.approx(by_brute_force(first, aggregated, labels, wanted))


def test_passes_rise_with_the_threshold():
    curve = escalation_curve(*two_answers(200), rest_passes=3)
    assert (curve.thresholds.diff() > 0).all()
    assert (curve.doubted.diff() > 0).all()


def test_images_of_one_confidence_are_in_doubt_together():
    first = torch.tensor([[0.6, 0.4]] * 3 + [[0.9, 0.1]] * 2)
    curve = escalation_curve(first, first, torch.zeros(5, dtype=torch.int64), rest_passes=1)
    assert curve.doubted.tolist() == [0, 3, 5]
    assert [curve.point(k).threshold for k in range(3)] == [0, pytest.approx(0.6), 1]


@pytest.mark.parametrize("rows", [2, 11, 500])
def test_shown_points_go_from_none_to_all(rows: int):
    curve = escalation_curve(*two_answers(200), rest_passes=3)
    shown = curve.shown(rows)
    assert 2 <= len(shown) <= rows
    assert (shown[0].escalation_rate, shown[-1].escalation_rate) == (0, 1)


def some_differ(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Confidences, and which answers differ: the rarer, the surer."""
    generator = torch.Generator().manual_seed(seed)
    confidence = 0.3 + 0.7 * torch.rand(n, generator=generator, dtype=torch.float64)
    return confidence, torch.rand(n, generator=generator, dtype=torch.float64) < (
        1 - confidence
    ) / 2


@pytest.mark.parametrize("n", [20, 200, 2000])
def test_chance_to_differ_is_the_most_likely_curve(n: int):
    confidence, differs = some_differ(n)
    found = chance_to_differ(confidence, differs)
    m = int(differs.sum())
    unsure = [
        0.0 if d else (1 - c) ** 0.5 for c, d in zip(confidence.tolist(), differs, strict=True)
    ]
    targets = torch.tensor(
        [
            (m + 1) / (m + 2) if d else share / sum(unsure) * (n - m) / (n - m + 2)
            for share, d in zip(unsure, differs, strict=True)
        ],
        dtype=torch.float64,
    )
    odds = (confidence / (1 - confidence)).log()
    # where the likelihood of a logistic curve is highest, its errors sum to 0, also weighted by what it is a curve of
    assert (found - targets).mean().item() == pytest.approx(0, abs=1e-8)
    assert ((found - targets) * odds).mean().item() == pytest.approx(0, abs=1e-7)
    heights = (found / (1 - found)).log()
    slopes = heights.diff() / odds.diff()
    assert slopes.std().item() < 1e-6 * slopes.mean().abs().item()


def test_chance_to_differ_finds_the_curve_that_the_answers_came_from():
    generator = torch.Generator().manual_seed(1)
    odds = 3 * torch.randn(50_000, generator=generator, dtype=torch.float64)
    chances = (-1 - 0.8 * odds).sigmoid()
    differs = torch.rand(50_000, generator=generator, dtype=torch.float64) < chances
    assert (chance_to_differ(odds.sigmoid(), differs) - chances).abs().max() < 0.02


def test_where_none_differed_they_still_may_the_rather_the_less_sure():
    confidence, _ = some_differ(98)
    found = chance_to_differ(confidence, torch.zeros(98, dtype=torch.bool))
    assert found.sum().item() == pytest.approx(0.98)  # as many as 98 targets of 1 / (98 + 2)
    falling = found[confidence.argsort()].diff()
    assert (falling < 0).all()
    assert found.max() > 3 * found.min()


def test_where_none_differed_and_all_are_sure_all_have_the_same_chance():
    found = chance_to_differ(torch.ones(98), torch.zeros(98, dtype=torch.bool))
    torch.testing.assert_close(found, torch.full((98,), 0.01, dtype=torch.float64))


@pytest.mark.parametrize("differing", [0, 1, 2])
def test_where_nearly_all_are_as_sure_as_can_be_these_are_not_in_doubt(differing: int):
    confidence = torch.cat([torch.tensor([0.6, 0.8, 0.9, 0.99]), torch.ones(139)])
    first = torch.stack([confidence, 1 - confidence], dim=1)
    together = first.clone()
    together[:differing] = together[:differing].flip(1)
    labels = torch.zeros(143, dtype=torch.int64)
    labels[:differing] = 1
    chosen = least_passes(first, together, labels, rest_passes=3)
    assert 0.6 <= chosen.threshold <= 0.99


def test_images_of_one_confidence_have_one_chance():
    differs = torch.arange(10) < 4
    expected = (4 * 5 / 6 + 6 / 8) / 10
    for confidence in (0.7, 1.0):
        found = chance_to_differ(torch.full((10,), confidence), differs)
        torch.testing.assert_close(found, torch.full((10,), expected, dtype=torch.float64))


def test_one_image_is_enough_for_a_curve():
    assert chance_to_differ(torch.tensor([0.9]), torch.tensor([True])).item() == pytest.approx(
        2 / 3
    )


def test_gain_counts_answers_that_differ():
    labels = torch.zeros(100, dtype=torch.int64)
    first, aggregated = labels.clone(), labels.clone()
    first[:9] = 1  # the copies win 9
    aggregated[9:12] = 1  # and lose 3
    first[12:16], aggregated[12:16] = 1, 2  # and 4 are wrong otherwise than before
    mean, square = (6 + 1) / 20, (12 + 1) / 20
    expected = mean + ((square - mean**2) / 20) ** 0.5
    assert gain_where_they_differ(first, aggregated, labels) == pytest.approx(expected)
    assert gain_where_they_differ(aggregated, first, labels) < expected / 4


def test_gain_is_nothing_where_the_copies_only_lose():
    labels = torch.zeros(10, dtype=torch.int64)
    assert gain_where_they_differ(labels, labels + 1, labels) == 0


@pytest.mark.parametrize("seed", range(5))
def test_chosen_threshold_has_the_fewest_passes_that_are_enough(
    seed: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(threshold, "WITHIN", 0.02)
    first, aggregated, labels = two_answers(300, seed)
    chosen = least_passes(first, aggregated, labels, rest_passes=3)
    alone, together, confidence = first.argmax(1), aggregated.argmax(1), first.max(1).values
    chances = chance_to_differ(confidence, alone != together).tolist()
    gain = gain_where_they_differ(alone, together, labels)
    passes = {}
    for t in [0.0, *confidence.unique().tolist()[:-1], 1.0]:
        doubt = [c <= t for c in confidence.tolist()]
        lost = sum(gain * p for p, d in zip(chances, doubt, strict=True) if not d)
        if lost <= 0.02 * 300:
            passes[1 + 3 * sum(doubt) / 300] = t
    assert chosen.forward_passes == pytest.approx(min(passes))
    assert chosen.threshold == pytest.approx(passes[min(passes)])
    assert 0 < chosen.threshold < 1
    assert chosen.top1 == pytest.approx(by_brute_force(first, aggregated, labels, chosen.threshold))


def test_one_pass_that_never_differs_answers_alone_once_enough_have_been_seen():
    first = torch.rand(1000, 4, generator=torch.Generator().manual_seed(0)).softmax(1)
    labels = first.argmax(1)
    chosen = least_passes(first, first, labels, rest_passes=3)
    assert (chosen.threshold, chosen.forward_passes) == (0, 1)
    few = least_passes(first[:60], first[:60], labels[:60], rest_passes=3)
    assert 1 < few.forward_passes < 4


def test_being_better_than_aggregated_is_not_paid_for():
    # the first pass is right where it is sure, all copies where it is not: half in doubt would be perfect
    first = torch.tensor([[0.6, 0.4]] * 100 + [[0.1, 0.9]] * 200)
    aggregated = torch.tensor([[0.1, 0.9]] * 100 + [[0.9, 0.1]] * 200)
    labels = torch.ones(300, dtype=torch.int64)
    assert escalation_curve(first, aggregated, labels, rest_passes=3).correct.tolist() == [
        200,
        300,
        100,
    ]
    assert least_passes(first, aggregated, labels, rest_passes=3).threshold == 0


def test_one_pass_that_is_sure_and_wrong_always_escalates():
    first = torch.tensor([[0.99, 0.01]] * 4 + [[1.0, 0.0]])
    labels = torch.ones(5, dtype=torch.int64)
    chosen = least_passes(first, 1 - first, labels, rest_passes=3)
    assert (chosen.threshold, chosen.escalation_rate, chosen.top1) == (1, 1, 1)


def draw(
    n: int, generator: np.random.Generator, *, easy: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """(first, aggregated, labels) of 3 classes: where the answers differ, the copies win 50 of 100 and lose 30.

    easy: one in a hundred differs and not one in ten, and confidences are too sure of it.
    """
    odds = generator.normal(6, 2.5, n) if easy else generator.normal(2, 1.5, n)
    confidence = np.maximum(1 / (1 + np.exp(-odds)), 0.34)
    chances = 1 / (1 + np.exp(2 + 0.6 * odds if easy else 1 + odds))
    differs = generator.random(n) < chances
    fate = generator.random(n)
    answer = np.where(differs, 1, 0)
    labels = np.where(differs & (fate < 0.5), 1, np.where(differs & (fate > 0.8), 2, 0))
    others = np.repeat(((1 - confidence) / 2)[:, None], 3, 1)
    first = torch.from_numpy(others)
    first[:, 0] = torch.from_numpy(confidence)
    return first, torch.eye(3, dtype=torch.float64)[answer], torch.from_numpy(labels)


@pytest.mark.slow
@pytest.mark.parametrize("easy", [False, True])
@pytest.mark.parametrize("n", [60, 200, 1000])
def test_most_draws_choose_so_that_new_images_lose_no_more_than_is_allowed(n: int, easy: bool):
    generator = np.random.default_rng(n)
    first, aggregated, labels = draw(100_000, generator, easy=easy)
    confidence = first.max(1).values
    gained = (aggregated.argmax(1) == labels).double() - (first.argmax(1) == labels).double()
    lost = []
    for _ in range(100):
        chosen = least_passes(*draw(n, generator, easy=easy), rest_passes=3)
        lost.append(gained[confidence > chosen.threshold].sum().item() / len(labels))
    # counting right answers instead, more is lost in 69 to 86 % of draws
    assert np.mean(np.array(lost) > threshold.WITHIN) < 1 / 3
