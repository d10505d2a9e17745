"""Settings that cannot work are refused here, before any data is read: a sentence that begins with the flag."""

import math
import os
from collections.abc import Mapping
from pathlib import Path

from training import optim
from training.backbones import default_image_size
from training.config import DataConfig, OptimConfig, TrainConfig
from training.errors import ConfigError
from training.imbalance import find_weights
from training.objectives import PROBE, objective
from training.policies import find_policy
from training.pretrained import backbone_lr_factor, check_flags
from training.splits import Dataset
from training.teacher import AVERAGE, check_copies
from training.transformations import transformation_set

# side in pixels, far beyond what networks are trained at: one picture of it is 200 MB as float32, before its copies
MAX_IMAGE_SIZE = 4096
UNTOLD = "the joint label of a mirrored image could not be told; leave --flip out"
# beyond them a softmax is one class, or all of them, and rounding the rest
TEMPERATURES = (0.01, 1000.0)


def check_settings(config: TrainConfig) -> None:
    """Refuse settings that cannot work, before any data is read.

    Raises:
        ConfigError: an unknown name or a number out of its range.
    """
    objective(config.objective)
    if config.objective == PROBE:
        raise ConfigError(
            "--objective probe is fitted to a frozen encoder, not trained: viewfold probe ENCODER --data …"
        )
    transformation_set(config.transformations)
    check_teacher(config)
    check_unused(config)
    if config.augment.flip == "on" and mirrors(config):
        raise ConfigError(f"--flip on with flip among the transformations: {UNTOLD}")
    default_image_size(config.backbone)
    check_flags(config)
    find_policy(config.augment.policy)
    find_weights(config.loss.class_weights)
    optim.learning_rate(0, 1, config.optim)
    check_ranges(config)


def check_flips(config: TrainConfig, teacher: TrainConfig) -> None:
    """Refuse to mirror images at random that a teacher is asked about mirrored and not. teacher: its settings.

    Raises:
        ConfigError: --flip on, and the teacher has flip among its transformations.
    """
    if config.augment.flip == "on" and mirrors(teacher):
        raise ConfigError(f"--flip on with flip among the teacher's transformations: {UNTOLD}")


def check_teacher(config: TrainConfig) -> None:
    """Refuse a teacher that an objective does not learn from, or the lack of one that it needs.

    Raises:
        ConfigError: --teacher, --objective and --ema do not fit together.
    """
    needs = objective(config.objective).teacher
    if needs == "none" and config.teacher is not None:
        raise ConfigError(
            f"--teacher is for --objective distill and sla-sd; {config.objective} learns from no other network"
        )
    if needs == "required" and config.teacher in (None, AVERAGE):
        raise ConfigError(
            f"--objective {config.objective} needs --teacher RUN, a finished run whose answers it learns"
        )
    if config.teacher == AVERAGE and config.ema is None:
        raise ConfigError(
            "--teacher ema needs --ema DECAY, the average that teaches (0.99 to 0.9999)"
        )
    if config.teacher_copies is not None and config.teacher is None:
        raise ConfigError("--teacher-copies needs --teacher, whose copies they are")
    if config.teacher_copies is not None and config.teacher == AVERAGE:
        check_copies(config.teacher_copies, config, "--teacher ema")


def check_unused(config: TrainConfig) -> None:
    """Refuse a setting that these others leave without a meaning, unless it is what it is by default.

    Raises:
        ConfigError: there is one.
    """
    usual, augment, learns = TrainConfig(), config.augment, objective(config.objective)
    # what can learn from a teacher has the term that learns from it
    distils = learns.teacher != "none"
    mixes = augment.mixup > 0 or augment.cutmix > 0
    refuse_unused(
        {
            "--temperature": (config.loss.temperature, usual.loss.temperature, distils),
            "--beta": (config.loss.beta, usual.loss.beta, distils),
            "--large-loss": (config.loss.large_loss, usual.loss.large_loss, learns.transforms),
            "--transformations": (config.transformations, usual.transformations, learns.transforms),
        },
        f"with --objective {config.objective}",
    )
    refuse_unused(
        {"--mix-probability": (augment.mix_probability, usual.augment.mix_probability, mixes)},
        "without --mixup or --cutmix",
    )
    check_optimiser(config.optim, usual.optim)


def check_optimiser(config: OptimConfig, usual: OptimConfig) -> None:
    """Refuse what is of another optimiser. usual: the command's defaults.

    Raises:
        ConfigError: sgd's settings with adamw.
    """
    sgd = config.name == "sgd"
    refuse_unused(
        {
            "--optim.momentum": (config.momentum, usual.momentum, sgd),
            "--optim.nesterov": (config.nesterov, usual.nesterov, sgd),
        },
        f"with --optim.name {config.name}",
    )


def check_fractions(config: DataConfig, dataset: Dataset) -> None:
    """Refuse a share to hold out of data that comes with that split.

    Raises:
        ConfigError: one is given.
    """
    usual = DataConfig()
    refuse_unused(
        {
            "--val-fraction": (config.val_fraction, usual.val_fraction, "val" not in dataset.own),
            "--test-fraction": (
                config.test_fraction, usual.test_fraction, "test" not in dataset.own
            ),
        },
        f"with --data {dataset.name}, which brings that split",
    )  # fmt: skip


