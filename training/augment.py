"""Augmentations of whole batches on their device. Each returns the images and what was done to every one of them.

Randomness comes from the generator in the arguments; nothing is remembered. Images stay uint8 (B,
H, W, 3).
"""

from collections.abc import Sequence
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


@dataclass(frozen=True)
class CutOut:
    """What cut_out did: centre (B, 2) int64, pixels (y, x); the square begins size_px // 2 before it."""

    centre: Tensor
    size_px: int


def cut_out(
    images: Tensor, generator: torch.Generator, *, size_px: int, fill: Sequence[float]
) -> tuple[Tensor, CutOut]:
    """A square of every image hidden (Cutout, DeVries and Taylor 2017). images: (B, H, W, 3) uint8.

    Its centre may be any pixel, so that part of it may lie outside, as in the paper. fill: of every channel,
    in units of uint8 pixels; the paper's zero after normalisation is the channel's mean. Nothing is drawn
    where size_px is 0. Returns ((B, H, W, 3) uint8, what was done).
    """
    if size_px == 0:
        return images, CutOut(torch.zeros(len(images), 2, dtype=torch.int64), 0)
    height, width = images.shape[1:3]
    rows = torch.randint(height, (len(images),), generator=generator)
    columns = torch.randint(width, (len(images),), generator=generator)
    drawn = CutOut(torch.stack([rows, columns], dim=1), size_px)
    return apply_cut_out(images, drawn, fill), drawn


def apply_cut_out(images: Tensor, drawn: CutOut, fill: Sequence[float]) -> Tensor:
    """The squares that were drawn, filled. images: (B, H, W, 3) uint8. Returns the same shape."""
    first = (drawn.centre - drawn.size_px // 2).to(images.device, non_blocking=True)  # (B, 2)
    height, width = images.shape[1:3]
    rows = torch.arange(height, device=images.device) - first[:, :1]  # (B, H)
    columns = torch.arange(width, device=images.device) - first[:, 1:]  # (B, W)
    hidden = ((rows >= 0) & (rows < drawn.size_px))[:, :, None] & (
        (columns >= 0) & (columns < drawn.size_px)
    )[:, None, :]  # (B, H, W)
    colour = torch.tensor(fill).round().to(torch.uint8)  # (3,)
    colour = colour.to(images.device, non_blocking=True)
    return torch.where(hidden[..., None], colour, images)
