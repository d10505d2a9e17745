"""From settings to what a loop needs: checked settings, a new run folder, and batches of every split."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from serving.images import ImageSpec
from training import checkpoint, data, optim
from training.backbones import TIMM, build_backbone, default_image_size
from training.batches import Batches, prepare
from training.checkpoint import Problem, Run
from training.config import DataConfig, TrainConfig, absolute_paths, default_folder
from training.device import pick_compile, pick_precision
from training.devices import check_shares
from training.errors import ConfigError
from training.imbalance import counted, find_weights
from training.objectives import objective
from training.policies import find_policy
from training.pretrained import Start, backbone_lr_factor, check_flags, read_start
from training.progress import Progress, Stopwatch
from training.provenance import versions
from training.splits import Dataset
from training.statistics import channel_statistics, check_colours, evenly_spaced
from training.subsets import describe
from training.teacher import AVERAGE, check_problem, open_teacher
from training.transformations import check_image_size, transformation_set

KEPT_IMAGES = 64  # validation images that stay with a run


@dataclass(frozen=True)
class Prepared:
    """The batches of every split, and what the backbone starts from (None: drawn at random, or of a checkpoint)."""

    train: Batches
    val: Batches
    test: Batches
    start: Start | None = None

    @property
    def counts(self) -> tuple[int, ...]:
        """Images to train on, to validate, to test."""
        return (len(self.train), len(self.val), len(self.test))


def check_settings(config: TrainConfig) -> None:
    """Refuse settings that cannot work, before any data is read.

    Raises:
        ConfigError: an unknown name or a number out of its range.
    """
    objective(config.objective)
    transformation_set(config.transformations)
    check_teacher(config)
    if config.augment.flip == "on" and mirrors(config):
        raise ConfigError(
            "--flip on with flip among the transformations: the joint label of a mirrored image could not "
            "be told; leave --flip out"
        )
    default_image_size(config.backbone)
    check_flags(config)
    find_policy(config.augment.policy)
    find_weights(config.loss.class_weights)
    optim.learning_rate(0, 1, config.optim)
    image_size, workers = config.data.image_size, config.data.workers
    train_images = config.data.train_images
    ranges: dict[str, tuple[float, float, float]] = {
        "--epochs": (config.epochs, 1, math.inf),
        "--batch-size": (config.batch_size, 2, math.inf),
        "--image-size": (8 if image_size is None else image_size, 8, math.inf),
        "--beta": (config.loss.beta, 0, math.inf),
        "--ldam": (0.0 if config.loss.ldam is None else config.loss.ldam, 0, 1),
        "--label-smoothing": (config.loss.label_smoothing, 0, 0.99),
        "--crop-padding": (config.augment.crop_padding, 0, 1),
        "--cutout": (config.augment.cutout, 0, 1),
        "--mixup": (config.augment.mixup, 0, math.inf),
        "--cutmix": (config.augment.cutmix, 0, math.inf),
        "--mix-probability": (config.augment.mix_probability, 0, 1),
        "--ema": (0.0 if config.ema is None else config.ema, 0, 0.999999),
        "--optim.weight-decay": (config.optim.weight_decay, 0, math.inf),
        "--optim.momentum": (config.optim.momentum, 0, 1),
        "--optim.warmup": (config.optim.warmup, 0, 1),
        "--devices": (1 if config.devices is None else config.devices, 1, math.inf),
        "--seed": (config.seed, 0, 2**63 - 1),  # what torch takes
        "--split-seed": (config.data.split_seed, 0, math.inf),
        "--train-images": (1 if train_images is None else train_images, 1, math.inf),
        "--imbalance": (config.data.imbalance, 1, 1e9),
        "--workers": (0 if workers is None else workers, 0, math.inf),
        "--resident-gib": (config.data.resident_gib, 0, math.inf),
    }
    for flag, (value, least, most) in ranges.items():
        if not least <= value <= most:
            limit = f"at least {least}" if value < least else f"a number up to {most}"
            raise ConfigError(f"{flag} is {value}; it must be {limit}")
    for flag, value in (
        ("--temperature", config.loss.temperature),
        ("--optim.lr", optim.peak_lr(config.optim)),
        ("--optim.backbone-lr-factor", backbone_lr_factor(config)),
    ):
        if not value > 0:
            raise ConfigError(f"{flag} is {value}; it must be above 0")
    for flag, share in (
        ("--val-fraction", config.data.val_fraction),
        ("--test-fraction", config.data.test_fraction),
    ):
        if not 0 < share < 1:
            raise ConfigError(f"{flag} is {share}; it must lie between 0 and 1")


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


def start_run(
    config: TrainConfig, device: torch.device, progress: Progress
) -> tuple[Run, Prepared]:
    """A new run folder, and the batches of its data.

    Raises:
        TrainingError: the folder is in use, or the data will not do.
    """
    folder = (config.out or default_folder(config)).expanduser()
    checkpoint.check_new(folder)
    learns_from = config.teacher if config.teacher != AVERAGE else None
    teacher = open_teacher(Path(learns_from).expanduser(), config) if learns_from else None
    dataset = data.load(config.data)
    spec = image_spec(config.data, config.backbone, dataset)
    if teacher is not None:
        check_problem(teacher, dataset.classes, spec)
    transforms = objective(config.objective).transforms  # a baseline looks at no transformation
    transformations = transformation_set(config.transformations) if transforms else ()
    check_image_size(transformations, spec.height, spec.width)
    build_backbone(config.backbone, (spec.height, spec.width))  # refused before anything is written
    start = read_start(config, (spec.height, spec.width))
    if start is not None:
        progress.say(start.describe())
    prepared = read_splits(dataset, spec, config.data, device, progress)
    check_shares(min(config.batch_size, len(prepared.train)), config.devices or 1)
    prepared = dataclasses.replace(prepared, start=start)
    mean, std = normalisation(prepared)
    check_colours(prepared.train, transformations, progress)
    problem = Problem(
        classes=dataset.classes,
        image=spec,
        mean=mean,
        std=std,
        crop_padding_px=round(config.augment.crop_padding * min(spec.height, spec.width)),
        flip=random_flips(config, dataset),
        counts=prepared.counts,
        versions=versions(),
        pretrained_weights=None if start is None else start.provenance,
        class_counts=counted(config.loss, prepared.train.labels, dataset.classes),
    )
    kept = evenly_spaced(len(prepared.val), KEPT_IMAGES)
    images, labels = next(iter(prepared.val.iterate([kept])))
    # what "auto" chose is kept: a run goes on with the arithmetic that it began with
    precision: Literal["fp32", "bf16"] = (
        "bf16" if pick_precision(config.precision, device) == "bf16-mixed" else "fp32"
    )
    steps = config.epochs * max(1, len(prepared.train) // config.batch_size)
    compiled: Literal["on", "off"] = "on" if pick_compile(config, steps) else "off"
    optimiser = dataclasses.replace(config.optim, backbone_lr_factor=backbone_lr_factor(config))
    weights = None if config.weights is None else config.weights.expanduser().resolve()
    config = dataclasses.replace(
        config,
        data=absolute_paths(config.data),
        optim=optimiser,
        weights=weights,
        precision=precision,
        compile=compiled,
    )
    return checkpoint.create_run(folder, config, problem, images, labels, teacher), prepared


def mirrors(config: TrainConfig) -> bool:
    """Whether mirroring is one of the transformations that training looks at."""
    transformations = transformation_set(config.transformations)
    return objective(config.objective).transforms and any(t.mirrored for t in transformations)


def normalisation(prepared: Prepared) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) in units of uint8 pixels: what pretrained weights were trained with, else the training images'."""
    start = prepared.start
    if start is None or start.mean is None or start.std is None:
        return channel_statistics(prepared.train)
    return start.mean, start.std


