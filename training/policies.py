"""Augmentation policies, from torchvision: RandAugment, AutoAugment, TrivialAugment. Every image draws its own.

They run on the processor, on Pillow images one by one: with images of 32 to 128 pixels that is faster
than torchvision's and kornia's tensor code, whose operations are made for a whole batch with one draw.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from training.errors import ConfigError

Policy = Callable[[Image.Image], Image.Image]

# the defaults of torchvision, which are the papers'; what they turn or move in is black
POLICIES: dict[str, Callable[[], Policy] | None] = {
    "none": None,
    "randaugment": v2.RandAugment,  # Cubuk et al. 2020: 2 operations at magnitude 9 of 30
    "autoaugment": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),  # Cubuk et al. 2019
    "autoaugment-imagenet": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET),
    "autoaugment-svhn": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.SVHN),
    "trivialaugment": v2.TrivialAugmentWide,  # Müller and Hutter 2021
}


@dataclass(frozen=True)
class Drawn:
    """What vary did: the policy, and the seed of torch's generator from which it drew, image by image."""

    policy: str
    seed: int = 0


def vary(images: Tensor, generator: torch.Generator, *, policy: str) -> tuple[Tensor, Drawn]:
    """Every image by its own draw of a policy. images: (B, H, W, 3) uint8.

    Returns ((B, H, W, 3) uint8, what was done). Nothing is drawn from the generator where the policy is none.

    Raises:
        ConfigError: no policy has that name.
    """
    if find_policy(policy) is None:
        return images, Drawn(policy)
    drawn = Drawn(policy, int(torch.randint(2**63 - 1, (), generator=generator)))
    return apply_policy(images, drawn), drawn


def apply_policy(images: Tensor, drawn: Drawn) -> Tensor:
    """The images by what was drawn, again. images: (B, H, W, 3) uint8. Returns the same shape, on their device."""
    made = find_policy(drawn.policy)
    if made is None:
        return images
    policy = made()
    # torchvision draws from the global generator of the CPU; it is left as it was
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(drawn.seed)
        varied = [np.asarray(policy(Image.fromarray(image))) for image in images.cpu().numpy()]
    return torch.from_numpy(np.stack(varied)).to(images.device)


def find_policy(name: str) -> Callable[[], Policy] | None:
    """What makes the policy of that name; None where images stay as they are.

    Raises:
        ConfigError: no policy has that name.
    """
    try:
        return POLICIES[name]
    except KeyError:
        raise ConfigError(f"unknown policy {name!r}; choose from {list(POLICIES)}") from None
