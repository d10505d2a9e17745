import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from tests.oracles import Rows, log_softmax
from training.errors import ConfigError
from training.logistic import GRID, METRICS, Fit, choose, fit, mean_per_class, metric, top1

TIGHT = 1e-12  # of the gap


def blobs(n: int = 60, d: int = 5, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Overlapping classes around random centres, in features of very different scales."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    centres = torch.randn(classes, d, generator=generator)
    scales = torch.logspace(-1, 1, d)
    return (centres[labels] + torch.randn(n, d, generator=generator)) * scales + 1, labels


def logistic_objective(features: Tensor, labels: Tensor, theta: Tensor, weight: float) -> float:
    """Σ_i CE(θ (x_i, 1), y_i) + w Σ θ². features: (n, d), labels: (n,), theta: (N, d + 1), the bias last."""
    value = weight * sum(entry**2 for row in theta.tolist() for entry in row)
    for image, label in zip(features.tolist(), labels.tolist(), strict=True):
        value -= log_softmax(_linear(theta, image))[label]
    return value


def logistic_gradient(features: Tensor, labels: Tensor, theta: Tensor, weight: float) -> Rows:
    """∂/∂θ_kj of `logistic_objective`: Σ_i (p_ik - [y_i = k]) x_ij + 2 w θ_kj. Returns N rows of d + 1."""
    gradient = [[2 * weight * entry for entry in row] for row in theta.tolist()]
    for image, label in zip(features.tolist(), labels.tolist(), strict=True):
        for k, log_p in enumerate(log_softmax(_linear(theta, image))):
            error = math.exp(log_p) - (k == label)
            for j, value in enumerate([*image, 1.0]):
                gradient[k][j] += error * value
    return gradient


def _linear(theta: Tensor, image: list[float]) -> list[float]:
    """θ (x, 1), of one image. theta: (N, d + 1)."""
    with_one = [*image, 1.0]
    return [
        sum(entry * value for entry, value in zip(row, with_one, strict=True))
        for row in theta.tolist()
    ]


def theta(found: Fit) -> Tensor:
    return torch.cat([found.weights, found.bias[:, None]], dim=1)


@pytest.mark.parametrize("weight", [1e-3, 1.0, 100.0])
def test_fit_has_no_gradient_left_by_the_loop(weight: float):
    features, labels = blobs()
    found = fit(features, labels, num_classes=3, weight=weight, tolerance=TIGHT)
    assert found.converged
    left = logistic_gradient(features, labels, theta(found), weight)
    start = logistic_gradient(features, labels, torch.zeros(3, 6), weight)
    assert np.abs(left).max() < 1e-6 * np.abs(start).max()
    expected = logistic_objective(features, labels, theta(found), weight)
    assert found.objective == pytest.approx(expected, rel=1e-12)


def test_fit_agrees_with_scipy_on_the_objective_of_the_loop():
    features, labels = blobs(n=24, d=2)

    def value(flat: np.ndarray) -> float:
        return logistic_objective(features, labels, torch.from_numpy(flat).reshape(3, 3), 0.3)

    slow = minimize(value, np.zeros(9), method="BFGS", options={"gtol": 1e-4})
    found = fit(features, labels, num_classes=3, weight=0.3, tolerance=TIGHT)
    assert found.objective == pytest.approx(slow.fun, rel=1e-8)
    np.testing.assert_allclose(theta(found).flatten(), slow.x, atol=1e-4)


def test_fit_is_sklearns_without_intercept_and_with_a_constant_feature():
    features, labels = blobs()
    weight = 0.2
    augmented = torch.cat([features, torch.ones(len(features), 1)], dim=1).double().numpy()
    reference = LogisticRegression(
        C=1 / (2 * weight), fit_intercept=False, solver="newton-cg", tol=1e-12, max_iter=1000
    ).fit(augmented, labels.numpy())
    found = fit(features, labels, num_classes=3, weight=weight, tolerance=TIGHT)
    np.testing.assert_allclose(theta(found), reference.coef_, atol=1e-6)


def test_fit_of_two_points_on_a_line_is_the_closed_form():
    # Σ CE = 2 log(1 + exp(-2 u)) with W = (u, -u), b = 0; the penalty 2 w u²: u (1 + exp(2 u)) = 1 / w
    u = 0.7
    weight = 1 / (u * (1 + math.exp(2 * u)))
    features, labels = torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1])
    found = fit(features, labels, num_classes=2, weight=weight, tolerance=1e-14)
    torch.testing.assert_close(
        found.weights, torch.tensor([[u], [-u]], dtype=torch.float64), atol=1e-6, rtol=0
    )
    assert found.bias.abs().max() < 1e-9
    expected = 2 * math.log(1 + math.exp(-2 * u)) + 2 * weight * u**2
    assert found.objective == pytest.approx(expected, rel=1e-9)


