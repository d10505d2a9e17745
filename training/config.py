"""The settings of `viewfold train`: a field is a flag, its docstring the help. Imports nothing heavy."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]
Policy = Literal[
    "none",
    "randaugment",
    "autoaugment",
    "autoaugment-imagenet",
    "autoaugment-svhn",
    "trivialaugment",
]


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are brought to the network's size."""

    data: str = "digits"
    """digits, npz:FILE (train_images, train_labels, test_images, test_labels), folder:DIR (a folder a class,
    or train/, val/, test/ with a folder a class in each), or the name of a torchvision data set."""
    data_dir: Path = Path("data")
    """Where torchvision's data sets lie, or are downloaded to."""
    download: bool = False
    """Download the torchvision data set if it is not there."""
    image_size: int | None = None
    """Side in pixels. Default: the data's own size; for folders 64, or the size of the timm model."""
    resize: Literal["crop", "stretch"] = "crop"
    """crop: scale to the shorter side and cut the centre out; stretch: ignore the aspect ratio."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    """How pixels are resampled."""
    split_seed: int = 0
    """Which images are held out where the data comes without a validation or test split (not the run's seed)."""
    val_fraction: float = 0.1
    """Share of the training images held out for validation where there is no validation split."""
    test_fraction: float = 0.2
    """Share of all images held out for the test where there is no test split."""
    train_images: int | None = None
    """Train on this many images only, drawn class by class in proportion (by --split-seed). Default: all."""
    imbalance: float = 1.0
    """Thin the classes out to a long tail (Cao et al. 2019): the first class, in the order of the labels, keeps so
    many times as many training images as the last; after --train-images. Validation and test stay as they are."""
    skip_unreadable: bool = False
    """Leave files out that cannot be read, instead of stopping."""
    workers: int | None = None
    """Threads or processes that decode. Default: one a processor."""
    resident_gib: float = 4.0
    """Decoded images up to this size are kept on the device; larger sets are decoded by workers as they are needed."""


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser. Learning rate, momentum and the schedule "step" of sgd are the SLA paper's, the rest is not."""

    name: Literal["sgd", "adamw"] = "sgd"
    """sgd (with momentum) or adamw."""
    lr: float | None = None
    """Peak learning rate. Default: 0.1 for sgd (in pretraining 0.03 · batch size / 256), 0.001 for adamw."""
    momentum: float = 0.9
    """Of sgd."""
    nesterov: bool = True
    """Nesterov's momentum, for sgd."""
    weight_decay: float = 5e-4
    """Of every parameter. The paper's recipe takes 1e-4 over 80,000 steps; short runs want more."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """cosine: to zero; step: a tenth at 1/2 and again at 3/4 (the paper); constant."""
    warmup: float = 0.05
    """Share of all steps in which the learning rate rises linearly to its peak."""
    backbone_lr_factor: float | None = None
    """What the backbone's learning rate is of the heads'. Default: 0.1 from pretrained weights, else 1."""


@dataclass(frozen=True)
class AugmentConfig:
    """What is done to the training images at random, before their M transformed copies are made."""

    crop_padding: float = 0.125
    """Random crops: padding as a share of the side (0.125 is 4 pixels at 32); 0 for none."""
    flip: Literal["auto", "on", "off"] = "auto"
    """Random mirroring; auto: on, but for digits and letters."""
    policy: Policy = "none"
    """After crop and flip, torchvision's randaugment, trivialaugment, or the AutoAugment policy that was found on
    CIFAR-10 (autoaugment), ImageNet or SVHN. Runs on the processor, image by image."""
    cutout: float = 0.0
    """After the policy, a square filled with the training images' mean: its side as a share of the image's (the
    paper: 0.5 on CIFAR-10, 0.25 on CIFAR-100); 0 for none."""
    mixup: float = 0.0
    """Blend pairs of images: α of the Beta distribution that the share is drawn from (0.2 to 1); 0 for none."""
    cutmix: float = 0.0
    """Paste a box of another image into an image: α of the Beta distribution of its area (1 is usual); 0 for none."""
    mix_probability: float = 1.0
    """Share of the images that --mixup and --cutmix are applied to."""


@dataclass(frozen=True)
class LossConfig:
    """The weights and the form of the objective's terms."""

    beta: float = 1.0
    """sla-sd, distill: weight of the class head's own cross-entropy (the paper's β)."""
    temperature: float = 1.0
    """sla-sd, distill: of the distillation (the paper's T)."""
    large_loss: bool = False
    """Sum the losses of the M copies instead of averaging them (the released code's choice for large data sets)."""
    label_smoothing: float = 0.0
    """Share of every target that is spread evenly over the classes, within a copy's own transformation."""
    class_weights: Literal["none", "balanced", "effective", "deferred"] = "none"
    """Of the classes, for long tails. balanced: one over a class's number of training images; effective: one over
    its effective number (Cui et al. 2019, β 0.9999), which is milder; deferred: effective, in the last fifth of the
    steps only (DRW, Cao et al. 2019). With --ldam 0.5, deferred is LDAM-DRW."""
    ldam: float | None = None
    """LDAM (Cao et al. 2019): the rarest class's margin, in cosines (the paper: 0.5); the more images a class has,
    the smaller is its own. The heads compare directions: logits are 30 cosines. Default: no margins, linear heads."""


@dataclass(frozen=True)
class TrainConfig:
    """Train a classifier on images. The result is a run folder; `viewfold export` makes a bundle of it."""

    data: Annotated[DataConfig, tyro.conf.arg(name="")] = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    augment: Annotated[AugmentConfig, tyro.conf.arg(name="")] = field(default_factory=AugmentConfig)
    loss: Annotated[LossConfig, tyro.conf.arg(name="")] = field(default_factory=LossConfig)
    objective: str = "sla-sd"
    """baseline: cross-entropy. da: every transformed copy under its image's label. mt: the class of every
    copy, and which transformation it is under. sla: joint labels of both. sla-sd: joint labels, folded into
    one pass. distill: one pass learns what a finished run says with all of its passes (--teacher RUN)."""
    transformations: str = "rotation"
    """The M transformations of da, mt, sla and sla-sd: rotation (M = 4), rotation2 (2), color3 (3), color6 (6),
    flip (2), or a product such as rotation*color3 (12)."""
    teacher: str | None = None
    """distill, sla-sd: the run whose aggregated answer is folded into one pass. sla-sd takes its own answer where
    none is given, and with "ema" that of its averaged weights."""
    teacher_copies: int | None = None
    """distill, sla-sd with a teacher: of how many of its M copies of an image the teacher is asked a step, drawn anew
    every time; fewer make a step cheaper. Default: all M."""
    backbone: str = "resnet20"
    """resnet8, resnet8-half, resnet20, resnet32, resnet56, wrn-16-2, wrn-16-8, wrn-40-2, or timm/<any name of
    timm's>."""
    pretrained: bool = False
    """Start from timm's pretrained weights, downloaded unless the hub's cache has them."""
    weights: Path | None = None
    """Start from the backbone's weights in this file (.safetensors, or a state dict by torch.save) or run folder."""
    epochs: int = 60
    """Passes over the training images."""
    batch_size: int = 128
    """Images a step; sla-sd runs M times as many copies."""
    ema: float | None = None
    """Decay a step of a running average of the weights (0.99 to 0.9999), which is what validation, test and export
    then see; early steps count for less. Default: none."""
    seed: int = 0
    """Of the initial weights, the order and the augmentation."""
    device: Device = "auto"
    """cuda fails where there is none; auto takes it where there is one."""
    devices: int | None = None
    """How many devices (GPUs, or processes on the CPU, at most one a processor) share every batch. Default: 1; under
    torchrun all of its."""
    precision: Precision = "auto"
    """Of training; auto: bf16 where the processor or GPU computes in it, else fp32. Evaluation is always fp32."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile of the network's training pass, which takes about a minute; auto: for viewfold's own backbones,
    on one device, where a C++ compiler is installed and the run has at least 2,000 steps to win it back."""
    channels_last: bool = True
    """Memory layout of the convolutions; faster on most processors and GPUs."""
    out: Path | None = None
    """The run folder. Default: runs/DATA-OBJECTIVE-seedSEED."""
    resume: Path | None = None
    """Go on with this run folder, with its own settings. Only --device, --devices, --workers may be others, and --data
    and --data-dir where the same data lies elsewhere now."""


@dataclass(frozen=True)
class ReportConfig:
    """Write one HTML page that shows how a run went, what it is worth and where it errs."""

    run: tyro.conf.Positional[Path]
    """The run folder that `viewfold train` made."""
    out: Path | None = None
    """The file. Default: report.html in the run folder."""
    split: Literal["val", "test"] | None = None
    """Of which images. Default: test; val where the run is unfinished."""
    data: str | None = None
    """Where the data is now, if it has moved since training; as `viewfold train --data`."""
    data_dir: Path | None = None
    """Where torchvision's data sets lie, if they have moved since training."""
    device: Device = "auto"
    """Where to run; cuda fails where there is none."""
    mistakes: int = 12
    """How many of the worst mistakes to show, as pictures; 0 for none."""


def default_folder(config: TrainConfig) -> Path:
    """runs/DATA-OBJECTIVE-seedSEED."""
    return Path("runs") / f"{stem(config.data)}-{config.objective}-seed{config.seed}"


def stem(config: DataConfig) -> str:
    """What the data is called in the name of a run."""
    kind, _, location = config.data.partition(":")
    return Path(location).stem or kind


def absolute_paths(config: DataConfig) -> DataConfig:
    """The same data by absolute paths, so that a run can be gone on with from another folder."""
    kind, _, location = config.data.partition(":")
    where = f"{kind}:{Path(location).expanduser().resolve()}" if location else kind
    return dataclasses.replace(config, data=where, data_dir=config.data_dir.expanduser().resolve())
