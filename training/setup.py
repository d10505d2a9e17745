"""From settings to what a loop needs: checked settings, a new run folder, and batches of every split."""

import dataclasses
from dataclasses import dataclass

import torch

from serving.images import ImageSpec
from training import checkpoint, data
from training.backbones import TIMM, build_backbone, default_image_size
from training.batches import Batch, Batches, prepare
from training.checkpoint import Problem, Run
from training.checks import check_fractions, mirrors
from training.config import DataConfig, TrainConfig, absolute_paths, default_folder
from training.device import pick_compile, pick_precision
from training.devices import check_shares
from training.imbalance import counted
from training.objectives import objective
from training.pretrained import Start, backbone_lr_factor, read_start
from training.progress import Progress, Stopwatch
from training.provenance import versions
from training.splits import Dataset
from training.statistics import channel_statistics, check_colours, evenly_spaced
from training.subsets import describe
from training.teacher import check_problem, open_teacher
from training.transformations import check_image_size, transformation_set
from training.unseen import check_pictures, check_split

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

    @property
    def held_out_first(self) -> tuple[Batches, Batches, Batches]:
        """Every split, in the order in which a run's own validation pictures are looked for."""
        return (self.val, self.test, self.train)


def start_run(
    config: TrainConfig, device: torch.device, progress: Progress
) -> tuple[Run, Prepared]:
    """A new run folder, and the batches of its data.

    Raises:
        TrainingError: the folder is in use, or the data will not do.
    """
    folder = (config.out or default_folder(config)).expanduser()
    checkpoint.check_new(folder)
    teacher = open_teacher(config)
    dataset = data.load(config.data)
    check_fractions(config.data, dataset)
    spec = image_spec(config.data, config.backbone, dataset.size)
    if teacher is not None:
        check_problem(teacher, dataset.classes, spec)
    transforms = objective(config.objective).transforms  # a baseline looks at no transformation
    transformations = transformation_set(config.transformations) if transforms else ()
    check_image_size(transformations, spec.height, spec.width)
    build_backbone(config.backbone, (spec.height, spec.width))  # refused before anything is written
    start = read_start(config, (spec.height, spec.width))
    if start is not None:
        progress.say(start.describe((spec.height, spec.width)))
    weights_of = None if start is None else start.run
    sources = {f"--teacher {config.teacher}": teacher, f"--weights {config.weights}": weights_of}
    runs = {named: run for named, run in sources.items() if run is not None}
    for named, run in runs.items():
        check_split(run, config.data, named)
    prepared = read_splits(dataset, spec, config.data, device, progress)
    for named, run in runs.items():
        check_pictures(run, config.data, dataset.classes, prepared.held_out_first, named)
    check_shares(min(config.batch_size, len(prepared.train)), config.devices or 1)
    prepared = dataclasses.replace(prepared, start=start)
    check_colours(prepared.train, transformations, progress)
    problem = describe_problem(config, dataset, spec, prepared, teacher)
    images, labels = kept_images(prepared.val)
    config = settled(config, device, len(prepared.train))
    return checkpoint.create_run(folder, config, problem, images, labels, teacher), prepared


def kept_images(val: Batches) -> Batch:
    """The validation images that stay with a run, evenly spaced, and their labels: at most 64."""
    return next(iter(val.iterate([evenly_spaced(len(val), KEPT_IMAGES)])))


def describe_problem(
    config: TrainConfig,
    dataset: Dataset,
    spec: ImageSpec,
    prepared: Prepared,
    teacher: Run | None,
) -> Problem:
    """What the data, and the teacher, decide of a run."""
    mean, std = normalisation(prepared)
    start = prepared.start
    return Problem(
        classes=dataset.classes,
        image=spec,
        mean=mean,
        std=std,
        crop_padding_px=round(config.augment.crop_padding * min(spec.height, spec.width)),
        flip=random_flips(config, dataset, None if teacher is None else teacher.config),
        counts=prepared.counts,
        versions=versions(),
        pretrained_weights=None if start is None else start.provenance,
        class_counts=counted(config.loss, prepared.train.labels, dataset.classes),
    )


def settled(config: TrainConfig, device: torch.device, train_images: int) -> TrainConfig:
    """The settings that a run keeps: what "auto" chose, so that it goes on as it began, and absolute paths."""
    steps = config.epochs * max(1, train_images // config.batch_size)
    in_bf16 = pick_precision(config.precision, device) == "bf16-mixed"
    return dataclasses.replace(
        config,
        data=absolute_paths(config.data),
        optim=dataclasses.replace(config.optim, backbone_lr_factor=backbone_lr_factor(config)),
        weights=None if config.weights is None else config.weights.expanduser().resolve(),
        precision="bf16" if in_bf16 else "fp32",
        compile="on" if pick_compile(config, steps) else "off",
    )


def normalisation(prepared: Prepared) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) in units of uint8 pixels: what pretrained weights were trained with, else the training images'."""
    start = prepared.start
    if start is None or start.mean is None or start.std is None:
        return channel_statistics(prepared.train)
    return start.mean, start.std


def random_flips(config: TrainConfig, dataset: Dataset, teacher: TrainConfig | None) -> bool:
    """Whether training mirrors images at random: as asked, else where a mirrored image keeps its class.

    Not where mirroring is a transformation, of the run or of its teacher: its joint label could not be told from the
    image. teacher: its settings.
    """
    mirrored = mirrors(config) or (teacher is not None and mirrors(teacher))
    return config.augment.flip == "on" or (
        config.augment.flip == "auto" and dataset.mirrored_is_same and not mirrored
    )


def image_spec(config: DataConfig, backbone: str, own: tuple[int, int] | None) -> ImageSpec:
    """The size that images are brought to: what was asked for, else the data's own, else the backbone's."""
    if config.image_size is not None:
        height = width = config.image_size
    elif own is not None and not backbone.startswith(TIMM):
        height, width = own
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