def test_fit_keeps_the_bias_under_the_penalty():
    # features of zeros: the bias alone is left, (a, -a) with 3 - 4 σ(2 a) = 2 w a over 3 and 1 images
    a = 0.3
    weight = (3 - 4 / (1 + math.exp(-2 * a))) / (2 * a)
    found = fit(
        torch.zeros(4, 2),
        torch.tensor([0, 0, 0, 1]),
        num_classes=2,
        weight=weight,
        tolerance=1e-14,
    )
    expected = torch.tensor([a, -a], dtype=torch.float64)
    torch.testing.assert_close(found.bias, expected, atol=1e-6, rtol=0)
    assert found.weights.abs().max() < 1e-9


def test_a_stronger_weight_gives_a_smaller_norm():
    features, labels = blobs()
    norms = [
        theta(fit(features, labels, num_classes=3, weight=weight)).norm().item()
        for weight in (1e-4, 1e-2, 1.0, 100.0, 1e4)
    ]
    assert norms == sorted(norms, reverse=True)
    assert norms[0] > 10 * norms[-1]


def test_a_permutation_of_the_classes_permutes_the_weights():
    features, labels = blobs()
    order = torch.tensor([2, 0, 1])
    first = fit(features, labels, num_classes=3, weight=0.5, tolerance=TIGHT)
    second = fit(features, order[labels], num_classes=3, weight=0.5, tolerance=TIGHT)
    torch.testing.assert_close(theta(second)[order], theta(first), atol=1e-5, rtol=0)


def test_a_start_changes_the_way_and_not_the_end():
    features, labels = blobs()
    cold = fit(features, labels, num_classes=3, weight=0.01, tolerance=1e-10)
    near = fit(features, labels, num_classes=3, weight=0.02, tolerance=1e-10)
    warm = fit(features, labels, num_classes=3, weight=0.01, tolerance=1e-10, start=near)
    torch.testing.assert_close(theta(warm), theta(cold), atol=1e-4, rtol=1e-4)
    again = fit(features, labels, num_classes=3, weight=0.01, tolerance=1e-9, start=cold)
    assert again.evaluations == 1
    assert warm.evaluations < cold.evaluations


def test_the_gap_bounds_what_a_tighter_fit_still_gains():
    features, labels = blobs()
    least = fit(features, labels, num_classes=3, weight=0.05, tolerance=1e-13).objective
    for tolerance in (1e-1, 1e-2, 1e-4):
        rough = fit(features, labels, num_classes=3, weight=0.05, tolerance=tolerance)
        assert rough.converged
        assert 0 <= rough.objective - least <= rough.gap * rough.objective
        assert rough.gap <= tolerance


@pytest.mark.parametrize("weight", [0.05, 1e3])
def test_the_gap_is_the_bound_of_strong_convexity_as_a_share(weight: float):
    features, labels = blobs()
    rough = fit(features, labels, num_classes=3, weight=weight, tolerance=0.3)
    gradient = logistic_gradient(features, labels, theta(rough), weight)
    bound = sum(entry**2 for row in gradient for entry in row) / (4 * weight)
    share = min(rough.objective, 60 * math.log(3) - rough.objective)
    assert rough.gap == pytest.approx(bound / share, rel=1e-6)


def test_under_a_strong_weight_theta_is_a_small_step_down_from_0():
    # θ → -∇(0) / 2w; θ = 0 itself would be within any share of the objective, and know no class
    features, labels = blobs(n=300, classes=2)
    weight = 1e6
    found = fit(features, labels, num_classes=2, weight=weight)
    down = logistic_gradient(features, labels, torch.zeros(2, 6), weight)
    assert found.converged
    expected = torch.tensor(down, dtype=torch.float64) / (-2 * weight)
    torch.testing.assert_close(theta(found), expected, atol=0.03 * expected.abs().max(), rtol=0)


def test_a_fit_that_was_cut_short_says_so():
    features, labels = blobs()
    found = fit(features, labels, num_classes=3, weight=1e-4, max_evaluations=3)
    assert not found.converged
    assert found.gap > 1e-4
    assert found.evaluations <= 5  # the line search may finish
    assert found.objective < 60 * math.log(3)


def test_fewer_images_than_features_are_fitted_as_well():
    features, labels = blobs(n=6, d=20)
    found = fit(features, labels, num_classes=3, weight=0.1, tolerance=TIGHT)
    left = logistic_gradient(features, labels, theta(found), 0.1)
    assert np.abs(left).max() < 1e-5


def test_a_class_without_training_images_is_the_least_likely():
    features, labels = blobs()
    found = fit(features, labels, num_classes=4, weight=0.1)
    assert found.weights.shape == (4, 5)
    assert (found.scores(features).argmax(1) < 3).all()


