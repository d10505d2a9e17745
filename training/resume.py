"""A run that goes on: with its own settings but for a few, and with the data that it began with."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from training import checkpoint, data
from training.batches import Batches
from training.checkpoint import C, Run
from training.config import DataConfig, absolute_paths
from training.errors import ConfigError, DataError
from training.flags import by_flag
from training.progress import Progress
from training.setup import Prepared, kept_images, read_splits
from training.splits import Dataset

# settings that may be given with --resume, of the run and of its data
MAY_CHANGE = ("device", "devices", "resume")
DATA_MAY_CHANGE = ("data", "data_dir", "workers")
# grey levels, on average over a picture: another picture differs by more, another decoder's by less but for a few
SAME_PICTURE = 8.0


def own_settings(config: C) -> C:
    """The settings of the run that config.resume names.

    Raises:
        CheckpointError: there is no such run in the folder.
    """
    assert config.resume is not None
    return checkpoint.open_kind(config.resume.expanduser(), type(config)).config


def given_settings(read: C, own: C) -> C:
    """What a command line gives to a run, as `open_to_continue` takes it: all that was not given is at its default.

    read: its settings, read with the run's own as their defaults, so that what is given is known from what is not.

    Raises:
        ConfigError: a setting was given that a run cannot change on the way.
    """
    usual, usual_data = type(read)(), DataConfig()
    new = _given(read, own, MAY_CHANGE)
    new_data = _given(absolute_paths(read.data), absolute_paths(own.data), DATA_MAY_CHANGE)
    # what is given at its default could not be told from what is not given
    unseen = [name for name, value in new.items() if value == getattr(usual, name)]
    unseen += [name for name, value in new_data.items() if value == getattr(usual_data, name)]
    _refuse(changed_settings(read, own) + [_flag(name) for name in unseen])
    return dataclasses.replace(usual, data=dataclasses.replace(usual_data, **new_data), **new)


def _given(read: Any, own: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Those of the settings with these names that are not the run's own."""
    values = {name: getattr(read, name) for name in names}
    return {name: value for name, value in values.items() if value != getattr(own, name)}


def open_to_continue(config: C, folder: Path) -> Run[C]:
    """The run in a folder, with what may change of its settings taken from config where it was given there.

    Raises:
        ConfigError: a setting was given that a run cannot change on the way.
        CheckpointError: there is no run in the folder.
        DataError: the run is not complete, and the file or folder of its data is not there.
    """
    _refuse(changed_settings(config))
    run = checkpoint.open_kind(folder, type(config))
    new = {name: getattr(config.data, name) for name in DATA_MAY_CHANGE}
    given = {name: value for name, value in new.items() if value != getattr(DataConfig(), name)}
    device = run.config.device if config.device == type(config)().device else config.device
    where = absolute_paths(dataclasses.replace(run.config.data, **given))
    if not run.complete:
        data.check_there(where, "; if it has moved, give --data with --resume")
    return dataclasses.replace(
        run, config=dataclasses.replace(run.config, data=where, device=device)
    )


def continue_run(run: Run, device: torch.device, progress: Progress) -> Prepared:
    """The batches of a run's data.

    Raises:
        DataError: the data will not do, or is not what it was when the run began.
    """
    dataset = load_again(run, run.config.data)
    prepared = read_splits(dataset, run.problem.image, run.config.data, device, progress)
    check_counts(run, dataset.name, prepared.counts, "to train, validate and test")
    check_kept(run, dataset.name, prepared.val)
    return prepared


def load_again(run: Run, config: DataConfig) -> Dataset:
    """The data of a run, with the classes that it had when the run began.

    Raises:
        DataError: the data is not there, or has other classes now.
    """
    dataset = data.load(config)
    check_classes(run, dataset.name, dataset.classes)
    return dataset


def check_classes(run: Run[Any], name: str, classes: tuple[str, ...]) -> None:
    """Refuse data, called name, that has other classes than when the run began.

    Raises:
        DataError: it has.
    """
    if classes != run.problem.classes:
        raise DataError(f"{name} has other classes than when {run.folder} began; train again")


def check_counts(run: Run[Any], name: str, counts: tuple[int, ...], purposes: str) -> None:
    """Refuse data, called name, that has other numbers of images, for these purposes, than when the run began.

    Raises:
        DataError: it has.
    """
    if counts != run.problem.counts:
        raise DataError(
            f"{name} has {counts} images {purposes}, "
            f"but {run.problem.counts} when {run.folder} began; train again"
        )


def check_kept(run: Run[Any], name: str, val: Batches) -> None:
    """Refuse data, called name, whose validation images are not those that the run kept when it began.

    Raises:
        DataError: most are others, or in another order.
        CheckpointError: the run's own cannot be read.
    """
    before, _ = checkpoint.read_validation_images(run)
    now, _ = kept_images(val)
    apart = (now.cpu().float() - before.float()).abs().flatten(1).mean(1)  # (n,)
    others = int((apart > SAME_PICTURE).sum())
    if others > len(before) / 2:
        raise DataError(
            f"{name} has other images than when {run.folder} began, or in another order: {others} of the "
            f"{len(before)} that the run keeps differ; give the data that it began with, or train again"
        )


def _refuse(flags: list[str]) -> None:
    if flags:
        raise ConfigError(
            f"{', '.join(flags)} cannot be given with --resume: a run goes on with its own settings"
        )


def changed_settings(config: C, own: C | None = None) -> list[str]:
    """The flags that a run cannot change on the way and that differ from its own settings. None: from the defaults."""
    usual = by_flag(type(config)() if own is None else own)
    free = [_flag(name) for name in (*MAY_CHANGE, *DATA_MAY_CHANGE)]
    changed = [_flag(name) for name, value in by_flag(config).items() if value != usual[name]]
    return [flag for flag in changed if flag not in free]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
