"""Whether a run has learnt labels of images that are held out here: an answer about those would count for nothing.

Data is known again by where it lies; in another place, by its classes and by the pictures that the run keeps of its
own validation split, pixel by pixel.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from training import checkpoint
from training.batches import Batches
from training.checkpoint import Run
from training.config import DataConfig, TrainConfig, absolute_paths
from training.errors import ConfigError

# settings of the data that decide which images are held out
SPLIT = ("split_seed", "val_fraction", "test_fraction")
CHUNK = 1024  # images that are looked at together


def check_complete(run: Run[Any], named: str) -> None:
    """Refuse a run that is not finished. named: what the message calls it.

    Raises:
        ConfigError: it is not.
    """
    if not run.complete:
        command = checkpoint.resume_command(run.folder, checkpoint.made_by(run.folder))
        raise ConfigError(f"{named}: the run is not complete; go on with `{command}`")


def check_split(run: Run[Any], config: DataConfig, named: str) -> None:
    """Refuse a run that has learnt labels of what is held out of this data; before anything of it is read.

    named: what the message calls the run.

    Raises:
        ConfigError: it lies where the run's data lay, and was split in another way.
    """
    if learnt_labels(run) and same_place(run, config):
        _compare(run, config, named)


def check_pictures(
    run: Run[Any],
    config: DataConfig,
    classes: tuple[str, ...],
    splits: Iterable[Batches],
    named: str,
) -> None:
    """The same for data in another place. classes: its own. splits: all of it, as `holds` takes them.

    Pictures are looked at only where the splits' settings differ.

    Raises:
        ConfigError: it is the run's data, and was split in another way.
        CheckpointError: the pictures that the run keeps are missing or damaged.
    """
    alike = all(getattr(run.config.data, name) == getattr(config, name) for name in SPLIT)
    if alike or not learnt_labels(run) or same_place(run, config):
        return
    if holds(run, classes, splits):
        _compare(run, config, named)


def learnt_labels(run: Run[Any]) -> bool:
    """Whether a run has learnt from labels at all."""
    return isinstance(run.config, TrainConfig) or run.config.method == "supervised"


def same_place(run: Run[Any], config: DataConfig) -> bool:
    """Whether the data lies where the run's lay, or is the set of that name."""
    return bool(absolute_paths(run.config.data).data == absolute_paths(config).data)


def holds(run: Run[Any], classes: tuple[str, ...], splits: Iterable[Batches]) -> bool:
    """Whether most of the pictures that a run keeps are among those of these splits, read at its image size.

    The splits are looked through one after the other, that of validation best first, until enough are found; none
    where the classes are others.

    Raises:
        CheckpointError: the pictures that the run keeps are missing or damaged.
    """
    if run.problem.classes != classes:
        return False
    missing = set(_digests(checkpoint.read_validation_images(run)[0]))
    most = len(missing) / 2
    for batches in splits:
        for images, _ in batches.iterate(list(torch.arange(len(batches)).split(CHUNK))):
            missing.difference_update(_digests(images))
            if len(missing) < most:
                return True
    return False


def _digests(images: Tensor) -> list[bytes]:
    return [hashlib.sha256(image.tobytes()).digest() for image in images.cpu().numpy()]


def _compare(run: Run[Any], config: DataConfig, named: str) -> None:
    for name in SPLIT:
        theirs, ours = getattr(run.config.data, name), getattr(config, name)
        if theirs != ours:
            raise ConfigError(
                f"{named} was trained with --{name.replace('_', '-')} {theirs}, not {ours}: "
                "it has seen images that are held out here; give the same split"
            )
