"""The settings of `viewfold pretrain`: a field is a flag, its docstring the help. Imports nothing heavy."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from training.config import DataConfig, Device, OptimConfig, Precision


@dataclass(frozen=True)
class ViewsConfig:
    """The random views of a picture; the defaults are the AugSelf paper's on STL-10."""

    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Random resized crops: the least and the greatest share of the picture's area; 1 1 for the whole picture."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Their least and greatest ratio of width to height, in pixels of the picture."""
    flip: float = 0.5
    """Share of the views that are mirrored."""
    jitter: float = 0.8
    """Share of the views whose colours are changed."""
    brightness: float = 0.4
    """Brightness is multiplied by 1 ± this much; contrast and saturation likewise."""
    contrast: float = 0.4
    """See brightness."""
    saturation: float = 0.4
    """See brightness."""
    hue: float = 0.1
    """The hue is turned by ± this share of the colour circle, at most 0.5."""
    grey: float = 0.2
    """Share of the views without colour."""
    blur: float = 0.5
    """Share of the views that are blurred."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Least and greatest standard deviation of the blur, in pixels of the view; it reaches over a tenth of the
    view's shorter side."""
    rotation: float = 0.0
    """Share of the views that are turned by 0, 90, 180 or 270 degrees, as likely each; square views only."""
    solarize: float = 0.0
    """Share of the views whose values from a random threshold on are inverted."""

    @property
    def crops(self) -> bool:
        """Whether a view may be less than the whole picture."""
        return self.crop_scale != (1.0, 1.0)


@dataclass(frozen=True)
class MethodConfig:
    """What only some of the methods have. None: what the method's own paper or code takes."""

    temperature: float | None = None
    """simclr, moco: 0.2; swav: 0.1."""
    hidden: int | None = None
    """Width of the hidden layers of the projector and of byol's predictor. simsiam, swav: 2048; byol: 4096; simclr,
    moco: as wide as the features."""
    projection: int | None = None
    """Width of the projection that is compared. simsiam: 2048; byol: 256; simclr, moco, swav: 128."""
    momentum: float | None = None
    """moco: 0.999; byol: 0.996, rising to 1 along a cosine. Of the target network's weights, a step."""
    queue: int = 65536
    """moco: how many keys are remembered, a multiple of the batch size."""
    prototypes: int = 100
    """swav: how many."""
    epsilon: float = 0.05
    """swav: of the Sinkhorn-Knopp algorithm: the smaller, the harder are the assignments to prototypes."""
    sinkhorn_steps: int = 3
    """swav: how many of that algorithm."""
    freeze_steps: int | None = None
    """swav: the first steps, in which the prototypes do not move. Default: those of the first epoch."""


@dataclass(frozen=True)
class PretrainConfig:
    """Pretrain an encoder on images without labels. The result is a run folder that holds the encoder."""

    data: Annotated[DataConfig, tyro.conf.arg(name="")] = field(default_factory=DataConfig)
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(nesterov=False, weight_decay=5e-4, warmup=0.0)
    )
    views: ViewsConfig = field(default_factory=ViewsConfig)
    settings: Annotated[MethodConfig, tyro.conf.arg(name="")] = field(default_factory=MethodConfig)
    method: str = "simsiam"
    """simsiam, simclr, moco, byol, swav, or supervised (cross-entropy of the labels, the same views)."""
    augself: str = ""
    """Also predict the difference of the two views' parameters from their features (AugSelf): crop=1.0,color=1.0, or
    any of crop, flip, color, blur, rotation, solarize, each with its weight λ. Default: the plain method."""
    unlabelled: bool = False
    """Take all images under folder:DIR, whatever folders they lie in. Without it folders of images are classes, whose
    names serve to show how the encoder does, and for --method supervised."""
    backbone: str = "timm/resnet18"
    """As `viewfold train --backbone`."""
    epochs: int = 200
    """Passes over the images."""
    batch_size: int = 256
    """Pictures a step; each is seen in two views."""
    seed: int = 0
    """Of the initial weights, the order and the views."""
    device: Device = "auto"
    """cuda fails where there is none; auto takes it where there is one."""
    devices: int | None = None
    """How many devices (GPUs, or processes on the CPU, at most one a processor) share every batch. Default: 1; under
    torchrun all of its."""
    precision: Precision = "auto"
    """auto: bf16 where the processor or GPU computes in it, else fp32."""
    channels_last: bool = True
    """Memory layout of the convolutions; faster on most processors and GPUs."""
    out: Path | None = None
    """The run folder. Default: runs/DATA-METHOD-seedSEED."""
    resume: Path | None = None
    """Go on with this run folder, with its own settings. Only --device, --devices, --workers may be others, and --data
    and --data-dir where the same data lies elsewhere now."""
