"""AugSelf: what the parameters of two views differ by is predicted from their features. Lee et al. 2021, section 3.

L_AugSelf = Σ_aug λ_aug · L_aug(φ_aug(f(v_1), f(v_2)), ω_diff^aug). The targets are pure functions of the parameters
of both views, in view_differences.py; `AUGMENTATIONS` says which heads there are. Knows no method beside which
this loss stands.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.errors import ConfigError
from training.pretrain_config import ViewsConfig
from training.ssl.method import Pair
from training.view_differences import (
    blur_difference,
    color_difference,
    crop_difference,
    differs,
    flip_target,
    rotation_target,
    solarize_difference,
)
from training.views import ViewParams, draw_views

Views = tuple[ViewParams, ViewParams]

WIDTH = 512  # of both hidden layers of a head, as in the paper
PAIRS = 4096  # of views, drawn to see whether they differ: what one view in a thousand has shows


def difference_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean over images and values of (tanh(prediction) - target)². Both (B, k). Returns a scalar.

    Raises:
        ValueError: the shapes differ; broadcast, a head would learn no more than a mean, as solarize's does in the
            released code.
    """
    _refuse_broadcast(prediction.shape, target.shape)
    return F.mse_loss(prediction.tanh(), target.to(prediction.dtype))


def same_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of the logit of "the same". prediction: (B, 1), target: (B,) float. Returns a scalar.

    Raises:
        ValueError: the shapes do not belong together.
    """
    _refuse_broadcast(prediction.shape, (*target.shape, 1))
    return F.binary_cross_entropy_with_logits(prediction[:, 0], target.to(prediction.dtype))


def turn_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of the four turns. prediction: (B, 4), target: (B,) int64 in [0, 4). Returns a scalar.

    Raises:
        ValueError: the shapes do not belong together.
    """
    _refuse_broadcast(prediction.shape, (*target.shape, 4))
    return F.cross_entropy(prediction, target)


