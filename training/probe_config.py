"""The settings of what is asked of a frozen encoder: a field is a flag, its docstring the help."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from training.config import DataConfig, Device
from training.pretrain_config import ViewsConfig


@dataclass(frozen=True)
class ProbeConfig:
    """Linear evaluation: a linear classifier on the features of a frozen encoder. The result is a run folder.

    Of 45 strengths of L2 regularisation the validation split chooses one; the classifier is then fitted to the
    training and validation images together, and the test split is seen once.
    """

    encoder: tyro.conf.Positional[Path]
    """The run folder that `viewfold pretrain` made (or `viewfold train`: its backbone)."""
    data: Annotated[DataConfig, tyro.conf.arg(name="")] = field(default_factory=DataConfig)
    metric: Literal["top1", "mean-per-class"] = "top1"
    """What chooses; both are reported. The paper: mean-per-class for Pets, Flowers, Caltech-101 and Aircraft."""
    device: Device = "auto"
    """Where the features are computed; cuda fails where there is none."""
    out: Path | None = None
    """The run folder. Default: runs/DATA-probe-ENCODER."""


@dataclass(frozen=True)
class FewShotConfig:
    """Few-shot evaluation: how well a frozen encoder's features tell classes apart from a few images of each."""

    encoder: tyro.conf.Positional[Path]
    """The run folder that `viewfold pretrain` made (or `viewfold train`: its backbone)."""
    data: Annotated[DataConfig, tyro.conf.arg(name="")] = field(default_factory=DataConfig)
    ways: int = 5
    """Classes in an episode."""
    shots: tuple[int, ...] = (1, 5)
    """Images of each class to learn from; each number is evaluated by itself."""
    queries: int = 16
    """Images of each class to answer about."""
    episodes: int = 2000
    """How many."""
    seed: int = 0
    """Of the episodes."""
    device: Device = "auto"
    """Where the features are computed; cuda fails where there is none."""
    json: Path | None = None
    """Also write the numbers to this file."""


@dataclass(frozen=True)
class AwarenessConfig:
    """Whether a frozen encoder knows what was done to its images: the difference of two views is predicted.

    The data and the views are those that it was pretrained with; what is given takes the place of that setting alone.
    Data of another name is taken whole: --train-images, --imbalance and --unlabelled are not the encoder's then.
    """

    encoder: tyro.conf.Positional[Path]
    """The run folder that `viewfold pretrain` made (or `viewfold train`: its backbone)."""
    data: Annotated[DataConfig, tyro.conf.arg(name="")] = field(default_factory=DataConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    unlabelled: bool = False
    """As `viewfold pretrain --unlabelled`."""
    seed: int = 0
    """Of the views and of what learns to predict."""
    device: Device = "auto"
    """Where to compute; cuda fails where there is none."""
    json: Path | None = None
    """Also write the numbers to this file."""
