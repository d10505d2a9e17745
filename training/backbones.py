"""Backbones: images to feature vectors. CIFAR's ResNets are here; every other network is timm's.

ResNet: He et al. 2016, section 4.2 (three stages, shortcuts without parameters, "option A").
Wide ResNet: Zagoruyko and Komodakis 2016 (pre-activation blocks, shortcuts by 1 x 1 convolution).
Both take (B, 3, H, W) float of any size from 8 pixels on and give (B, D).
"""

import difflib
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.errors import ConfigError

TIMM = "timm/"


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions around a shortcut that subsamples and pads with zero channels (option A)."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(width_in, width, stride)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, 1)
        self.norm2 = nn.BatchNorm2d(width)
        self.stride = stride
        self.extra = width - width_in

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C_in, H, W). Returns (B, C, H / stride, W / stride)."""
        out = F.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        if self.extra:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))
        return F.relu(out + shortcut)


class WideBlock(nn.Module):
    """A pre-activation block: norm, ReLU, convolution, twice."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(width_in)
        self.conv1 = _conv3x3(width_in, width, stride)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, 1)
        same = width_in == width and stride == 1
        self.shortcut = None if same else nn.Conv2d(width_in, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C_in, H, W). Returns (B, C, H / stride, W / stride)."""
        active = F.relu(self.norm1(x))
        out: Tensor = self.conv2(F.relu(self.norm2(self.conv1(active))))
        shortcut: Tensor = x if self.shortcut is None else self.shortcut(active)
        return out + shortcut


class CifarResNet(nn.Module):
    """ResNet-(6n + 2): a 3 x 3 convolution, three stages of n blocks at width, 2 and 4 times width, mean pooling.

    stem_stride: of the first convolution; 2 halves the resolution of everything after it.
    """

    def __init__(self, blocks: int, width: int = 16, stem_stride: int = 1) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _conv3x3(3, width, stem_stride), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.stages = _stages(BasicBlock, blocks, width, (width, 2 * width, 4 * width))
        self.num_features = 4 * width
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, 3, H, W) float. Returns (B, num_features)."""
        features: Tensor = self.stages(self.stem(x))  # (B, D, H', W')
        return features.mean((2, 3))


class WideResNet(nn.Module):
    """WRN-(6n + 4)-k: 16 channels, then three stages of n blocks at 16k, 32k and 64k, mean pooling."""

    def __init__(self, blocks: int, factor: int) -> None:
        super().__init__()
        self.stem = _conv3x3(3, 16, 1)
        self.stages = _stages(WideBlock, blocks, 16, (16 * factor, 32 * factor, 64 * factor))
        self.norm = nn.BatchNorm2d(64 * factor)
        self.num_features = 64 * factor
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, 3, H, W) float. Returns (B, num_features)."""
        features: Tensor = self.norm(self.stages(self.stem(x)))  # (B, D, H', W')
        return F.relu(features).mean((2, 3))


BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "resnet8": functools.partial(CifarResNet, 1),
    # twice the width at half the resolution: faster than resnet8 on a CPU, with four times its parameters
    "resnet8-half": functools.partial(CifarResNet, 1, 32, stem_stride=2),
    "resnet20": functools.partial(CifarResNet, 3),
    "resnet32": functools.partial(CifarResNet, 5),
    "resnet56": functools.partial(CifarResNet, 9),
    "wrn-16-2": functools.partial(WideResNet, 2, 2),
    "wrn-16-8": functools.partial(WideResNet, 2, 8),
    "wrn-40-2": functools.partial(WideResNet, 6, 2),
}


def build_backbone(name: str, image_size: tuple[int, int]) -> nn.Module:
    """A freshly initialised backbone; its `num_features` is D. name: a key of BACKBONES, or timm/<any of timm's>.

    image_size: (H, W) pixels, for the networks that must know it beforehand (vision transformers).

    Raises:
        ConfigError: no backbone has that name.
    """
    if name.startswith(TIMM):
        return _timm_backbone(name.removeprefix(TIMM), image_size)
    return _known(name)()


def default_image_size(name: str) -> int:
    """The side in pixels that images are brought to where the data has no size of its own.

    Raises:
        ConfigError: no backbone has that name.
    """
    if not name.startswith(TIMM):
        _known(name)
        return 64
    import timm

    timm_name = _known_to_timm(name.removeprefix(TIMM))
    pretrained = timm.get_pretrained_cfg(timm_name, allow_unregistered=False)
    return int(pretrained.input_size[-1]) if pretrained else 224


def _timm_backbone(name: str, image_size: tuple[int, int]) -> nn.Module:
    known = _known_to_timm(name)
    try:
        network = create_timm(known, image_size)
        # a trial, because what a model says of its output's width is not true of every family
        with torch.inference_mode():
            features = network.eval()(torch.zeros(1, 3, *image_size))
    except (AssertionError, ValueError, RuntimeError) as error:
        height, width = image_size
        raise ConfigError(
            f"{TIMM}{known} cannot take {height} x {width} pixels ({error}); "
            f"try --image-size {default_image_size(TIMM + known)}"
        ) from None
    network.num_features = features.shape[1]
    return network.train()


def create_timm(
    name: str,
    image_size: tuple[int, int],
    *,
    pretrained: bool = False,
    overlay: dict[str, Any] | None = None,
) -> nn.Module:
    """A network of timm's by its name there (timm/ before it or not), without a classifier, untried.

    pretrained: with the weights that timm loads for it. overlay: changes to timm's configuration of them.

    Raises:
        ConfigError: timm has no model of that name.
    """
    known = _known_to_timm(name.removeprefix(TIMM))
    import timm

    network: nn.Module
    weights: dict[str, Any] = {"pretrained": pretrained, "pretrained_cfg_overlay": overlay}
    try:
        network = timm.create_model(known, num_classes=0, img_size=image_size, **weights)
    except TypeError:  # a convolutional network: it has no image size of its own
        network = timm.create_model(known, num_classes=0, **weights)
    return network


def _known(name: str) -> Callable[[], nn.Module]:
    try:
        return BACKBONES[name]
    except KeyError:
        raise ConfigError(
            f"unknown backbone {name!r}; choose from {sorted(BACKBONES)}, or timm/<name>"
        ) from None


def _known_to_timm(name: str) -> str:
    import timm

    if timm.is_model(name):
        return name
    close = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.4)
    meant = f"did you mean {close}? " if close else ""
    raise ConfigError(f"timm has no model {name!r}; {meant}`timm.list_models()` names all of them")


def _conv3x3(width_in: int, width: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)


def _stages(
    block: type[nn.Module], blocks: int, width_in: int, widths: tuple[int, ...]
) -> nn.Sequential:
    layers = []
    for stage, width in enumerate(widths):
        for index in range(blocks):
            stride = 2 if stage > 0 and index == 0 else 1
            layers.append(block(width_in, width, stride))
            width_in = width
    return nn.Sequential(*layers)


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
