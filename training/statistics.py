"""What a look at evenly spaced training images tells: the channels' mean and spread, and whether there is colour."""

from collections.abc import Sequence

import torch

from training.batches import Batches
from training.errors import DataError
from training.progress import Progress
from training.transformations import Transformation

STATISTICS_IMAGES = 2000  # enough for a channel's mean to a tenth of a grey level


def channel_statistics(batches: Batches) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, standard deviation) of every channel over evenly spaced training images, in units of uint8 pixels."""
    total, squares, count = (
        torch.zeros(3, dtype=torch.float64),
        torch.zeros(3, dtype=torch.float64),
        0,
    )
    for images, _ in batches.iterate(
        list(evenly_spaced(len(batches), STATISTICS_IMAGES).split(100))
    ):
        pixels = images.flatten(0, 2).double().cpu()  # (B * H * W, 3)
        total, squares, count = (
            total + pixels.sum(0),
            squares + pixels.square().sum(0),
            count + len(pixels),
        )
    mean = total / count
    std = (
        (squares / count - mean.square()).clamp_min(1.0).sqrt()
    )  # an empty channel must not divide by zero
    return tuple(round(v, 3) for v in mean.tolist()), tuple(round(v, 3) for v in std.tolist())


def evenly_spaced(count: int, wanted: int) -> torch.Tensor:
    """At most `wanted` places of `count`, evenly spaced: (min(count, wanted),) int64."""
    return torch.linspace(0, count - 1, min(count, wanted)).round().long()


def check_colours(
    batches: Batches, transformations: Sequence[Transformation], progress: Progress
) -> None:
    """Say how many training images are grey, where the transformations permute the channels.

    Raises:
        DataError: all of them are: every permutation is the same image.
    """
    if all(t.channels == Transformation().channels for t in transformations):
        return
    places = evenly_spaced(len(batches), STATISTICS_IMAGES)
    grey = 0
    for images, _ in batches.iterate(list(places.split(100))):
        grey += int((images == images[..., :1]).flatten(1).all(1).sum())
    if grey == len(places):
        raise DataError(
            "all training images are grey: permuting their colours changes nothing; "
            "give --transformations rotation"
        )
    if grey:
        progress.say(
            f"{100 * grey / len(places):.1f} % of the training images are grey: their colours cannot be told"
        )
