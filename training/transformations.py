"""The M transformations of SLA as data, and the one function that applies them.

One definition drives training, evaluation, the exported graph and the manifest. The identity is
always first. The order of a set is the order of its joint labels (joint.py) and must never change.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from training.errors import ConfigError

IDENTITY = "identity"


@dataclass(frozen=True)
class Transformation:
    """A mirroring, then quarter turns, then a permutation of the channels.

    mirrored: left and right change places. quarter_turns: counter-clockwise.
    channels: which channel each of red, green and blue is taken from.
    """

    name: str = IDENTITY
    mirrored: bool = False
    quarter_turns: int = 0
    channels: tuple[int, int, int] = (0, 1, 2)

    def __call__(self, images: Tensor) -> Tensor:
        """The transformed images. images: (B, H, W, 3), any dtype; square if turned by 90 or 270 degrees."""
        if self.mirrored:
            images = images.flip(2)
        if self.quarter_turns:
            images = torch.rot90(images, self.quarter_turns, dims=(1, 2))
        if self.channels != (0, 1, 2):
            images = torch.stack([images[..., channel] for channel in self.channels], dim=-1)
        return images


_UNCHANGED = Transformation()

# The names and orders of the paper's released code; flip is ours.
FACTORS: dict[str, tuple[Transformation, ...]] = {
    "rotation": (
        _UNCHANGED,
        Transformation("rotation-90", quarter_turns=1),
        Transformation("rotation-180", quarter_turns=2),
        Transformation("rotation-270", quarter_turns=3),
    ),
    "rotation2": (_UNCHANGED, Transformation("rotation-180", quarter_turns=2)),
    "color6": (
        _UNCHANGED,
        Transformation("color-rbg", channels=(0, 2, 1)),
        Transformation("color-grb", channels=(1, 0, 2)),
        Transformation("color-gbr", channels=(1, 2, 0)),
        Transformation("color-brg", channels=(2, 0, 1)),
        Transformation("color-bgr", channels=(2, 1, 0)),
    ),
    "color3": (
        _UNCHANGED,
        Transformation("color-gbr", channels=(1, 2, 0)),
        Transformation("color-brg", channels=(2, 0, 1)),
    ),
    "flip": (_UNCHANGED, Transformation("flip", mirrored=True)),
}


def transformation_set(name: str) -> tuple[Transformation, ...]:
    """The transformations of that name, the identity first: a factor, or a product such as rotation*color3.

    The first factor is the outer loop.

    Raises:
        ConfigError: a factor is unknown, or two factors do the same kind of thing.
    """
    product: tuple[Transformation, ...] = (_UNCHANGED,)
    for factor in name.split("*"):
        if factor not in FACTORS:
            raise ConfigError(
                f"unknown transformations {name!r}; choose from {sorted(FACTORS)}, "
                "or a product of them such as rotation*color3"
            )
        product = tuple(
            _compose(outer, inner, name) for outer in product for inner in FACTORS[factor]
        )
    return product


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


def _compose(outer: Transformation, inner: Transformation, name: str) -> Transformation:
    """The two in one; they change different things, so that their order does not matter but to mirrored turns."""
    changes = {}
    for field in fields(Transformation)[1:]:
        first, second = (getattr(part, field.name) for part in (outer, inner))
        if field.default not in (first, second):
            raise ConfigError(f"{name!r} has two factors of one kind; take each kind once")
        changes[field.name] = second if first == field.default else first
    names = [part.name for part in (outer, inner) if part.name != IDENTITY]
    return Transformation("+".join(names) or IDENTITY, **changes)
