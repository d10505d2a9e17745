"""Crop, mirror, turn and resize of whole batches, each image by its own parameters, in two batched matrix products.

A resize is separable: every row of the view is a weighted sum of rows of the source, every column of columns.
Mirroring and half turns reverse the order of those sums; a quarter turn is a transposition more. Weights are
bilinear where a crop is enlarged, and widened where it is shrunk (antialiased), as torchvision resizes.
"""

import torch
from torch import Tensor


def crop_and_turn(
    images: Tensor, crop: Tensor, flip: Tensor, quarter_turns: Tensor, *, size: tuple[int, int]
) -> Tensor:
    """The crop of every image, resized, then mirrored left to right, then turned counter-clockwise.

    images: (B, H, W, 3) uint8. crop: (B, 4) centre y, centre x, height, width as fractions of the source, at
    least one pixel each way; pixels outside the crop have no influence. flip: (B,) bool. quarter_turns: (B,)
    int64 in [0, 4), odd ones for square views only. size: (h, w) pixels. The parameters lie on the CPU.
    Returns (B, 3, h, w) float32 in [0, 1], up to rounding.
    """
    across = flip ^ (
        (quarter_turns == 1) | (quarter_turns == 2)
    )  # rot90 = transpose after mirroring
    down = quarter_turns >= 2
    count, (height, width) = len(images), images.shape[1:3]
    rows = resize_weights(crop[:, 0], crop[:, 2], down, images.device, length=height, size=size[0])
    columns = resize_weights(
        crop[:, 1], crop[:, 3], across, images.device, length=width, size=size[1]
    )
    view = torch.bmm(rows / 255, images.flatten(2).float())  # (B, H, W * 3) -> (B, h, W * 3)
    view = view.unflatten(2, (width, 3)).permute(0, 3, 1, 2)  # (B, 3, h, W)
    view = torch.bmm(view.reshape(count, 3 * size[0], width), columns.mT)  # (B, 3 * h, w)
    return _transposed(view.unflatten(1, (3, size[0])), quarter_turns % 2 == 1)


def resize_weights(
    centre: Tensor, extent: Tensor, reverse: Tensor, device: torch.device, *, length: int, size: int
) -> Tensor:
    """How much every pixel of a source's axis adds to every pixel of the view's.

    Pixel s lies at s + 1/2. The view's pixel i looks at first + (i + 1/2) * scale, scale = extent / size, through
    a triangle of half-width max(scale, 1), over the pixels in the crop; its weights add to one.

    centre, extent: (B,) fractions of the axis; reverse: (B,) bool, the view's last pixel first. All on the CPU.
    length: of the source, size: of the view, in pixels. Returns (B, size, length) float32 on the device.
    """
    edges = torch.stack([centre - extent / 2, centre + extent / 2]).double() * length
    first, last = (edge[:, None] for edge in edges.float().to(device, non_blocking=True))  # (B, 1)
    scale = (last - first) / size
    middle = torch.arange(size, device=device) + 0.5  # (size,)
    reverse = reverse.to(device, non_blocking=True)[:, None]
    looked_at = first + scale * torch.where(reverse, size - middle, middle)  # (B, size)
    pixels = torch.arange(length, device=device) + 0.5  # (length,)
    inside = (pixels > first) & (pixels < last)  # (B, length)
    distance = (pixels - looked_at[..., None]).abs() / scale.clamp_min(1)[..., None]
    weights: Tensor = (1 - distance).clamp_min_(0) * inside[:, None]  # (B, size, length)
    weights /= weights.sum(-1, keepdim=True)
    return weights


def _transposed(images: Tensor, chosen: Tensor) -> Tensor:
    """Rows and columns of the chosen images exchanged. images: (B, 3, h, h); chosen: (B,) bool, on the CPU."""
    if not chosen.any():
        return images
    on_device = chosen.to(images.device, non_blocking=True)[:, None, None, None]
    return torch.where(on_device, images.mT, images)
