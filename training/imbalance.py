"""What classes of few images need: weights and margins, from how many images there are of each. Pure functions.

Class-balanced weights: Cui et al. 2019. Margins and the deferred weights (LDAM-DRW): Cao et al. 2019.
A joint label (y, j) has the images of its class, so that it takes its class's weight and margin.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.config import LossConfig
from training.errors import ConfigError

BETA = 0.9999  # of the effective numbers, in both papers' experiments on long tails


@dataclass(frozen=True)
class Balance:
    """What every cross-entropy does for the classes, each (N,) float32 or None.

    weights: as Terms has them, in the last fifth of the steps only if deferred is set.
    margins: as Terms has them, in units of the logits.
    """

    weights: Tensor | None = None
    margins: Tensor | None = None
    deferred: bool = False

    def weights_at(self, step: int, total_steps: int) -> Tensor | None:
        """The weights of a step in [0, total_steps): of a deferred schedule, from epoch 160 of 200 on (Cao et al.)."""
        return None if self.deferred and 5 * step < 4 * total_steps else self.weights


def balance(
    config: LossConfig, counts: Sequence[int], *, scale: float, device: torch.device
) -> Balance:
    """The weights and margins that the settings ask for. counts: training images of every class, at least 1.

    scale: what a cosine of 1 is as a logit.
    """
    weigh, largest = find_weights(config.class_weights), config.ldam
    return Balance(
        weights=None if weigh is None else weigh(counts).float().to(device),
        margins=None if largest is None else (scale * margins(counts, largest)).float().to(device),
        deferred=config.class_weights == "deferred",
    )


def inverse_weights(counts: Sequence[int]) -> Tensor:
    """1 / n_y, scaled to a mean over the classes of 1. Returns (N,) float64."""
    return _scaled(1 / torch.tensor(counts, dtype=torch.float64))


def effective_weights(counts: Sequence[int], beta: float = BETA) -> Tensor:
    """(1 - β) / (1 - β^n_y), scaled so that they sum to N, as in Cui et al. 2019. Returns (N,) float64.

    Between none at all (β = 0) and the inverse of the counts (β to 1).
    """
    return _scaled((1 - beta) / (1 - beta ** torch.tensor(counts, dtype=torch.float64)))


def margins(counts: Sequence[int], largest: float) -> Tensor:
    """Δ_y = C / n_y^(1/4), C such that the rarest class has the largest margin (Cao et al. 2019). Returns (N,) float64.

    In units of the cosine between features and a class's weights.
    """
    numbers = torch.tensor(counts, dtype=torch.float64)
    return largest * (numbers.min() / numbers) ** 0.25


def find_weights(name: str) -> Callable[[Sequence[int]], Tensor] | None:
    """The weights of that name as a function of the counts; None where all classes weigh the same.

    Raises:
        ConfigError: no weights have that name.
    """
    try:
        return WEIGHTS[name]
    except KeyError:
        raise ConfigError(f"unknown class weights {name!r}; choose from {list(WEIGHTS)}") from None


def counted(config: LossConfig, labels: Tensor, classes: Sequence[str]) -> tuple[int, ...]:
    """How many training images there are of every class. labels: (n,) int64.

    Raises:
        ConfigError: there is none of a class (all of its files were unreadable, say), and the settings ask for
            weights or margins.
    """
    counts = tuple(labels.bincount(minlength=len(classes)).tolist())
    empty = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    flag = "--class-weights" if config.ldam is None else "--ldam"
    if empty and (config.ldam is not None or find_weights(config.class_weights) is not None):
        raise ConfigError(f"{flag} needs a training image of every class; there is none of {empty}")
    return counts


def _scaled(weights: Tensor) -> Tensor:
    """The weights by a factor that makes their mean 1; exactly 1 each where they are equal."""
    ratios = weights / weights.max()
    return ratios / ratios.mean()


WEIGHTS: dict[str, Callable[[Sequence[int]], Tensor] | None] = {
    "none": None,
    "balanced": inverse_weights,
    "effective": effective_weights,
    "deferred": effective_weights,
}
