"""A run that goes on: with its own settings but for a few, and with the data that it began with."""

import dataclasses
from pathlib import Path

import torch

from training import checkpoint, data
from training.checkpoint import Run
from training.config import DataConfig, TrainConfig
from training.errors import ConfigError, DataError
from training.progress import Progress
from training.setup import Prepared, read_splits
from training.splits import Dataset

# settings that may be given with --resume, of the run and of its data
MAY_CHANGE = ("device", "devices", "resume")
DATA_MAY_CHANGE = ("data_dir", "workers")


def open_to_continue(config: TrainConfig, folder: Path) -> Run:
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
    run = checkpoint.open_run(folder)
    new = {name: getattr(config.data, name) for name in DATA_MAY_CHANGE}
    given = {name: value for name, value in new.items() if value != getattr(DataConfig(), name)}
    device = run.config.device if config.device == TrainConfig().device else config.device
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
    if prepared.counts != run.problem.counts:
        raise DataError(
            f"{dataset.name} has {prepared.counts} images to train, validate and test, "
            f"but {run.problem.counts} when {run.folder} began; train again"
        )
    return prepared


def load_again(run: Run, config: DataConfig) -> Dataset:
    """The data of a run, with the classes that it had when the run began.

    Raises:
        DataError: the data is not there, or has other classes now.
    """
    dataset = data.load(config)
    if dataset.classes != run.problem.classes:
        raise DataError(
            f"{dataset.name} has other classes than when {run.folder} began; train again"
        )
    return dataset


def changed_settings(config: TrainConfig) -> list[str]:
    """The flags that differ from their defaults and that a run cannot change on the way."""
    flags = []
    for prefix, group, default, free in (
        ("", config, TrainConfig(), (*MAY_CHANGE, "data", "optim", "augment", "loss")),
        ("", config.data, DataConfig(), DATA_MAY_CHANGE),
        ("optim.", config.optim, TrainConfig().optim, ()),
        ("", config.augment, TrainConfig().augment, ()),
        ("", config.loss, TrainConfig().loss, ()),
    ):
        for field in dataclasses.fields(group):
            name = field.name
            if name not in free and getattr(group, name) != getattr(default, name):
                flags.append(f"--{prefix}{name.replace('_', '-')}")
    return flags
