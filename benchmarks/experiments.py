"""What is compared with what: the rows of every accuracy table, as settings. A row may learn from another row."""

from dataclasses import dataclass, field, replace

from training.config import (
    AugmentConfig,
    DataConfig,
    LossConfig,
    OptimConfig,
    TrainConfig,
)

SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Comparison:
    """Two answers whose difference in top-1 is reported with its 95 % interval, paired by seed."""

    row: str
    mode: str
    against_row: str
    against_mode: str


@dataclass(frozen=True)
class Experiment:
    """Rows of a table: their names and their settings, seed aside. teachers: row -> the row that it learns from."""

    rows: dict[str, TrainConfig]
    teachers: dict[str, str] = field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()
    seeds: tuple[int, ...] = SEEDS


DIGITS = TrainConfig(
    data=DataConfig(data="digits"),
    objective="sla-sd",
    transformations="rotation",
    backbone="resnet8",
    epochs=30,
    batch_size=32,
)

CIFAR10_SMALL = TrainConfig(
    # 5,000 images to train on, 1,000 to validate, all 10,000 to test
    data=DataConfig(data="cifar10", train_images=5000, val_fraction=0.02),
    objective="sla-sd",
    transformations="rotation",
    backbone="resnet8-half",
    epochs=80,
    batch_size=128,
)

# the SLA paper's recipe: 80,000 steps of 128 images
CIFAR10 = TrainConfig(
    data=DataConfig(data="cifar10"),
    optim=OptimConfig(lr=0.1, weight_decay=1e-4, schedule="step", warmup=0.0),
    objective="sla-sd",
    transformations="rotation",
    backbone="resnet32",
    epochs=228,
    batch_size=128,
)

CIFAR10_STRONG = TrainConfig(
    data=DataConfig(data="cifar10"),
    optim=OptimConfig(lr=0.2, weight_decay=5e-4),
    augment=AugmentConfig(cutmix=1.0, mix_probability=0.5),
    objective="sla",
    transformations="rotation",
    backbone="wrn-16-8",
    epochs=12,
    batch_size=512,
)


def rows_of(base: TrainConfig) -> dict[str, TrainConfig]:
    """The objectives of the paper, and a baseline that gets as many forward passes in training as M copies take."""
    return {
        "baseline": replace(base, objective="baseline"),
        "baseline, 4 x epochs": replace(base, objective="baseline", epochs=4 * base.epochs),
        "da": replace(base, objective="da"),
        "mt": replace(base, objective="mt"),
        "sla": replace(base, objective="sla"),
        "sla-sd": base,
    }