def refuse_unused(settings: Mapping[str, tuple[object, object, bool]], where: str) -> None:
    """Refuse the flags that nothing looks at: (value, what it is by default, whether it is looked at) by flag.

    where: beside which other settings that is so.

    Raises:
        ConfigError: one of them is not what it is by default.
    """
    for flag, (value, usual, used) in settings.items():
        if value != usual and not used:
            raise ConfigError(f"{flag} means nothing {where}; leave it out")


def check_ranges(config: TrainConfig) -> None:
    """Refuse a number below the least or above the greatest that its flag takes.

    Raises:
        ConfigError: it is out of its range, or no number.
    """
    check_common(config.data, config.optim)
    refuse_outside(
        {
            "--epochs": (config.epochs, 1, math.inf),
            "--batch-size": (config.batch_size, 2, math.inf),
            "--beta": (config.loss.beta, 0, math.inf),
            "--temperature": (config.loss.temperature, *TEMPERATURES),
            "--ldam": (0.0 if config.loss.ldam is None else config.loss.ldam, 0, 1),
            "--label-smoothing": (config.loss.label_smoothing, 0, 0.99),
            "--crop-padding": (config.augment.crop_padding, 0, 1),
            "--cutout": (config.augment.cutout, 0, 1),
            "--mixup": (config.augment.mixup, 0, math.inf),
            "--cutmix": (config.augment.cutmix, 0, math.inf),
            "--mix-probability": (config.augment.mix_probability, 0, 1),
            "--ema": (0.0 if config.ema is None else config.ema, 0, 0.999999),
            "--teacher-copies": (
                1 if config.teacher_copies is None else config.teacher_copies,
                1,
                math.inf,
            ),
            "--devices": (1 if config.devices is None else config.devices, 1, math.inf),
            "--seed": (config.seed, 0, 2**63 - 1),  # what torch takes
        }
    )
    refuse_zero(
        {
            "--optim.backbone-lr-factor": backbone_lr_factor(config),
        }
    )


def check_common(data: DataConfig, optimiser: OptimConfig) -> None:
    """Refuse what no training can do with its data, or with its optimiser.

    Raises:
        ConfigError: a number out of its range.
    """
    refuse_outside(
        {
            "--image-size": (8 if data.image_size is None else data.image_size, 8, MAX_IMAGE_SIZE),
            "--optim.weight-decay": (optimiser.weight_decay, 0, math.inf),
            "--optim.momentum": (optimiser.momentum, 0, 0.999999),  # with 1 nothing ever slows down
            "--optim.warmup": (optimiser.warmup, 0, 1),
            "--split-seed": (data.split_seed, 0, math.inf),
            "--train-images": (1 if data.train_images is None else data.train_images, 1, math.inf),
            "--imbalance": (data.imbalance, 1, 1e9),
            "--workers": (0 if data.workers is None else data.workers, 0, math.inf),
            "--resident-gib": (data.resident_gib, 0, math.inf),
        }
    )
    refuse_zero({"--optim.lr": optim.peak_lr(optimiser)})
    for flag, share in (
        ("--val-fraction", data.val_fraction),
        ("--test-fraction", data.test_fraction),
    ):
        if not 0 < share < 1:
            raise ConfigError(f"{flag} is {share}; it must lie between 0 and 1")


def refuse_outside(ranges: Mapping[str, tuple[float, float, float]]) -> None:
    """Refuse the flags whose value lies outside: (value, least, greatest) by flag.

    Raises:
        ConfigError: one does, or is no finite number.
    """
    for flag, (value, least, most) in ranges.items():
        if not least <= value <= most or value == math.inf:
            upper = "a finite number" if most == math.inf else f"a number up to {most}"
            limit = f"at least {least}" if value < least else upper
            raise ConfigError(f"{flag} is {value}; it must be {limit}")


def refuse_zero(values: Mapping[str, float]) -> None:
    """Refuse zero and less where there has to be something.

    Raises:
        ConfigError: a value is not above zero, or is no finite number.
    """
    for flag, value in values.items():
        if not 0 < value < math.inf:
            limit = "above 0" if value <= 0 else "a finite number"
            raise ConfigError(f"{flag} is {value}; it must be {limit}")


def check_file(flag: str, path: Path | None) -> None:
    """Refuse a file that could not be written at the end, whatever it costs to come there. None: none is asked for.

    Raises:
        ConfigError: there is no folder for it, or one that cannot be written to, or a folder in its place.
    """
    if path is None:
        return
    folder = path.absolute().parent
    if not folder.is_dir():
        raise ConfigError(f"{flag} {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise ConfigError(f"{flag} {path} is a folder; give the name of a file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{flag} {path}: the folder {path.parent} cannot be written to")


def mirrors(config: TrainConfig) -> bool:
    """Whether mirroring is one of the transformations that training looks at."""
    transformations = transformation_set(config.transformations)
    return objective(config.objective).transforms and any(t.mirrored for t in transformations)
