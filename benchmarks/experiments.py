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


# the second stage: one pass learns, on mixed images, what plain SLA says with all of its passes
FOLD = AugmentConfig(cutmix=1.0)
FOLD_LOSS = LossConfig(temperature=2.0)


def with_folding(base: TrainConfig, *, epochs: int, passes: int = 4) -> Experiment:
    """The objectives of the paper, folding, and baselines that got as many forward passes in training.

    epochs: of folding, whose steps take a pass of the student and all of the teacher's. passes: M.
    """
    same_cost = passes * base.epochs + (1 + passes) * epochs
    rows = {
        "baseline": replace(base, objective="baseline"),
        "sla": replace(base, objective="sla"),
        "sla-sd": base,
        "fold": replace(base, objective="distill", epochs=epochs, augment=FOLD, loss=FOLD_LOSS),
        "da": replace(base, objective="da"),
        "mt": replace(base, objective="mt"),
        f"baseline, {passes} x epochs": replace(
            base, objective="baseline", epochs=passes * base.epochs
        ),
        "baseline, cutmix, passes of fold": replace(
            base, objective="baseline", epochs=same_cost, augment=FOLD
        ),
    }
    return Experiment(rows, {"fold": "sla"}, COMPARISONS)


COMPARISONS = (
    Comparison("sla", "aggregated", "baseline", "plain"),
    Comparison("sla-sd", "distilled", "sla", "aggregated"),
    Comparison("fold", "distilled", "sla", "aggregated"),
    Comparison("fold", "distilled", "baseline, cutmix, passes of fold", "plain"),
)


def folding(base: TrainConfig) -> Experiment:
    """Ways of folding, to choose between on the validation split: seeds 0 to 2."""
    distill = replace(base, objective="distill", epochs=120, loss=FOLD_LOSS)
    rows = {
        "sla": replace(base, objective="sla"),
        "sla-sd": base,
        "sla-sd, averaged teacher": replace(base, ema=0.999, teacher="ema"),
        "sla-sd, cutmix": replace(base, augment=FOLD),
        "distill": distill,
        "distill, mixup": replace(distill, augment=AugmentConfig(mixup=1.0)),
        "distill, cutmix": replace(distill, augment=FOLD),
        "distill, cutmix, twice as long": replace(distill, augment=FOLD, epochs=240),
        "sla, cutmix": replace(base, objective="sla", augment=FOLD),
        "distill, cutmix, of sla, cutmix": replace(distill, augment=FOLD),
    }
    teachers = {row: "sla" for row in rows if row.startswith("distill")}
    teachers["distill, cutmix, of sla, cutmix"] = "sla, cutmix"
    return Experiment(rows, teachers, seeds=(0, 1, 2))


def tiny(config: TrainConfig) -> TrainConfig:
    """The same at a size for seconds on a CPU; what it measures means nothing."""
    data = replace(config.data, train_images=100)
    return replace(config, data=data, backbone="resnet8", epochs=1, batch_size=50)


EXPERIMENTS = {
    "digits": with_folding(DIGITS, epochs=30),
    "cifar10-small": with_folding(CIFAR10_SMALL, epochs=120),
    "folding": folding(CIFAR10_SMALL),
    "cifar10": with_folding(CIFAR10, epochs=228),
    "cifar10-strong": Experiment(
        {
            "sla": CIFAR10_STRONG,
            "fold": replace(
                CIFAR10_STRONG, objective="distill", augment=FOLD, loss=FOLD_LOSS, epochs=16
            ),
        },
        {"fold": "sla"},
        (Comparison("fold", "distilled", "sla", "aggregated"),),
    ),
}
