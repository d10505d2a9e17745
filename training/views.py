"""Random views of whole batches whose parameters are known. AugSelf, Lee et al. 2021, section 3.

A view is crop, mirror, turn, colour jitter, grey, blur, solarize, in this order. `draw_views` draws every
image's parameters, `apply_views` makes the pixels of them: the same parameters give the same pixels. Nothing is
remembered. What is predicted of the parameters is in augself.py.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from training import colour
from training.errors import ConfigError
from training.geometry import crop_and_turn
from training.pretrain_config import ViewsConfig

TRIES = 10  # of a crop that fits into the source, as torchvision's RandomResizedCrop

# How many uniform numbers an image takes for what: always all of them, whatever is switched off.
DRAWS = {
    "tries": 2 * TRIES,
    "place": 2,
    "flip": 1,
    "turns": 2,
    "jitter": 1,
    "factors": 4,
    "order": 4,
    "grey": 1,
    "blur": 2,
    "solarize": 2,
}


@dataclass(frozen=True)
class ViewParams:
    """What a set of views is made by, a row an image, all on the CPU.

    crop: (B, 4) float32, centre y, centre x, height, width as fractions of the source.
    flip: (B,) bool, mirrored left to right.
    quarter_turns: (B,) int64 in [0, 4), counter-clockwise, after the mirroring; 0 where not drawn.
    jitter: (B, 4) float32, factors of brightness, contrast and saturation, shift of the hue as a share of the
    circle; 1, 1, 1, 0 where not drawn.
    order: (B, 4) int64, which of these four comes first, second, third, last.
    grey: (B,) bool, without colour.
    sigma_px: (B,) float32, of the blur, in pixels of the view; 0 where not drawn.
    threshold: (B,) float32 in [0, 1], values from which on are inverted; 1 where not drawn.
    """

    crop: Tensor
    flip: Tensor
    quarter_turns: Tensor
    jitter: Tensor
    order: Tensor
    grey: Tensor
    sigma_px: Tensor
    threshold: Tensor

    def __len__(self) -> int:
        return len(self.crop)


def draw_views(
    count: int, source: tuple[int, int], config: ViewsConfig, generator: torch.Generator
) -> ViewParams:
    """The parameters of one view of every image.

    source: (H, W) pixels. The generator lives on the CPU: the same seed draws the same views for every device,
    and an image's draws depend neither on what is switched off nor on how many images come after it.
    """
    # float64, so that no product below is rounded up to the end of its range
    uniform = torch.rand(count, sum(DRAWS.values()), generator=generator, dtype=torch.float64)
    drawn = dict(zip(DRAWS, uniform.split(list(DRAWS.values()), dim=1), strict=True))
    turns, blur, solarize = drawn["turns"], drawn["blur"], drawn["solarize"]
    low, high = jitter_range(config)
    factors = (low + drawn["factors"] * (high - low)).float()
    jittered = drawn["jitter"] < config.jitter  # (B, 1)
    sigma_px = config.blur_sigma[0] + blur[:, 1] * (config.blur_sigma[1] - config.blur_sigma[0])
    return ViewParams(
        crop=_crops(drawn["tries"], drawn["place"], source, config),
        flip=drawn["flip"][:, 0] < config.flip,
        quarter_turns=(turns[:, 1] * 4).long() * (turns[:, 0] < config.rotation),
        jitter=torch.where(jittered, factors, torch.tensor(colour.UNCHANGED)),
        order=drawn["order"].argsort(dim=1),
        grey=drawn["grey"][:, 0] < config.grey,
        sigma_px=torch.where(blur[:, 0] < config.blur, sigma_px, 0).float(),
        threshold=torch.where(solarize[:, 0] < config.solarize, solarize[:, 1], 1).float(),
    )


def apply_views(images: Tensor, params: ViewParams, *, size: tuple[int, int]) -> Tensor:
    """The views of the images that the parameters describe.

    images: (B, H, W, 3) uint8, on any device. size: (h, w) pixels. Returns (B, 3, h, w) float32 in [0, 1].
    """
    view = crop_and_turn(images, params.crop, params.flip, params.quarter_turns, size=size)
    view = colour.jitter(view, params.jitter, params.order)
    view = colour.without_colour(view, params.grey)
    view = colour.blur(view, params.sigma_px)
    return colour.solarize(view, params.threshold).clamp(0, 1)  # of what rounding left outside


def rows(params: ViewParams, chosen: slice | Tensor) -> ViewParams:
    """The parameters of some images: a process's share. chosen: a slice, or places (b,) int64 on the CPU."""
    return ViewParams(**{name: drawn[chosen] for name, drawn in vars(params).items()})


