"""Which classes are taken for which: the confusion matrix, and what is read off it.

N classes; confusion[i, k] is how many images of class i were taken for class k.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Confused(NamedTuple):
    """A class, the class that it was taken for, and how many images that happened to."""

    truth: int
    predicted: int
    images: int


def confusion_matrix(probabilities: Tensor, labels: Tensor) -> Tensor:
    """How many images of each class (row) were taken for each class (column).

    probabilities: (n, N) float, labels: (n,) int64. Returns (N, N) int64.
    """
    classes = probabilities.shape[1]
    pairs = labels * classes + probabilities.argmax(1)  # (n,), in [0, N * N)
    return torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def class_accuracies(confusion: Tensor) -> list[float | None]:
    """The share of each class's images that were recognised (recall); None where the class has no images.

    confusion: (N, N). Returns N values in [0, 1].
    """
    counts, right = confusion.sum(1).tolist(), confusion.diagonal().tolist()
    return [hits / n if n else None for hits, n in zip(right, counts, strict=True)]


def most_confused(confusion: Tensor, count: int) -> list[Confused]:
    """The pairs of classes that were mixed up most often, at most `count` of them. confusion: (N, N)."""
    wrong = confusion - confusion.diagonal().diag()
    order = wrong.flatten().argsort(descending=True, stable=True)[:count]
    places = [divmod(place, len(confusion)) for place in order.tolist()]
    pairs = [Confused(truth, taken, int(wrong[truth, taken])) for truth, taken in places]
    return [pair for pair in pairs if pair.images]


def as_json(confusion: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """The matrix and the accuracy of every class, for a file. confusion: (N, N), classes: N names."""
    counts, accuracies = confusion.sum(1).tolist(), class_accuracies(confusion)
    return {
        "per_class": [
            {"class": name, "n": n, "accuracy": accuracy}
            for name, n, accuracy in zip(classes, counts, accuracies, strict=True)
        ],
        "confusion": confusion.tolist(),
    }
