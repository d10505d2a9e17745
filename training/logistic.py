"""Multinomial logistic regression on frozen features: linear evaluation as AugSelf (arXiv 2111.09613) does it.

The objective is that of the released code, Σ_i CE(W x_i + b, y_i) + w (‖W‖² + ‖b‖²): a *sum* over the images, the
bias included, no ½. With a mean, or with scikit-learn's C = 1 / (2 w) and its free intercept, the same grid of w
would mean something else. Features are taken as they are: the released code neither scales nor centres them.

Everything is computed in float64 on the features' own device: in float32 half of the paper's weights cannot be shown
to have converged. What it takes: benchmarks/results/logistic.json. Nothing here reads data or knows a network.
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from training.collapse import check_finite
from training.confusion import class_accuracies, confusion_matrix
from training.errors import ConfigError

# of w, as the released code has it
GRID = tuple(torch.logspace(-6, 5, 45, dtype=torch.float64).tolist())
# Of `Fit.gap`: at 1e-3 a validation score of 2,000 images was off by up to 7 images, at 1e-4 by 2. The released code
# asks for a gradient of 1e-10, out of reach of its float32, or 5,000 iterations, and does not tell which it was.
TOLERANCE = 1e-4
MAX_EVALUATIONS = 2000
HISTORY = 50  # steps that L-BFGS remembers

Metric = Callable[[Tensor, Tensor], float]  # (scores (n, N), labels (n,)) -> in [0, 1]
Split = tuple[Tensor, Tensor]  # features (n, d) float, labels (n,) int64


@dataclass(frozen=True)
class Fit:
    """A fitted classifier and how well it was fitted.

    weights: (N, d) float64, bias: (N,) float64; objective: at these, in nats.
    gap: how far the objective may be above the least one, as a share of itself or of what it has come down from
    θ = 0, whichever is less (under a strong weight θ = 0 is near the least objective, and knows no class).
    converged: whether the gap is within the tolerance.
    evaluations: how often the objective and its gradient were computed.
    """

    weights: Tensor
    bias: Tensor
    objective: float
    gap: float
    converged: bool
    evaluations: int

    def scores(self, features: Tensor) -> Tensor:
        """The logits of features (n, d). Returns (n, N) float64."""
        return torch.addmm(self.bias, features.double(), self.weights.T)


class Trial(NamedTuple):
    """A weight of the grid: the validation score of its fit; converged, evaluations as in `Fit`."""

    weight: float
    score: float
    converged: bool
    evaluations: int


@dataclass(frozen=True)
class Choice:
    """A weight chosen on the validation split, and the fit on training and validation images with it.

    trials: from the strongest weight to the weakest.
    """

    weight: float
    fit: Fit
    trials: tuple[Trial, ...]

    @property
    def unconverged(self) -> tuple[float, ...]:
        """The weights whose fit did not reach the tolerance, from the strongest on."""
        return tuple(trial.weight for trial in self.trials if not trial.converged)


def top1(scores: Tensor, labels: Tensor) -> float:
    """The share of images whose greatest score is their class's. scores: (n, N), labels: (n,)."""
    return (scores.argmax(1) == labels).double().mean().item()


def mean_per_class(scores: Tensor, labels: Tensor) -> float:
    """The mean over classes of `top1` of each class's images; classes without images do not count."""
    found = class_accuracies(confusion_matrix(scores, labels))
    counted = [accuracy for accuracy in found if accuracy is not None]
    return sum(counted) / len(counted)


METRICS: dict[str, Metric] = {"top1": top1, "mean-per-class": mean_per_class}


def metric(name: str) -> Metric:
    """The metric of that name. The paper takes mean-per-class for Pets, Flowers, Caltech-101 and Aircraft.

    Raises:
        ConfigError: no metric has that name.
    """
    try:
        return METRICS[name]
    except KeyError:
        raise ConfigError(f"unknown metric {name!r}; choose from {sorted(METRICS)}") from None


def fit(
    features: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    weight: float,
    start: Fit | None = None,
    tolerance: float = TOLERANCE,
    max_evaluations: int = MAX_EVALUATIONS,
) -> Fit:
    """The classifier that minimises Σ CE + weight ‖θ‖². features: (n, d) float, labels: (n,) int64 in [0, N).

    start: a fit to begin at; its weight may have been another. tolerance: see `Fit.gap`.

    Raises:
        ConfigError: a weight that is not positive, features that are not finite, or images of one class alone.
    """
    if not 0 < weight < math.inf:
        raise ConfigError(f"the weight of ‖θ‖² is {weight:g}; give a number above 0")
    problem = _problem((features, labels), num_classes)
    theta = problem.targets.new_zeros(num_classes, len(problem.basis))
    if start is not None:
        theta = torch.cat([start.weights, start.bias[:, None]], dim=1) @ problem.basis
    search = _Search(problem, theta, weight, tolerance)
    search.run(max_evaluations)
    return search.fit()


def choose(
    train: Split,
    val: Split,
    *,
    num_classes: int,
    metric: Metric = top1,
    grid: Sequence[float] = GRID,
    tolerance: float = TOLERANCE,
) -> Choice:
    """The weight of the grid with the best validation score, and the fit with it on both splits together.

    Of equally good weights the strongest is taken; the released code takes the weakest, as its grid starts there.
    grid: any order. tolerance: see `Fit.gap`.

    Raises:
        ConfigError: as `fit`.
    """
    fits = _path(train, num_classes, sorted(grid, reverse=True), tolerance)
    trials = tuple(
        Trial(weight, metric(found.scores(val[0]), val[1]), found.converged, found.evaluations)
        for weight, found in fits
    )
    best = max(range(len(trials)), key=lambda place: trials[place].score)  # the first of equals
    weight, start = fits[best]
    both = torch.cat([train[0], val[0]]), torch.cat([train[1], val[1]])
    last = fit(*both, num_classes=num_classes, weight=weight, start=start, tolerance=tolerance)
    return Choice(weight, last, trials)