def random_flips(config: TrainConfig, dataset: Dataset) -> bool:
    """Whether training mirrors images at random: as asked, else where a mirrored image keeps its class.

    Not where mirroring is a transformation: its joint label could not be told from the image.
    """
    return config.augment.flip == "on" or (
        config.augment.flip == "auto" and dataset.mirrored_is_same and not mirrors(config)
    )


def image_spec(config: DataConfig, backbone: str, dataset: Dataset) -> ImageSpec:
    """The size that images are brought to: what was asked for, else the data's own, else the backbone's."""
    if config.image_size is not None:
        height = width = config.image_size
    elif dataset.size is not None and not backbone.startswith(TIMM):
        height, width = dataset.size
    else:
        height = width = default_image_size(backbone)
    return ImageSpec(height, width, config.resize, config.interpolation)


def read_splits(
    dataset: Dataset, spec: ImageSpec, config: DataConfig, device: torch.device, progress: Progress
) -> Prepared:
    """Read every split once and say what is there.

    Raises:
        DataError: images that cannot be read.
    """
    watch = Stopwatch()
    _, train = prepare(dataset.train, "train", spec, config, device, progress)
    _, val = prepare(dataset.val, "val", spec, config, device, progress)
    _, test = prepare(dataset.test, "test", spec, config, device, progress)
    progress.say(
        f"{dataset.name}: {len(train):,} images to train on, {len(val):,} to validate, {len(test):,} to test, "
        f"{len(dataset.classes)} classes, {spec.height} x {spec.width} pixels (read in {watch.seconds:.1f} s)"
    )
    if config.train_images is not None or config.imbalance > 1:
        progress.say(describe(train.labels.tolist(), dataset.classes))
    return Prepared(train, val, test)
