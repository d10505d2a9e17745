"""What is fitted on images held out from training: a temperature for every mode, and the threshold of `auto`.

Temperature scaling (Guo et al. 2017, section 4.2): one T a mode, which divides its logits and minimises their NLL.
The test split is never looked at here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from serving.manifest import AGGREGATED, Auto

LEAST_IMAGES = 50  # below it T stays 1: what so few images would fit is mostly noise
COLDEST, HOTTEST = 0.05, 20.0  # of T
PRECISION = 1e-6  # relative, of T
WITHIN = 0.002  # top-1 that `auto` may lose to `aggregated` on the images held out: 0.2 points


@dataclass(frozen=True)
class Escalation:
    """A threshold of `auto`, and what it does to the images that it was measured on.

    escalation_rate: share of images in doubt. forward_passes: mean of an image. top1: of the answers.
    """

    threshold: float
    escalation_rate: float
    forward_passes: float
    top1: float


@dataclass(frozen=True)
class Curve:
    """Every threshold that makes a difference, by rising number of images in doubt. K points, (K,) each.

    thresholds: float64, the first 0 (none in doubt), the last 1 (all). doubted: int64 images; correct: int64 answers.
    """

    thresholds: Tensor
    doubted: Tensor
    correct: Tensor
    images: int
    rest_passes: int

    def point(self, k: int) -> Escalation:
        """The k-th of them."""
        rate = int(self.doubted[k]) / self.images
        top1 = int(self.correct[k]) / self.images
        return Escalation(float(self.thresholds[k]), rate, 1 + rate * self.rest_passes, top1)

    def shown(self, rows: int) -> list[Escalation]:
        """Up to so many points (at least 2), about evenly spread from none in doubt to all."""
        wanted = torch.linspace(0, self.images, rows).round().long()
        places = torch.searchsorted(self.doubted, wanted).unique()  # the last point doubts all
        return [self.point(k) for k in places.tolist()]


def fit_temperature(logits: Tensor, labels: Tensor) -> float | None:
    """The T in [COLDEST, HOTTEST] for which softmax(logits / T) has the least NLL, to a relative 1e-6.

    logits: (n, N); labels: (n,) int64. Of 1 / T the NLL is convex and its slope is the mean over the images of
    (expected logit - logit of the label), whose change of sign is found by bisection, in float64. HOTTEST where an
    even hotter one would be better; None where an even colder one would: if every answer is right there is no best.
    """
    logits = logits.double()
    of_label = logits.gather(1, labels[:, None])[:, 0]

    def is_too_hot(temperature: float) -> bool:
        expected = ((logits / temperature).softmax(1) * logits).sum(1)
        return bool((expected - of_label).mean() < 0)

    low, high = COLDEST, HOTTEST
    if is_too_hot(low):
        return None
    if not is_too_hot(high):
        return HOTTEST
    while high / low > 1 + PRECISION:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if is_too_hot(middle) else (middle, high)
    return float((low * high) ** 0.5)


def temperatures(logits: Mapping[str, Tensor], labels: Tensor) -> dict[str, float]:
    """T of every mode; 1 where there are too few images to fit one, or where there is no best one."""
    if len(labels) < LEAST_IMAGES:
        return dict.fromkeys(logits, 1.0)
    return {mode: fit_temperature(values, labels) or 1.0 for mode, values in logits.items()}


def escalation_curve(
    first: Tensor, aggregated: Tensor, labels: Tensor, *, rest_passes: int
) -> Curve:
    """What `auto` would be worth at every threshold: its accuracy against its passes.

    first, aggregated: (n, N) probabilities by one pass and by all copies. rest_passes: of an image in doubt, beside
    the first. The thresholds are the confidences of the first pass (images of one confidence are in doubt together),
    but for the highest: 1 stands in its place, so that "all" also means all images yet to come.
    """
    confidence, order = first.max(1).values.double().sort()
    right_alone, right_together = (
        (p.argmax(1) == labels).long()[order] for p in (first, aggregated)
    )
    gained = torch.cumsum(right_together - right_alone, 0)  # (n,), by the k + 1 least confident
    _, sizes = confidence.unique_consecutive(return_counts=True)
    doubted = sizes.cumsum(0)  # (K - 1,)
    thresholds = confidence[doubted - 1]
    thresholds[-1] = 1
    zero = torch.zeros(1, dtype=torch.int64)
    return Curve(
        torch.cat([zero.double(), thresholds]),
        torch.cat([zero, doubted]),
        right_alone.sum() + torch.cat([zero, gained[doubted - 1]]),
        len(labels),
        rest_passes,
    )


def least_passes(curve: Curve) -> Escalation:
    """The threshold of the fewest passes whose top-1 is within WITHIN of `aggregated`'s.

    0 where one pass is already as good; 1 where nothing less than all copies of all images is.
    """
    enough = curve.correct >= curve.correct[-1] - WITHIN * curve.images - 1e-9
    return curve.point(int(enough.nonzero()[0]))


def auto(
    first: str,
    answers: Mapping[str, Tensor],
    labels: Tensor,
    *,
    rest_passes: int,
    calibration: dict[str, Any],
) -> Auto:
    """The mode `auto` as the answers of the other modes choose it. Its graph and its metrics are still missing.

    first: the mode of its first pass. calibration: what the manifest says of the images.
    """
    curve = escalation_curve(answers[first], answers[AGGREGATED], labels, rest_passes=rest_passes)
    chosen = least_passes(curve)
    return Auto(
        first=first,
        rest=None,
        threshold=chosen.threshold,
        escalation_rate=chosen.escalation_rate,
        forward_passes=chosen.forward_passes,
        metrics={},
        calibration=calibration,
    )
