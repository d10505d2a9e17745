"""Augmentations of whole batches on their device. Each returns the images and what was done to every one of them.

Randomness comes from the generator in the arguments; nothing is remembered. Images stay uint8 (B,
H, W, 3).
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CropFlip:
    """What crop_and_flip did: shift (B, 2) int64, pixels (y, x) the picture moved up and left; flipped (B,) bool."""

    shift: Tensor
    flipped: Tensor


def crop_and_flip(
    images: Tensor, generator: torch.Generator, *, padding: int, flip: bool
) -> tuple[Tensor, CropFlip]:
    """Random crops of the original size out of the image padded with black, half of them mirrored if flip is set.

    images: (B, H, W, 3) uint8. padding: pixels on each side (the paper's recipe: 4 at 32 x 32). The
    generator lives on the CPU: the same seed gives the same crops on every device.
    Returns ((B, H, W, 3) uint8, what was done).
    """
    drawn = CropFlip(
        shift=torch.randint(-padding, padding + 1, (len(images), 2), generator=generator),
        flipped=(torch.rand(len(images), generator=generator) < 0.5) & flip,
    )
    return apply_crop_flip(images, drawn), drawn


def apply_crop_flip(images: Tensor, drawn: CropFlip) -> Tensor:
    """The crops and flips that were drawn, as one gather. images: (B, H, W, 3) uint8. Returns the same shape."""
    height, width = images.shape[1:3]
    shift = drawn.shift.to(images.device, non_blocking=True)
    flipped = drawn.flipped.to(images.device, non_blocking=True)
    rows = torch.arange(height, device=images.device) + shift[:, :1]  # (B, H)
    columns = torch.arange(width, device=images.device).expand(len(images), -1)
    columns = torch.where(flipped[:, None], width - 1 - columns, columns) + shift[:, 1:]  # (B, W)
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[
        :, None, :
    ]
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    gathered = images[
        batch, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]
    ]
    return gathered * inside[..., None]