def _path(
    split: Split, num_classes: int, weights: Sequence[float], tolerance: float
) -> list[tuple[float, Fit]]:
    """A fit for each of the weights, in their order, strong to weak: θ grows from 0 and turns little.

    Each starts where the line through the last two points to: on 10,000 images of 17 classes, a quarter of the
    evaluations that the 45 fits take from the last one alone.
    """
    problem = _problem(split, num_classes)
    before = now = problem.targets.new_zeros(num_classes, len(problem.basis))
    fits = []
    for weight in weights:
        search = _Search(problem, 2 * now - before, weight, tolerance)
        search.run(MAX_EVALUATIONS)
        before, now = now, search.best
        fits.append((weight, search.fit()))
    return fits


@dataclass(frozen=True)
class _Problem:
    """What is to be classified, turned so that the features are uncorrelated.

    A rotation leaves ‖θ‖² and every score as they are; the curvature of the objective becomes nearly diagonal, so
    that one scale an axis conditions it for every weight.
    rows: (n, d + 1) float64, features and a constant 1 for the bias, rotated. basis: (d + 1, d + 1) orthogonal.
    curvature: (d + 1,), Σ_i rows². targets: (N, n) float64, one-hot.
    """

    rows: Tensor
    basis: Tensor
    curvature: Tensor
    targets: Tensor


def _problem(split: Split, num_classes: int) -> _Problem:
    features, labels = split
    check_finite(features)
    if len(labels) == 0 or (labels == labels[0]).all():
        raise ConfigError(
            f"a linear probe needs training images of at least 2 classes, got {len(labels)} of "
            f"{labels.unique().numel()}; choose other --data"
        )
    ones = torch.ones(len(features), 1, dtype=torch.float64, device=features.device)
    rows = torch.cat([features.double(), ones], dim=1)  # (n, d + 1)
    basis = torch.linalg.eigh(rows.T @ rows)[1]
    rows = rows @ basis
    targets = torch.zeros(num_classes, len(rows), dtype=torch.float64, device=rows.device)
    targets.scatter_(0, labels[None], 1)
    return _Problem(rows, basis, rows.square().sum(0), targets)


class _Reached(Exception):
    """The tolerance is reached: ends L-BFGS, whose own criteria know nothing of the gap."""


class _Search:
    """L-BFGS with a strong Wolfe search, in axes that are scaled by the objective's curvature at the start.

    best: the theta (N, d + 1) of the least gap so far, in the problem's axes; objective, gap: there.
    """

    def __init__(self, problem: _Problem, start: Tensor, weight: float, tolerance: float) -> None:
        self.problem, self.weight, self.tolerance = problem, weight, tolerance
        self.best, self.objective, self.gap = start, math.inf, math.inf
        self.evaluations = 0
        # the curvature is that of the scores, p (1 - p), averaged over images and classes, times the rows'
        likely = (start @ problem.rows.T).softmax(0)  # (N, n)
        spread = (likely - likely.square()).mean()
        self._scale = (spread * problem.curvature + 2 * weight).rsqrt()  # (d + 1,)
        self._scaled = (start / self._scale).requires_grad_()

    def run(self, max_evaluations: int) -> None:
        """Searches until the gap is within the tolerance, or nothing more is gained."""
        search = torch.optim.LBFGS(
            [self._scaled],
            max_iter=max_evaluations,
            max_eval=max_evaluations,
            history_size=HISTORY,
            tolerance_grad=0,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )
        with contextlib.suppress(_Reached):
            search.step(self._evaluate)

    def fit(self) -> Fit:
        """What was found, in the features' axes."""
        theta = self.best @ self.problem.basis.T
        return Fit(
            weights=theta[:, :-1],
            bias=theta[:, -1],
            objective=self.objective,
            gap=self.gap,
            converged=self.gap <= self.tolerance,
            evaluations=self.evaluations,
        )

    def _evaluate(self) -> Tensor:
        theta = self._scaled.detach() * self._scale
        value, gradient = _value_and_gradient(self.problem, theta, self.weight)
        gap = _gap(self.problem, value, gradient, self.weight)
        self.evaluations += 1
        if gap <= self.gap:
            self.best, self.objective, self.gap = theta, value.item(), gap
        if gap <= self.tolerance:
            raise _Reached
        self._scaled.grad = gradient * self._scale
        return value


def _value_and_gradient(problem: _Problem, theta: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """The objective and its gradient at theta (N, d + 1). Returns a scalar and (N, d + 1)."""
    # classes first: with few columns beside many rows BLAS was up to five times slower
    scores = theta @ problem.rows.T  # (N, n)
    log_sums = scores.logsumexp(0)
    value = log_sums.sum() - (scores * problem.targets).sum() + weight * theta.square().sum()
    errors = (scores - log_sums).exp_() - problem.targets
    return value, torch.addmm(theta, errors, problem.rows, beta=2 * weight)


def _gap(problem: _Problem, value: Tensor, gradient: Tensor, weight: float) -> float:
    """`Fit.gap`: the objective is 2w-strongly convex in all of θ, so at most ‖∇‖² / (4w) above its least value."""
    bound = gradient.square().sum() / (4 * weight)
    chance = problem.targets.shape[1] * math.log(len(problem.targets))  # the objective at θ = 0
    rounding = torch.finfo(value.dtype).eps * chance
    return (bound / torch.minimum(value, chance - value).clamp_min(rounding)).item()
