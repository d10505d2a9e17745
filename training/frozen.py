"""An encoder taken from a run and left as it is: a pretrained one, or a classifier's backbone."""

import dataclasses
from pathlib import Path
from typing import Any

from training import checkpoint
from training.backbones import build_backbone
from training.checkpoint import Run
from training.config import DataConfig
from training.encoder import Encoder
from training.errors import CheckpointError, ConfigError
from training.unseen import check_complete, check_split


def load_encoder(folder: Path) -> tuple[Encoder, Run[Any]]:
    """The encoder of a run with the weights that the run keeps (its best), on the CPU, and the run.

    Raises:
        CheckpointError: no run is there, or it has no checkpoint yet, or one of another network.
    """
    run = checkpoint.open_any(folder)
    problem = run.problem
    backbone = build_backbone(run.config.backbone, (problem.image.height, problem.image.width))
    encoder = Encoder(backbone, problem.mean, problem.std)
    given, _ = checkpoint.read(folder / "best", "weights")
    own = encoder.state_dict().keys()
    try:
        # a classifier's heads are left out
        encoder.load_state_dict({name: value for name, value in given.items() if name in own})
    except RuntimeError as error:
        raise CheckpointError(
            f"{folder / 'best'}: the weights are of another network ({error})"
        ) from None
    return encoder.eval(), run


def open_frozen(folder: Path, data: DataConfig) -> tuple[Encoder, Run[Any]]:
    """The encoder of a finished run, to be asked about data whose held-out labels it has not learnt from.

    Raises:
        ConfigError: it has, or is unfinished, or the images are asked for as it does not take them.
        CheckpointError: as `load_encoder`.
    """
    run = checkpoint.open_any(folder)
    check_complete(run, str(folder))
    check_split(run, data, str(folder))
    encoder, run = load_encoder(folder)
    image = run.problem.image
    for name, own in (
        ("image_size", image.height),
        ("resize", image.resize),
        ("interpolation", image.interpolation),
    ):
        given = getattr(data, name)
        if given not in (getattr(DataConfig(), name), own):
            raise ConfigError(
                f"--{name.replace('_', '-')} {given}: the encoder takes its images with {own}; leave it out"
            )
    return encoder, run


def as_the_encoder(run: Run[Any], data: DataConfig) -> DataConfig:
    """The settings of the data with what the encoder decides of its images."""
    image = run.problem.image
    return dataclasses.replace(
        data, image_size=None, resize=image.resize, interpolation=image.interpolation
    )
