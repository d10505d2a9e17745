"""A run that goes on: with its own settings but for a few, and with the data that it began with."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from training import checkpoint, data
from training.checkpoint import C, Run
from training.config import DataConfig
from training.errors import ConfigError, DataError
from training.progress import Progress
from training.setup import Prepared, read_splits
from training.splits import Dataset

# settings that may be given with --resume, of the run and of its data
MAY_CHANGE = ("device", "devices", "resume")
PREFIXED = ("optim", "views")  # groups of settings whose flags begin with the group's name
DATA_MAY_CHANGE = ("data_dir", "workers")


def open_to_continue(config: C, folder: Path) -> Run[C]:
    """The run in a folder, with what may change of its settings taken from config where it was given there.

    Raises:
        ConfigError: a setting was given that a run cannot change on the way.
        CheckpointError: there is no run in the folder.
    """
    refused = changed_settings(config)
    if refused:
        raise ConfigError(
            f"{', '.join(refused)} cannot be given with --resume: a run goes on with its own settings"
        )
    run = checkpoint.open_kind(folder, type(config))
    new = {name: getattr(config.data, name) for name in DATA_MAY_CHANGE}
    given = {name: value for name, value in new.items() if value != getattr(DataConfig(), name)}
    device = run.config.device if config.device == type(config)().device else config.device
    changed = dataclasses.replace(
        run.config, data=dataclasses.replace(run.config.data, **given), device=device
    )
    return dataclasses.replace(run, config=changed)


def continue_run(run: Run, device: torch.device, progress: Progress) -> Prepared:
    """The batches of a run's data.

    Raises:
        DataError: the data will not do, or is not what it was when the run began.
    """
    dataset = load_again(run, run.config.data)
    prepared = read_splits(dataset, run.problem.image, run.config.data, device, progress)
    check_counts(run, dataset.name, prepared.counts, "to train, validate and test")
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


def changed_settings(config: Any) -> list[str]:
    """The flags that differ from their defaults and that a run cannot change on the way."""
    return _changed(config, type(config)(), "", MAY_CHANGE)


def _changed(group: Any, default: Any, prefix: str, free: tuple[str, ...]) -> list[str]:
    flags, below = [], []
    for field in dataclasses.fields(group):
        name, value, usual = field.name, getattr(group, field.name), getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            may = DATA_MAY_CHANGE if name == "data" else ()
            below += _changed(value, usual, f"{name}." if name in PREFIXED else "", may)
        elif name not in free and value != usual:
            flags.append(f"--{prefix}{name.replace('_', '-')}")
    return flags + below
