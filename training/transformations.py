"""The M transformations of SLA as data, and the one function that applies them.

One definition drives training, evaluation, the exported graph and the manifest. The identity is
always first. The order of a set is the order of its joint labels (joint.py) and must never change.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.errors import ConfigError


@dataclass(frozen=True)
class Transformation:
    """A rotation by quarter turns, counter-clockwise."""

    name: str
    quarter_turns: int = 0

    def __call__(self, images: Tensor) -> Tensor:
        """The transformed images. images: (B, H, W, 3), any dtype; square where the turn is by 90 or 270 degrees."""
        return (
            images
            if self.quarter_turns == 0
            else torch.rot90(images, self.quarter_turns, dims=(1, 2))
        )


IDENTITY = Transformation("identity")

# The names and the order of the paper's released code.
TRANSFORMATIONS: dict[str, tuple[Transformation, ...]] = {
    "rotation": (
        IDENTITY,
        Transformation("rotation-90", 1),
        Transformation("rotation-180", 2),
        Transformation("rotation-270", 3),
    ),
    "rotation2": (IDENTITY, Transformation("rotation-180", 2)),
}


def transformation_set(name: str) -> tuple[Transformation, ...]:
    """The transformations of that name, the identity first.

    Raises:
        ConfigError: no set has that name.
    """
    try:
        return TRANSFORMATIONS[name]
    except KeyError:
        raise ConfigError(
            f"unknown transformations {name!r}; choose from {sorted(TRANSFORMATIONS)}"
        ) from None


def check_image_size(transformations: Sequence[Transformation], height: int, width: int) -> None:
    """Refuse a size that a transformation would change.

    Raises:
        ConfigError: a quarter turn of an image that is not square.
    """
    turned = [t.name for t in transformations if t.quarter_turns % 2]
    if turned and height != width:
        raise ConfigError(
            f"{turned[0]} needs square images, got {height} x {width} pixels; "
            f"give --image-size {min(height, width)} (the centre is cut out), or --transformations rotation2"
        )


def transformed_copies(images: Tensor, transformations: Sequence[Transformation]) -> Tensor:
    """Every image under every transformation. images: (B, H, W, 3). Returns (B, M, H, W, 3), the image itself first."""
    return torch.stack([transform(images) for transform in transformations], dim=1)