def test_scores_are_float64_and_linear():
    features, labels = blobs()
    found = fit(features, labels, num_classes=3, weight=0.1)
    expected = [
        [sum(w * x for w, x in zip(row, image, strict=True)) + b for row, b in rows]
        for image in features.tolist()
        for rows in [list(zip(found.weights.tolist(), found.bias.tolist(), strict=True))]
    ]
    torch.testing.assert_close(found.scores(features), torch.tensor(expected, dtype=torch.float64))


def test_the_features_are_not_changed_and_give_the_same_fit_twice():
    features, labels = blobs()
    before = features.clone()
    first, second = (fit(features, labels, num_classes=3, weight=0.1) for _ in range(2))
    assert torch.equal(features, before)
    assert torch.equal(theta(first), theta(second))


def test_the_grid_is_the_papers():
    assert len(GRID) == 45
    assert GRID[0] == pytest.approx(1e-6)
    assert GRID[-1] == pytest.approx(1e5)
    ratios = [b / a for a, b in pairwise(GRID)]
    assert ratios == pytest.approx([10**0.25] * 44)


def test_choose_takes_the_best_of_independent_fits_and_refits_on_both():
    train, val = blobs(n=45, d=8), blobs(n=60, d=8, seed=0)
    noisy = val[0] + torch.randn(60, 8, generator=torch.Generator().manual_seed(5)) * 2, val[1]
    grid = (1e-3, 1e-1, 10.0, 1e3)
    found = choose(train, noisy, num_classes=3, grid=grid, tolerance=1e-8)
    scores = {}
    for weight in grid:
        alone = fit(*train, num_classes=3, weight=weight, tolerance=1e-8)
        scores[weight] = top1(alone.scores(noisy[0]), noisy[1])
    assert {trial.weight: trial.score for trial in found.trials} == pytest.approx(scores)
    assert [trial.weight for trial in found.trials] == sorted(grid, reverse=True)
    assert scores[found.weight] == max(scores.values())
    both = torch.cat([train[0], noisy[0]]), torch.cat([train[1], noisy[1]])
    refit = fit(*both, num_classes=3, weight=found.weight, tolerance=1e-8)
    torch.testing.assert_close(theta(found.fit), theta(refit), atol=1e-3, rtol=1e-3)
    assert found.unconverged == ()


def test_choose_needs_fewer_evaluations_than_fits_one_from_the_other():
    split = blobs(n=9, d=8)
    grid = [10 ** (place / 4) for place in range(0, -24, -1)]
    found = choose(split, split, num_classes=3, grid=grid)
    chained, last = 0, None
    for weight in grid:
        last = fit(*split, num_classes=3, weight=weight, start=last)
        chained += last.evaluations
    assert sum(trial.evaluations for trial in found.trials) < 0.6 * chained


def test_choose_takes_the_strongest_of_equally_good_weights():
    features = torch.tensor([[-2.0], [2.0], [-3.0], [3.0]])
    split = features, torch.tensor([0, 1, 0, 1])
    assert choose(split, split, num_classes=2, grid=(0.1, 10.0, 1.0)).weight == 10.0


def test_choose_uses_the_metric_that_it_is_given():
    features, labels = blobs()

    def weakest_best(scores: Tensor, labels: Tensor) -> float:
        return scores.abs().mean().item()

    split = features, labels
    found = choose(split, split, num_classes=3, grid=(0.1, 1.0), metric=weakest_best)
    assert found.weight == 0.1


def test_choose_names_the_weights_whose_fit_did_not_converge():
    split = blobs()
    found = choose(split, split, num_classes=3, grid=(1.0, 10.0), tolerance=0)
    assert found.unconverged == (10.0, 1.0)
    assert not found.fit.converged


def test_mean_per_class_counts_classes_and_not_images():
    scores = torch.eye(4)[torch.tensor([0, 0, 0, 0, 1, 0, 1])]
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    assert top1(scores, labels) == pytest.approx(5 / 7)
    # class 2 has no image right, class 3 no image
    assert mean_per_class(scores, labels) == pytest.approx((1 + 0.5 + 0) / 3)


def test_metric_lists_what_there_is():
    assert metric("top1") is METRICS["top1"]
    with pytest.raises(ConfigError, match=r"'f1'; choose from \['mean-per-class', 'top1'\]"):
        metric("f1")


def test_images_of_one_class_are_refused():
    for count in (0, 4):
        with pytest.raises(ConfigError, match=rf"at least 2 classes, got {count} of"):
            fit(torch.randn(count, 2), torch.full((count,), 1), num_classes=3, weight=1.0)


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
def test_a_weight_that_is_no_penalty_is_refused(weight: float):
    with pytest.raises(ConfigError, match="above 0"):
        fit(*blobs(), num_classes=3, weight=weight)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_not_finite_are_refused(bad: float):
    features, labels = blobs()
    features[3, 1] = bad
    with pytest.raises(ConfigError, match="not finite"):
        fit(features, labels, num_classes=3, weight=1.0)
