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

# the SLA paper's recipe: 80,000 steps of 128 images. Pixels are normalised by the images' own mean and deviation, not
# by a half of their range
CIFAR10 = TrainConfig(
    data=DataConfig(data="cifar10"),
    optim=OptimConfig(lr=0.1, nesterov=False, weight_decay=1e-4, schedule="step", warmup=0.0),
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
    # auto counts steps as they pay on a CPU; so few of a network so wide it would leave as they are
    compile="on",
)


# the second stage: one pass learns, on mixed images, what plain SLA says; asked about one of its M copies a step
FOLD = AugmentConfig(cutmix=1.0)
FOLD_LOSS = LossConfig(temperature=2.0)
FOLD_COPIES = 1


def with_folding(
    base: TrainConfig, *, epochs: int, mixed_teacher_epochs: int | None = None, passes: int = 4
) -> Experiment:
    """The objectives of the paper, folding, and baselines that got as many forward passes in training.

    epochs: of folding, whose steps take a pass of the student and FOLD_COPIES of the teacher. mixed_teacher_epochs: of
    a teacher that learns from mixed images, which then is the one that is folded. passes: M.
    """
    rows = {"baseline": replace(base, objective="baseline"), "sla": replace(base, objective="sla")}
    teacher = "sla"
    if mixed_teacher_epochs is not None:
        teacher = "sla, cutmix"
        rows[teacher] = replace(rows["sla"], augment=FOLD, epochs=mixed_teacher_epochs)
    same_cost = passes * rows[teacher].epochs + (1 + FOLD_COPIES) * epochs
    rows |= {
        "sla-sd": base,
        "fold": fold(base, epochs=epochs),
        "da": replace(base, objective="da"),
        "mt": replace(base, objective="mt"),
        f"baseline, {passes} x epochs": replace(
            base, objective="baseline", epochs=passes * base.epochs
        ),
        "baseline, cutmix, passes of fold": replace(
            base, objective="baseline", epochs=same_cost, augment=FOLD
        ),
    }
    return Experiment(rows, {"fold": teacher}, COMPARISONS)


def fold(base: TrainConfig, *, epochs: int) -> TrainConfig:
    """The second stage that is recommended."""
    return replace(
        base,
        objective="distill",
        epochs=epochs,
        augment=FOLD,
        loss=FOLD_LOSS,
        teacher_copies=FOLD_COPIES,
    )


COMPARISONS = (
    Comparison("sla", "aggregated", "baseline", "plain"),
    Comparison("sla-sd", "distilled", "sla", "aggregated"),
    Comparison("fold", "distilled", "sla", "aggregated"),
    Comparison("fold", "distilled", "baseline, cutmix, passes of fold", "plain"),
)


def folding(base: TrainConfig) -> Experiment:
    """Ways of folding, to choose between on the validation split: seeds 0 to 2.

    120 epochs with all 4 copies of the teacher and 300 with one take the same number of forward passes.
    """
    distill = replace(base, objective="distill", epochs=120, loss=FOLD_LOSS)
    rows = {
        "sla": replace(base, objective="sla"),
        "sla-sd": base,
        "sla-sd, averaged teacher": replace(base, ema=0.999, teacher="ema"),
        "sla-sd, cutmix": replace(base, augment=FOLD),
        "sla, cutmix": replace(base, objective="sla", augment=FOLD),
        "distill": distill,
        "distill, mixup": replace(distill, augment=AugmentConfig(mixup=1.0)),
        "distill, cutmix": replace(distill, augment=FOLD),
        "distill, a copy a step": replace(distill, teacher_copies=1, epochs=300),
        "distill, cutmix, a copy a step": fold(base, epochs=300),
    }
    return Experiment(
        rows, {row: "sla" for row in rows if row.startswith("distill")}, seeds=(0, 1, 2)
    )


def tiny(config: TrainConfig) -> TrainConfig:
    """The same at a size for seconds on a CPU; what it measures means nothing."""
    data = replace(config.data, train_images=100)
    return replace(config, data=data, backbone="resnet8", epochs=1, batch_size=50, compile="off")


EXPERIMENTS = {
    "digits": with_folding(DIGITS, epochs=75, mixed_teacher_epochs=60),
    "cifar10-small": with_folding(CIFAR10_SMALL, epochs=300),
    "folding": folding(CIFAR10_SMALL),
    "cifar10": with_folding(CIFAR10, epochs=570),
    "cifar10-strong": Experiment(
        {
            "sla": CIFAR10_STRONG,
            "fold": fold(CIFAR10_STRONG, epochs=28),
        },
        {"fold": "sla"},
        (Comparison("fold", "distilled", "sla", "aggregated"),),
    ),
}
