import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from export import calibrate
from export.calibrate import escalation_curve, fit_temperature, least_passes, temperatures


def uncertain(n: int, scale: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits (n, 4) and labels drawn from them, the logits then made surer by a factor."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, 4, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return scale * logits, labels


def calibrated() -> tuple[Tensor, Tensor]:
    """Of every ten images said to be (0.7, 0.3) seven are of the first class; and so for (0.1, 0.9)."""
    logits = torch.tensor([[0.7, 0.3]] * 10 + [[0.1, 0.9]] * 10, dtype=torch.float64).log()
    return logits, torch.tensor([0] * 7 + [1] * 3 + [0] + [1] * 9)


def test_calibrated_answers_keep_their_temperature():
    assert fit_temperature(*calibrated()) == pytest.approx(1, rel=2e-6)


@pytest.mark.parametrize("factor", [0.1, 0.5, 3.0, 15.0])
def test_logits_scaled_by_a_factor_get_it_as_temperature(factor: float):
    logits, labels = calibrated()
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor, rel=2e-6)


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_temperature_is_where_a_dense_grid_has_the_least_nll(scale: float):
    logits, labels = uncertain(200, scale)
    grid = torch.logspace(math.log10(0.05), math.log10(20), 2001, dtype=torch.float64)
    losses = torch.stack([cross_entropy(logits / t, labels) for t in grid])
    best = grid[losses.argmin()].item()
    found = fit_temperature(logits, labels)
    assert found is not None
    assert found == pytest.approx(best, rel=0.004)  # a step of the grid is 0.3 %
    assert cross_entropy(logits / found, labels) <= losses.min()


def test_logits_of_any_offset_and_float32_give_the_same():
    logits, labels = uncertain(200, 2.0)
    expected = fit_temperature(logits, labels)
    assert expected is not None
    assert fit_temperature((logits + 100).float(), labels) == pytest.approx(expected, rel=1e-4)


def test_answers_that_are_all_right_have_no_best_temperature():
    logits, _ = uncertain(60)
    assert fit_temperature(logits, logits.argmax(1)) is None
    assert temperatures({"plain": logits}, logits.argmax(1)) == {"plain": 1.0}


def test_answers_worse_than_guessing_get_the_hottest():
    logits, _ = uncertain(60)
    assert fit_temperature(logits, logits.argmin(1)) == calibrate.HOTTEST


def test_few_images_fit_nothing():
    logits, labels = uncertain(calibrate.LEAST_IMAGES, 3.0)
    assert temperatures({"a": logits}, labels)["a"] > 2
    assert temperatures({"a": logits[1:]}, labels[1:]) == {"a": 1.0}


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


@pytest.mark.parametrize("seed", range(5))
def test_chosen_threshold_has_the_fewest_passes_that_are_enough(
    seed: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(calibrate, "WITHIN", 0.02)
    first, aggregated, labels = two_answers(300, seed)
    chosen = least_passes(escalation_curve(first, aggregated, labels, rest_passes=3))
    goal = (aggregated.argmax(1) == labels).double().mean().item() - 0.02
    candidates = [0.0, *first.max(1).values.unique().tolist()[:-1], 1.0]
    passes = {
        1 + 3 * (first.max(1).values <= t).double().mean().item(): t
        for t in candidates
        if by_brute_force(first, aggregated, labels, t) >= goal - 1e-9
    }
    assert chosen.forward_passes == pytest.approx(min(passes))
    assert chosen.threshold == pytest.approx(passes[min(passes)])
    assert 0 < chosen.threshold < 1


def test_passes_rise_with_the_threshold():
    curve = escalation_curve(*two_answers(200), rest_passes=3)
    assert (curve.thresholds.diff() > 0).all()
    assert (curve.doubted.diff() > 0).all()


def test_images_of_one_confidence_are_in_doubt_together():
    first = torch.tensor([[0.6, 0.4]] * 3 + [[0.9, 0.1]] * 2)
    curve = escalation_curve(first, first, torch.zeros(5, dtype=torch.int64), rest_passes=1)
    assert curve.doubted.tolist() == [0, 3, 5]
    assert curve.thresholds.tolist() == [0, pytest.approx(0.6), 1]


def test_one_pass_that_is_as_good_never_escalates():
    first, _, labels = two_answers(100)
    chosen = least_passes(escalation_curve(first, first, labels, rest_passes=3))
    assert (chosen.threshold, chosen.forward_passes) == (0, 1)


def test_being_better_than_aggregated_is_not_paid_for():
    # the first pass is right where it is sure, all copies where it is not: half in doubt would be perfect
    first = torch.tensor([[0.6, 0.4]] * 5 + [[0.1, 0.9]] * 5)
    aggregated = torch.tensor([[0.1, 0.9]] * 5 + [[0.9, 0.1]] * 5)
    labels = torch.ones(10, dtype=torch.int64)
    curve = escalation_curve(first, aggregated, labels, rest_passes=3)
    assert curve.correct.tolist() == [5, 10, 5]
    assert least_passes(curve).threshold == 0


def test_one_pass_that_is_sure_and_wrong_always_escalates():
    first = torch.tensor([[0.99, 0.01]] * 4 + [[1.0, 0.0]])
    labels = torch.ones(5, dtype=torch.int64)
    chosen = least_passes(escalation_curve(first, 1 - first, labels, rest_passes=3))
    assert (chosen.threshold, chosen.escalation_rate, chosen.top1) == (1, 1, 1)


def test_a_fifth_of_a_point_may_be_lost():
    first = torch.tensor([[0.6, 0.4]] * 1000)
    labels = torch.zeros(1000, dtype=torch.int64)
    labels[:3] = 1
    aggregated = torch.eye(2)[labels]
    allowed = aggregated.clone()
    allowed[0] = first[0]
    # 3 answers of 1000 are lost by one pass where all are right by all copies; 2 where one of them is wrong there too
    assert least_passes(escalation_curve(first, aggregated, labels, rest_passes=3)).threshold == 1
    assert least_passes(escalation_curve(first, allowed, labels, rest_passes=3)).threshold == 0


@pytest.mark.parametrize("rows", [2, 11, 500])
def test_shown_points_go_from_none_to_all(rows: int):
    curve = escalation_curve(*two_answers(200), rest_passes=3)
    shown = curve.shown(rows)
    assert 2 <= len(shown) <= rows
    assert (shown[0].escalation_rate, shown[-1].escalation_rate) == (0, 1)
