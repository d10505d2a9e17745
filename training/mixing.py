"""Mixup and CutMix of whole batches: two images become one, and its target says how much of each is in it.

Mixup: Zhang et al. 2018. CutMix: Yun et al. 2019. Images are mixed before their M transformed copies are made,
so every copy is of one mixed image under one transformation: rotating, mirroring and permuting colours commute
with both, and the joint target stays in the copy's own column. Returns what was done; nothing is remembered.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixed:
    """What `draw` drew, an entry an image, all on the CPU.

    partner: (B,) int64, the place of the image that is mixed in; a permutation.
    share: (B,) float32, how much of its own pixels an image keeps under Mixup: 1 where nothing is blended.
    box: (B, 4) int64, top, left, bottom, right in pixels: what CutMix takes from the partner; empty where nothing.
    """

    partner: Tensor
    share: Tensor
    box: Tensor

    def kept(self, height: int, width: int) -> Tensor:
        """How much of every image is its own, of the pixels or of their weight. Returns (B,) float32 in [0, 1]."""
        top, left, bottom, right = self.box.unbind(1)
        cut = (bottom - top) * (right - left) / (height * width)
        return self.share * (1 - cut)


def draw(
    count: int,
    size: tuple[int, int],
    generator: torch.Generator,
    *,
    mixup: float,
    cutmix: float,
    probability: float,
) -> Mixed:
    """Who is mixed with whom and how, image by image. size: (H, W) pixels.

    mixup, cutmix: α of Beta(α, α), which the share is drawn from; 0 is off. With both on, every image takes one
    of them, at even odds. probability: of an image being mixed at all.
    """
    partner = torch.randperm(count, generator=generator)
    chosen = torch.rand(count, generator=generator) < probability
    cuts = torch.rand(count, generator=generator) < (0.5 if mixup and cutmix else bool(cutmix))
    centre = torch.rand(count, 2, generator=generator)
    # torch's Beta takes no generator
    seed = torch.randint(2**63 - 1, (), generator=generator).item()
    draws = np.random.default_rng(int(seed)).beta
    share = torch.ones(count)
    if mixup:
        blend = torch.from_numpy(draws(mixup, mixup, count)).float()
        share = torch.where(chosen & ~cuts, blend, share)
    side = torch.zeros(count)
    if cutmix:
        kept = torch.from_numpy(draws(cutmix, cutmix, count)).float()
        side = torch.where(chosen & cuts, (1 - kept).sqrt(), side)
    return Mixed(partner, share, _box(centre, side, size))


def mix(images: Tensor, targets: Tensor, drawn: Mixed) -> tuple[Tensor, Tensor]:
    """The mixed images, rounded to whole pixels, and their targets.

    images: (B, H, W, 3) uint8, targets: (B, N) float. Returns the same shapes and types.
    """
    device, (height, width) = images.device, images.shape[1:3]
    partner = drawn.partner.to(device, non_blocking=True)
    share = drawn.share.to(device, non_blocking=True)[:, None, None, None]
    own, other = images.float(), images[partner].float()
    blended = other.lerp(own, share)
    inside = _inside(drawn.box.to(device, non_blocking=True), height, width)  # (B, H, W)
    mixed = torch.where(inside[..., None], other, blended).round().to(torch.uint8)
    kept = drawn.kept(height, width).to(device, non_blocking=True)[:, None].to(targets.dtype)
    return mixed, targets[partner].lerp(targets, kept)


def _box(centre: Tensor, side: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes of a share of the side around centres (B, 2) in [0, 1), cut off at the border. Returns (B, 4) int64."""
    extent = torch.tensor(size)
    middle = (centre * extent).long()  # (B, 2)
    half = (side[:, None] * extent / 2).long()
    low, high = (middle - half).clamp_min(0), torch.minimum(middle + half, extent)
    return torch.cat([low, high], dim=1)


def _inside(box: Tensor, height: int, width: int) -> Tensor:
    """Which pixels lie in the box. box: (B, 4). Returns (B, H, W) bool."""
    top, left, bottom, right = (edge[:, None] for edge in box.unbind(1))
    rows = torch.arange(height, device=box.device)
    columns = torch.arange(width, device=box.device)
    across = (rows >= top) & (rows < bottom)  # (B, H)
    down = (columns >= left) & (columns < right)  # (B, W)
    return across[:, :, None] & down[:, None, :]