def jitter_range(config: ViewsConfig) -> tuple[Tensor, Tensor]:
    """Least and greatest factors of brightness, contrast and saturation, and shifts of hue: two (4,) float64."""
    spread = torch.tensor(
        [config.brightness, config.contrast, config.saturation, config.hue]
    ).double()
    middle = torch.tensor(colour.UNCHANGED, dtype=torch.float64)
    low = middle - spread
    low[:3].clamp_(min=0)  # a factor is never negative, as in torchvision
    return low, middle + spread


def check_views(config: ViewsConfig, size: tuple[int, int]) -> None:
    """Refuse views that cannot be drawn. size: (h, w) pixels of a view.

    Raises:
        ConfigError: a number out of its range, or turns of views that are not square.
    """
    shares = ("flip", "jitter", "grey", "blur", "rotation", "solarize")
    ranges = {name: (0.0, 1.0) for name in shares} | {"hue": (0.0, 0.5)}
    ranges |= {name: (0.0, math.inf) for name in ("brightness", "contrast", "saturation")}
    for name, (least, most) in ranges.items():
        value = vars(config)[name]
        if not (least <= value <= most and math.isfinite(value)):
            limit = f"lie between {least:g} and {most:g}" if most < math.inf else "be at least 0"
            raise ConfigError(f"{_flag(name)} is {value}; it must {limit}")
    for name, most in (("crop_scale", 1.0), ("crop_ratio", math.inf), ("blur_sigma", math.inf)):
        low, high = vars(config)[name]
        if not (0 < low <= high <= most and math.isfinite(high)):
            limit = f", and none above {most:g}" if most < math.inf else ""
            raise ConfigError(
                f"{_flag(name)} is {low} {high}; give the least, above 0, and then the greatest{limit}"
            )
    if config.rotation and size[0] != size[1]:
        raise ConfigError(
            f"--views.rotation needs square views, and these are {size[0]} x {size[1]}; leave it at 0"
        )


def _flag(name: str) -> str:
    return "--views." + name.replace("_", "-")


def _crops(tries: Tensor, place: Tensor, source: tuple[int, int], config: ViewsConfig) -> Tensor:
    """Crops by the law of torchvision's RandomResizedCrop: the first of ten tries that fits, else the fallback.

    A share of the area is drawn evenly, the ratio of width to height evenly in its logarithm, the place evenly
    among whole pixels. tries: (B, 20), place: (B, 2), uniform in [0, 1). Returns (B, 4) float32 as in ViewParams.
    """
    if not config.crops:
        return torch.tensor([0.5, 0.5, 1.0, 1.0]).repeat(len(tries), 1)
    (least, most), log_ratio = config.crop_scale, torch.tensor(config.crop_ratio).double().log()
    area = (least + tries[:, :TRIES] * (most - least)) * (source[0] * source[1])  # (B, 10)
    ratio = (log_ratio[0] + tries[:, TRIES:] * (log_ratio[1] - log_ratio[0])).exp()
    extents = torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()], dim=2).round()
    whole = torch.tensor(source, dtype=torch.float64)
    fit = ((extents > 0) & (extents <= whole)).all(2)  # (B, 10, 2) -> (B, 10)
    first = extents[torch.arange(len(extents)), fit.int().argmax(1)]  # (B, 2)
    fallback = torch.tensor(_largest(source, config.crop_ratio), dtype=torch.float64)
    found = fit.any(1, keepdim=True)  # (B, 1)
    extent = torch.where(found, first, fallback)
    room = whole - extent
    corner = torch.where(found, (place * (room + 1)).floor(), (room / 2).floor())
    return torch.cat([(corner + extent / 2) / whole, extent / whole], dim=1).float()


def _largest(source: tuple[int, int], ratio: tuple[float, float]) -> tuple[int, int]:
    """Height and width of the largest part of the source whose ratio of width to height is allowed, in pixels.

    At least one pixel each way, where no part of the source is as flat or as narrow as the ratios ask.
    """
    height, width = source
    if width / height < ratio[0]:
        return max(1, round(width / ratio[0])), width
    if width / height > ratio[1]:
        return height, max(1, round(height * ratio[1]))
    return source
