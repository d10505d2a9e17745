"""From the settings of pretraining to what its loop needs: a new run folder, and batches of images."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

from serving.images import ImageSpec
from training import checkpoint
from training.augself import check_targets, parse_weights
from training.backbones import build_backbone
from training.batches import Batches, prepare
from training.checkpoint import Problem, Run
from training.config import DataConfig, absolute_paths, stem
from training.device import pick_precision
from training.errors import ConfigError
from training.pool import Pool, load_pool
from training.pretrain_config import PretrainConfig
from training.progress import Progress, Stopwatch
from training.provenance import versions
from training.resume import check_classes, check_counts, check_kept
from training.setup import image_spec, kept_images
from training.statistics import channel_statistics
from training.views import check_views

LR_OF_256 = (
    0.03  # sgd's, of a batch of 256; AugSelf's recipe for STL-10: base lr 0.03 · batch / 256
)


@dataclass(frozen=True)
class Images:
    """The images that are learnt from, and those that are held out."""

    train: Batches
    val: Batches

    @property
    def counts(self) -> tuple[int, ...]:
        """Images to learn from, held out."""
        return (len(self.train), len(self.val))


def start_pretraining(
    config: PretrainConfig, device: torch.device, progress: Progress
) -> tuple[Run[PretrainConfig], Images]:
    """A new run folder, and the batches of its images.

    Raises:
        TrainingError: the folder is in use, or the images will not do, or are too small for the views to differ.
    """
    folder = (config.out or default_folder(config)).expanduser()
    checkpoint.check_new(folder)
    pool = load_pool(config.data, unlabelled=config.unlabelled)
    check_labels(config, pool)
    spec = image_spec(config.data, config.backbone, pool.size)
    size = (spec.height, spec.width)
    check_views(config.views, size)
    check_targets(parse_weights(config.augself, config.views), config.views, size)
    build_backbone(config.backbone, size)  # refused before anything is written
    images = read(pool, spec, config.data, device, progress)
    if len(images.train) < config.batch_size:
        raise ConfigError(
            f"{len(images.train)} images do not fill a batch; give a --batch-size of at most that"
        )
    mean, std = channel_statistics(images.train)
    problem = Problem(
        classes=pool.classes,
        image=spec,
        mean=mean,
        std=std,
        crop_padding_px=0,
        flip=False,
        counts=images.counts,
        versions=versions(),
    )
    pixels, labels = kept_images(images.val)
    run = checkpoint.create_run(
        folder, settled(config, device, len(images.train)), problem, pixels, labels
    )
    return run, images


def continue_pretraining(
    run: Run[PretrainConfig], device: torch.device, progress: Progress
) -> Images:
    """The batches of a run's images.

    Raises:
        DataError: the images will not do, or are not what they were when the run began.
    """
    config = run.config
    pool = load_pool(config.data, unlabelled=config.unlabelled)
    check_classes(run, pool.name, pool.classes)
    images = read(pool, run.problem.image, config.data, device, progress)
    check_counts(run, pool.name, images.counts, "to learn from and held out")
    check_kept(run, pool.name, images.val)
    return images


def check_labels(config: PretrainConfig, pool: Pool) -> None:
    """Refuse what needs labels where there are none.

    Raises:
        ConfigError: supervised pretraining on images without labels.
    """
    if config.method == "supervised" and not pool.classes:
        raise ConfigError(
            f"--method supervised learns from labels, and {pool.name} has none; give folders of classes, or "
            "another --method"
        )


def read(
    pool: Pool, spec: ImageSpec, config: DataConfig, device: torch.device, progress: Progress
) -> Images:
    """Read every image once and say what is there.

    Raises:
        DataError: images that cannot be read.
    """
    watch = Stopwatch()
    _, train = prepare(pool.train, "train", spec, config, device, progress)
    _, val = prepare(pool.val, "val", spec, config, device, progress)
    if pool.loose:
        progress.say(
            f"warning: {pool.loose:,} images beside the folders of classes are left out; --unlabelled takes all images"
        )
    labels = f"{len(pool.classes)} classes" if pool.classes else "no labels"
    progress.say(
        f"{pool.name}: {len(train):,} images to learn from, {len(val):,} held out, {labels}, "
        f"{spec.height} x {spec.width} pixels (read in {watch.seconds:.1f} s)"
    )
    return Images(train, val)


def settled(config: PretrainConfig, device: torch.device, images: int) -> PretrainConfig:
    """The settings that a run keeps: what was left open is chosen, and paths are absolute."""
    method = config.settings
    if config.method == "swav" and method.freeze_steps is None:
        method = dataclasses.replace(method, freeze_steps=images // config.batch_size)
    lr = config.optim.lr
    if lr is None and config.optim.name == "sgd":
        lr = LR_OF_256 * config.batch_size / 256
    in_bf16 = pick_precision(config.precision, device) == "bf16-mixed"
    return dataclasses.replace(
        config,
        data=absolute_paths(config.data),
        optim=dataclasses.replace(config.optim, lr=lr),
        settings=method,
        precision="bf16" if in_bf16 else "fp32",
    )


def default_folder(config: PretrainConfig) -> Path:
    """runs/DATA-METHOD-seedSEED, or runs/DATA-METHOD-augself-seedSEED."""
    method = f"{config.method}-augself" if config.augself else config.method
    return Path("runs") / f"{stem(config.data)}-{method}-seed{config.seed}"