def _refuse_broadcast(found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if tuple(found) != tuple(wanted):
        raise ValueError(
            f"the head answers {tuple(found)} where the target asks for {tuple(wanted)}"
        )


@dataclass(frozen=True)
class Augmentation:
    """What is asked about an augmentation.

    outputs: numbers that the head answers. target: of the parameters of both views and the views' settings.
    loss: of answer (B, outputs) and target. varies: whether views of these settings differ in it at all, whatever
    the pictures' size. flags: which say whether and how much.
    """

    outputs: int
    target: Callable[[ViewParams, ViewParams, ViewsConfig], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    varies: Callable[[ViewsConfig], bool]
    flags: str


def _color(first: ViewParams, second: ViewParams, views: ViewsConfig) -> Tensor:
    return color_difference(first, second, views=views)


def _blur(first: ViewParams, second: ViewParams, views: ViewsConfig) -> Tensor:
    return blur_difference(first, second, views=views)


def _colors_vary(views: ViewsConfig) -> bool:
    """Saturation and hue count as unchanged in a view that is grey, as `color_difference` has it."""
    ranges = [views.brightness, views.contrast]
    if views.grey < 1:
        ranges += [views.saturation, views.hue]
    return views.jitter > 0 and max(ranges) > 0


def _blurs_vary(views: ViewsConfig) -> bool:
    return views.blur > 0 and (views.blur < 1 or views.blur_sigma[0] < views.blur_sigma[1])


AUGMENTATIONS = {
    "crop": Augmentation(
        4,
        lambda first, second, _: crop_difference(first, second),
        difference_loss,
        lambda views: views.crops,
        "--views.crop-scale and --views.crop-ratio",
    ),
    "flip": Augmentation(
        1,
        lambda first, second, _: flip_target(first, second),
        same_loss,
        lambda views: 0 < views.flip < 1,
        "--views.flip",
    ),
    "color": Augmentation(
        4,
        _color,
        difference_loss,
        _colors_vary,
        "--views.jitter and --views.brightness or --views.contrast (with --views.grey below 1 also "
        "--views.saturation or --views.hue)",
    ),
    "blur": Augmentation(1, _blur, difference_loss, _blurs_vary, "--views.blur"),
    "rotation": Augmentation(
        4,
        lambda first, second, _: rotation_target(first, second),
        turn_loss,
        lambda views: views.rotation > 0,
        "--views.rotation",
    ),
    "solarize": Augmentation(
        1,
        lambda first, second, _: solarize_difference(first, second),
        difference_loss,
        lambda views: views.solarize > 0,
        "--views.solarize",
    ),
}


def parse_weights(text: str, views: ViewsConfig) -> dict[str, float]:
    """λ of every augmentation named in `crop=1.0,color=1.0`; none in an empty text.

    Raises:
        ConfigError: a part that is not NAME=λ, an unknown name or one given twice, λ below 0 or no number, or an
            augmentation that these views do not vary in.
    """
    weights: dict[str, float] = {}
    for part in text.split(",") if text.strip() else ():
        name, weight = _parse_weight(part)
        if name in weights:
            raise ConfigError(f"--augself names {name} twice; give it one weight")
        if not AUGMENTATIONS[name].varies(views):
            raise _nothing_to_predict(name, "the views do not vary in it")
        weights[name] = weight
    return weights


def check_targets(names: Iterable[str], views: ViewsConfig, size: tuple[int, int]) -> None:
    """Refuse augmentations whose target is always the same, as seen on many pairs of views.

    `varies` judges by the settings alone; here what is drawn decides, such as crops that are all rounded to the whole
    picture, or that never fit. size: (H, W) pixels of the pictures.

    Raises:
        ConfigError: no pair of views differs in one of them.
    """
    generator = torch.Generator().manual_seed(0)
    first, second = (draw_views(PAIRS, size, views, generator) for _ in range(2))
    for name in names:
        if not differs(AUGMENTATIONS[name].target(first, second, views)):
            pairs = f"{PAIRS:,} pairs of views of {size[0]} x {size[1]} pixels"
            raise _nothing_to_predict(name, f"none of {pairs} differs in it")


def _nothing_to_predict(name: str, why: str) -> ConfigError:
    return ConfigError(
        f"--augself {name} has nothing to predict: {why}; set {AUGMENTATIONS[name].flags}, or leave {name} out"
    )


def _parse_weight(part: str) -> tuple[str, float]:
    """The name and λ of NAME=λ."""
    name, _, number = (piece.strip() for piece in part.partition("="))
    if name not in AUGMENTATIONS:
        raise ConfigError(
            f"--augself: unknown augmentation {name!r}; choose from {sorted(AUGMENTATIONS)}, as crop=1.0,color=1.0"
        )
    try:
        weight = float(number)
    except ValueError:
        raise ConfigError(
            f"--augself: {part.strip()!r} has no weight; write it as {name}=1.0"
        ) from None
    if not 0 <= weight < math.inf:
        raise ConfigError(f"--augself {name}={number}: a weight must be a number, at least 0")
    return name, weight


class AugHead(nn.Module):
    """φ_aug: 2d -> 512 -> 512 -> k with BatchNorm and ReLU, on the features of both views. Paper, section 3."""

    def __init__(self, num_features: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 * num_features, WIDTH),
            nn.BatchNorm1d(WIDTH),
            nn.ReLU(),
            nn.Linear(WIDTH, WIDTH),
            nn.BatchNorm1d(WIDTH),
            nn.ReLU(),
            nn.Linear(WIDTH, outputs),
        )

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """The answers. first, second: (B, d), of the views that ω_1 and ω_2 made. Returns (B, k)."""
        answers: Tensor = self.layers(torch.cat([first, second], dim=1))  # (B, 2d) -> (B, k)
        return answers


class AugSelfLoss(NamedTuple):
    """total: Σ λ L, a scalar. parts: L of every augmentation, unweighted and without gradient, for the log."""

    total: Tensor
    parts: dict[str, Tensor]


class AugSelf(nn.Module):
    """The heads of the augmentations that have a weight, and their weighted loss. Dropped after pretraining."""

    def __init__(self, num_features: int, weights: dict[str, float], views: ViewsConfig) -> None:
        super().__init__()
        self.weights = weights
        self.views = views
        self.heads = nn.ModuleDict(
            {name: AugHead(num_features, AUGMENTATIONS[name].outputs) for name in weights}
        )

    def targets(self, params: Views, device: torch.device) -> dict[str, Tensor]:
        """What is to be predicted, by augmentation, of both orders of the pair: 2B rows, on the device.

        params: what the views were made by, B rows each.
        """
        both = (params, params[::-1])
        return {
            name: torch.cat(
                [AUGMENTATIONS[name].target(*ordered, self.views) for ordered in both]
            ).to(device, non_blocking=True)
            for name in self.weights
        }

    def forward(self, features: Pair, targets: Mapping[str, Tensor]) -> AugSelfLoss:
        """Σ_aug λ_aug L_aug, each the mean over both orders of the pair.

        features: two (B, d), of the backbone. targets: as `targets` gives them, 2B rows each.
        """
        forth = torch.cat(features)  # (2B, d): both orders in one pass, so one BatchNorm over both
        back = torch.cat(features[::-1])
        parts: dict[str, Tensor] = {}
        for name, head in self.heads.items():
            answer = head(forth, back)
            wide = answer.to(torch.promote_types(answer.dtype, torch.float32))  # under autocast
            parts[name] = AUGMENTATIONS[name].loss(wide, targets[name])
        total = torch.zeros((), device=forth.device)
        for name, loss in parts.items():
            total = total + self.weights[name] * loss
        return AugSelfLoss(total, {name: loss.detach() for name, loss in parts.items()})
