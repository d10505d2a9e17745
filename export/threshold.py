"""The threshold of `auto`: how sure one pass must be to answer alone, from images that were held out from training.

What one pass loses where it answers alone is modelled, not counted. Of all thresholds, the count of right answers lost
on some hundred images flatters one by chance, and the flattered one would be taken (benchmarks/auto.py compares both).
The model: how often one pass and all copies differ at a confidence, which needs no labels, times how many answers are
won by the copies where they differ, one number for all confidences.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from serving.manifest import AGGREGATED, Auto

WITHIN = 0.002  # top-1 that `auto` may be expected to lose to `aggregated`: 0.2 points

# Thought to have been seen beside the images: differing answers, and how many more of them the copies won than lost.
_DIFFERED, _WON = 4.0, 1.0
_SUREST = 1 - 1e-7  # a confidence nearer to 1 counts as this: float32 has no more digits


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

    thresholds: float64, the first 0 (none in doubt), then the confidences that there are, at the last of which all are
    in doubt. doubted: int64 images; correct: int64 answers.
    """

    thresholds: Tensor
    doubted: Tensor
    correct: Tensor
    images: int
    rest_passes: int

    def point(self, k: int) -> Escalation:
        """The k-th of them. The last says 1, so that "all" also means all images yet to come."""
        last = k in (-1, len(self.thresholds) - 1)
        rate = int(self.doubted[k]) / self.images
        top1 = int(self.correct[k]) / self.images
        threshold = 1.0 if last else float(self.thresholds[k])
        return Escalation(threshold, rate, 1 + rate * self.rest_passes, top1)

    def at(self, threshold: float) -> Escalation:
        """What any threshold comes to on these images: the point of as many images in doubt."""
        places = torch.searchsorted(self.thresholds, threshold, right=True)
        return self.point(int(places) - 1)

    def shown(self, rows: int) -> list[Escalation]:
        """Up to so many points (at least 2), about evenly spread from none in doubt to all."""
        wanted = torch.linspace(0, self.images, rows).round().long()
        places = torch.searchsorted(self.doubted, wanted).unique()  # the last point doubts all
        return [self.point(k) for k in places.tolist()]


def escalation_curve(
    first: Tensor, aggregated: Tensor, labels: Tensor, *, rest_passes: int
) -> Curve:
    """What `auto` would have been worth at every threshold: its accuracy against its passes.

    first, aggregated: (n, N) probabilities by one pass and by all copies. rest_passes: of an image in doubt, beside
    the first. The thresholds are the confidences of the first pass: images of one confidence are in doubt together.
    """
    confidence, order = first.max(1).values.double().sort()
    right_alone, right_together = (
        (p.argmax(1) == labels).long()[order] for p in (first, aggregated)
    )
    gained = torch.cumsum(right_together - right_alone, 0)  # (n,), by the k + 1 least confident
    _, sizes = confidence.unique_consecutive(return_counts=True)
    doubted = sizes.cumsum(0)  # (K - 1,)
    zero = torch.zeros(1, dtype=torch.int64)
    return Curve(
        torch.cat([zero.double(), confidence[doubted - 1]]),
        torch.cat([zero, doubted]),
        right_alone.sum() + torch.cat([zero, gained[doubted - 1]]),
        len(labels),
        rest_passes,
    )


def chance_to_differ(confidence: Tensor, differs: Tensor) -> Tensor:
    """How probable it is that all copies answer otherwise than one pass of that confidence: (n,) float64.

    A logistic curve over the log-odds of the confidence, by maximum likelihood. Its targets are not 1 and 0: those of m
    images that differ are (m + 1) / (m + 2), those of the n - m others sum to (n - m) / (n - m + 2) (Platt 1999,
    section 2.2): that none differed says that it is rare, not that it cannot be. Platt gives each of these others the
    same; on an easy set, where nearly all images are as sure as can be, these would then be thought to hide the one
    that is imagined, and all would be in doubt. Here it is shared out as the square root of 1 - confidence: by 1 -
    confidence itself it would be if confidences could be trusted, but where every answer is right no temperature can
    be fitted to them.

    confidence: (n,) in (0, 1]; differs: (n,) bool.
    """
    sure = confidence.double().clamp(max=_SUREST)
    odds = (sure / (1 - sure)).log()
    spread = odds.std(correction=0)
    odds = (odds - odds.mean()) / (spread if spread > 0 else 1)  # the same curve, sooner found
    m, n = int(differs.sum()), len(differs)
    unsure = (1 - sure).sqrt() * ~differs
    imagined = unsure / unsure.sum() * ((n - m) / (n - m + 2)) if m < n else unsure
    targets = torch.where(differs, (m + 1) / (m + 2), imagined)
    line = torch.zeros(2, dtype=torch.float64, requires_grad=True)  # height and slope
    search = torch.optim.LBFGS(
        [line],
        max_iter=200,
        tolerance_grad=1e-10,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        search.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(
            line[0] + line[1] * odds, targets
        )
        value.backward()
        return value

    search.step(loss)
    return (line[0] + line[1] * odds).sigmoid().detach()


def gain_where_they_differ(first: Tensor, aggregated: Tensor, labels: Tensor) -> float:
    """How many answers all copies win, less those they lose, per image where they and one pass differ: 0 to 1.

    first, aggregated, labels: (n,) int64 classes. With one standard error on top: of two numbers of passes that are as
    good for all that is known, the larger is taken (the rule of one standard error, Breiman et al. 1984, section 3.4).
    0 where one pass is at least as good even so.
    """
    won = int((aggregated == labels).sum()) - int((first == labels).sum())
    decided = int(((aggregated == labels) != (first == labels)).sum())
    differed = int((first != aggregated).sum()) + _DIFFERED
    mean = (won + _WON) / differed
    variance = (decided + _WON) / differed - mean**2
    return max(0.0, mean + math.sqrt(variance / differed))


def least_passes(
    first: Tensor, aggregated: Tensor, labels: Tensor, *, rest_passes: int
) -> Escalation:
    """The threshold of the fewest passes whose expected top-1 is within WITHIN of `aggregated`'s.

    Arguments as of escalation_curve. 0 where one pass is expected to be as good; 1 where nothing less than all copies
    of all images is.
    """
    curve = escalation_curve(first, aggregated, labels, rest_passes=rest_passes)
    confidence, order = first.max(1).values.sort()
    alone, together = first.argmax(1), aggregated.argmax(1)
    chances = chance_to_differ(confidence, (alone != together)[order])
    lost = gain_where_they_differ(alone, together, labels) * torch.cat(
        [chances.flip(0).cumsum(0).flip(0), torch.zeros(1, dtype=torch.float64)]
    )  # (n + 1,) answers, where the k least confident are in doubt
    enough = lost[curve.doubted] <= WITHIN * curve.images
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
    chosen = least_passes(answers[first], answers[AGGREGATED], labels, rest_passes=rest_passes)
    return Auto(
        first=first,
        rest=None,
        threshold=chosen.threshold,
        escalation_rate=chosen.escalation_rate,
        forward_passes=chosen.forward_passes,
        metrics={},
        calibration=calibration,
    )
