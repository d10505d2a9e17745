"""Changes of colour and sharpness of whole batches, each image by its own parameters.

Brightness, contrast, saturation and hue are defined as torchvision's ColorJitter does, blur and solarize as
torchvision and PIL do. Images are (B, 3, h, w) float in [0, 1] on any device; parameters lie on the CPU, so that
it is known without waiting for a GPU which rows change, and nothing is computed for the others. Arguments
are never changed.
"""

import torch
from kornia.enhance import solarize as kornia_solarize
from kornia.filters import gaussian_blur2d
from torch import Tensor

UNCHANGED = (1.0, 1.0, 1.0, 0.0)  # brightness, contrast and saturation factors, hue shift

# ITU-R 601 as torchvision rounds it; PIL and kornia take 0.299
LUMA = (0.2989, 0.587, 0.114)


def grey(images: Tensor) -> Tensor:
    """Luma. images: (B, 3, h, w). Returns (B, 1, h, w)."""
    red, green, blue = images.split(1, dim=1)
    luma: Tensor = red * LUMA[0]
    return luma.add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def brightened(images: Tensor, factors: Tensor) -> Tensor:
    """Brightness: f * x, clipped. images: (B, 3, h, w), factors: (B, 1, 1, 1), at least 0. Returns images' shape."""
    return (images * factors).clamp_(0, 1)


def contrasted(images: Tensor, factors: Tensor) -> Tensor:
    """Contrast: f * x + (1 - f) * mean of the grey image, clipped. images: (B, 3, h, w), factors: (B, 1, 1, 1)."""
    return grey(images).mean((2, 3), keepdim=True).lerp(images, factors).clamp_(0, 1)


def saturated(images: Tensor, factors: Tensor) -> Tensor:
    """Saturation: f * x + (1 - f) * the grey image, clipped. images: (B, 3, h, w), factors: (B, 1, 1, 1)."""
    return grey(images).lerp(images, factors).clamp_(0, 1)


def hue_turned(images: Tensor, shifts: Tensor) -> Tensor:
    """The hue of HSV turned by a share of the circle. images: (B, 3, h, w), shifts: (B, 1, 1, 1) in [-1/2, 1/2].

    With V = max(R, G, B), C = V - min and the hue h in sixths of the circle, a channel is V - C * clip(min(k, 4 - k)),
    k = (n + h) mod 6, n = 5, 3, 1 for red, green and blue: torchvision's HSV there and back without its
    six sectors, and a third of the time of kornia's adjust_hue.
    """
    red, green, blue = images.unbind(1)  # (B, h, w)
    value, least = images.amax(1), images.amin(1)
    chroma = value - least
    divisor = torch.where(chroma == 0, 1, chroma)  # grey has no hue, and chroma 0 leaves it grey
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    offsets = torch.arange(5, 0, -2, device=images.device)[:, None, None]  # 5, 3, 1: (3, 1, 1)
    sector = (hue[:, None] + 6 * shifts + offsets).remainder_(6)  # (B, 3, h, w)
    return value[:, None] - chroma[:, None] * torch.minimum(sector, 4 - sector).clamp_(0, 1)


STEPS = (brightened, contrasted, saturated, hue_turned)  # in the order of a row of factors


def jitter(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue, in every image's own order; a factor that changes nothing is left out.

    images: (B, 3, h, w). factors: (B, 4), as UNCHANGED. order: (B, 4) int64, order[b, p]: the place in STEPS of
    the step that comes at p, a permutation. Returns (B, 3, h, w).
    """
    changes = factors != torch.tensor(UNCHANGED, dtype=factors.dtype)  # (B, 4)
    if not changes.any():
        return images
    changed = images.clone()
    for position in range(len(STEPS)):
        for number, step in enumerate(STEPS):
            chosen = (order[:, position] == number) & changes[:, number]
            if chosen.any():
                rows = _rows(chosen, images.device)
                amount = factors[chosen, number].to(images, non_blocking=True)[:, None, None, None]
                changed.index_copy_(0, rows, step(changed[rows], amount))
    return changed


def without_colour(images: Tensor, chosen: Tensor) -> Tensor:
    """The chosen images in grey. images: (B, 3, h, w), chosen: (B,) bool. Returns (B, 3, h, w)."""
    if not chosen.any():
        return images
    rows = _rows(chosen, images.device)
    return images.index_copy(0, rows, grey(images[rows]).expand(-1, 3, -1, -1))


def blur(images: Tensor, sigma_px: Tensor) -> Tensor:
    """Gaussian blur over kernel_px pixels, mirrored at the border. images: (B, 3, h, w).

    sigma_px: (B,) standard deviation in pixels, 0 for none. Returns (B, 3, h, w).
    """
    chosen = sigma_px > 0
    if not chosen.any():
        return images
    rows = _rows(chosen, images.device)
    sides = sigma_px[chosen, None].expand(
        -1, 2
    )  # kornia checks it on the CPU and moves it without waiting
    kernel = kernel_px((images.shape[2], images.shape[3]))
    return images.index_copy(0, rows, gaussian_blur2d(images[rows], kernel, sides))


def kernel_px(size: tuple[int, int]) -> int:
    """The odd number next to a tenth of a view's shorter side, at least 3. size: (h, w) pixels.

    AugSelf takes 9 at 96 pixels and 23 at 224, and so does this.
    """
    return max(3, 2 * (min(size) // 20) + 1)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Values from the threshold on inverted: x < t: x, else 1 - x. images: (B, 3, h, w).

    threshold: (B,) in [0, 1], 1 for none: white stays white there. Returns (B, 3, h, w).
    """
    chosen = threshold < 1
    if not chosen.any():
        return images
    rows = _rows(chosen, images.device)
    thresholds = threshold[chosen].to(images, non_blocking=True)
    return images.index_copy(0, rows, kornia_solarize(images[rows], thresholds))


def _rows(chosen: Tensor, device: torch.device) -> Tensor:
    """The places of the chosen rows, on the device. chosen: (B,) bool, on the CPU."""
    return chosen.nonzero()[:, 0].to(device, non_blocking=True)
