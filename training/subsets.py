"""Fewer training images than there are: some of every class (--train-images), or a long tail of them (--imbalance).

Validation and test stay as they are. Which images stay depends on the split seed alone, so that runs
with different seeds train on the same ones, and a continued run on its own.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.config import DataConfig
from training.errors import ConfigError
from training.splits import Split

MOST_NAMED = 12  # classes whose counts are printed one by one


def thin(split: Split, num_classes: int, config: DataConfig) -> Split:
    """The training images that the settings leave, in their order: first their number is cut, then the tail made.

    Raises:
        ConfigError: more images than there are, or fewer than there are classes.
    """
    if config.train_images is not None:
        wanted = proportional(class_counts(split.labels, num_classes), config.train_images)
        split = draw(split, wanted, config.split_seed)
    if config.imbalance == 1:
        return split
    wanted = long_tail(class_counts(split.labels, num_classes), config.imbalance)
    return draw(split, wanted, config.split_seed)


def class_counts(labels: NDArray[np.int64] | Sequence[int], num_classes: int) -> list[int]:
    """How many of the labels are of each class, in the order of the classes."""
    return [int(count) for count in np.bincount(labels, minlength=num_classes)]


def proportional(counts: Sequence[int], total: int) -> list[int]:
    """How many of every class make up `total`, in proportion to what is there (largest remainders), at least one each.

    Raises:
        ConfigError: more than there are, or fewer than there are classes.
    """
    there = sum(counts)
    if total > there:
        raise ConfigError(
            f"--train-images is {total}; there are {there} images to train on, "
            "after what is held out for validation and test"
        )
    if total < len(counts):
        raise ConfigError(
            f"--train-images is {total}; it must be at least {len(counts)}, one for every class"
        )
    wanted = [total * count // there for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda k: (-(total * counts[k] % there), k))
    for label in by_remainder[: total - sum(wanted)]:
        wanted[label] += 1
    for label, number in enumerate(wanted):
        if number == 0:  # one for the smallest classes, from the largest
            wanted[wanted.index(max(wanted))] -= 1
            wanted[label] = 1
    return wanted


def long_tail(counts: Sequence[int], factor: float) -> list[int]:
    """n_k = n_max * factor^(-k / (N - 1)) rounded down, at least 1: the exponential profile of Cao et al. 2019.

    Classes in the order of their labels, n_max the largest one; a class that has fewer keeps what it has.
    """
    last = len(counts) - 1
    wanted = []
    for k, count in enumerate(counts):
        # 1e-9: 5,000 / 100 is 50, also where the power falls a hair short of 1/100
        number = math.floor(max(counts) * factor ** (-k / last) + 1e-9)
        wanted.append(min(count, max(1, number)))
    return wanted


def draw(split: Split, wanted: Sequence[int], seed: int) -> Split:
    """That many images of every class, drawn by the seed, in their order in the split."""
    generator = np.random.default_rng(seed)
    kept = []
    for label, number in enumerate(wanted):
        members = generator.permutation(np.flatnonzero(split.labels == label))
        kept.append(members[:number])
    return split.take(np.sort(np.concatenate(kept)))


def describe(labels: Sequence[int], classes: Sequence[str]) -> str:
    """How many training images there are of every class, or of the largest and the smallest where they are many."""
    counts = class_counts(labels, len(classes))
    if len(counts) <= MOST_NAMED:
        each = ", ".join(f"{name} {n:,}" for name, n in zip(classes, counts, strict=True))
        return f"training images by class: {each}"
    largest, smallest = max(counts), min(counts)
    return (
        f"training images by class: from {largest:,} ({classes[counts.index(largest)]}) "
        f"to {smallest:,} ({classes[counts.index(smallest)]})"
    )
