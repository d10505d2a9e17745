import dataclasses
import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

from training import colour
from training.errors import ConfigError
from training.geometry import crop_and_turn
from training.pretrain_config import ViewsConfig
from training.views import (
    DRAWS,
    ViewParams,
    apply_views,
    check_views,
    draw_views,
    jitter_range,
    rows,
)

EVERYTHING = ViewsConfig(rotation=0.5, solarize=0.5)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(batch: int = 12, height: int = 20, width: int = 26) -> Tensor:
    return torch.randint(256, (batch, height, width, 3), generator=seeded(3)).to(torch.uint8)


def equal(one: ViewParams, other: ViewParams) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True)
    )


def drawn_by_hand(
    uniform: list[float], source: tuple[int, int], config: ViewsConfig
) -> dict[str, list[float]]:
    """One image's parameters from its uniform numbers, step by step; crops as torchvision documents them."""
    numbers = iter(uniform)
    tries, place, (flip,), turns, (jitter,), factors, order, (grey,), blur, solarize = (
        [next(numbers) for _ in range(n)] for n in DRAWS.values()
    )
    height, width = source
    for one, two in zip(tries[:10], tries[10:], strict=True):
        area = (
            height
            * width
            * (config.crop_scale[0] + one * (config.crop_scale[1] - config.crop_scale[0]))
        )
        low, high = (math.log(r) for r in config.crop_ratio)
        ratio = math.exp(low + two * (high - low))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(place[0] * (height - h + 1)), int(place[1] * (width - w + 1))
            break
    else:
        h, w = height, width
        if width / height < config.crop_ratio[0]:
            h = max(1, round(width / config.crop_ratio[0]))
        elif width / height > config.crop_ratio[1]:
            w = max(1, round(height * config.crop_ratio[1]))
        top, left = (height - h) // 2, (width - w) // 2
    spreads = (config.brightness, config.contrast, config.saturation)
    changed = [
        max(0, 1 - s) + u * (1 + s - max(0, 1 - s))
        for s, u in zip(spreads, factors[:3], strict=True)
    ]
    changed.append((2 * factors[3] - 1) * config.hue)
    sigma = config.blur_sigma[0] + blur[1] * (config.blur_sigma[1] - config.blur_sigma[0])
    return {
        "crop": [(top + h / 2) / height, (left + w / 2) / width, h / height, w / width],
        "flip": [flip < config.flip],
        "quarter_turns": [int(turns[1] * 4) if turns[0] < config.rotation else 0],
        "jitter": changed if jitter < config.jitter else [1, 1, 1, 0],
        "order": sorted(range(4), key=lambda step: order[step]),
        "grey": [grey < config.grey],
        "sigma_px": [sigma if blur[0] < config.blur else 0],
        "threshold": [solarize[1] if solarize[0] < config.solarize else 1],
    }


@pytest.mark.parametrize(
    "source", [(20, 26), (32, 32), (10, 32), (32, 10)]
)  # the last two often fall back
@pytest.mark.parametrize(
    "config",
    [
        EVERYTHING,
        ViewsConfig(
            crop_scale=(0.9, 1.0), brightness=1.5, rotation=1.0, jitter=1.0, blur_sigma=(0.5, 0.5)
        ),
        ViewsConfig(crop_scale=(0.5, 0.5), crop_ratio=(2.0, 3.0), solarize=1.0, blur=1.0, hue=0.5),
        ViewsConfig(crop_ratio=(100.0, 200.0)),  # flatter than any part of the source
    ],
)
def test_parameters_match_the_loop_over_images(source: tuple[int, int], config: ViewsConfig):
    found = draw_views(60, source, config, seeded())
    uniform = torch.rand(60, 29 + 10, generator=seeded(), dtype=torch.float64).tolist()
    for row, numbers in enumerate(uniform):
        for name, value in drawn_by_hand(numbers, source, config).items():
            got = vars(found)[name][row].double().reshape(-1)
            torch.testing.assert_close(
                got, torch.tensor(value, dtype=torch.float64), atol=1e-6, rtol=0, msg=name
            )


@pytest.mark.parametrize("source", [(32, 32), (24, 60)])
def test_crops_are_distributed_as_torchvisions(source: tuple[int, int]):
    count = 3000
    config = ViewsConfig(crop_scale=(0.2, 1.0))
    found = draw_views(count, source, config, seeded()).crop
    with torch.random.fork_rng():
        torch.manual_seed(1)
        blank = torch.zeros(1, *source)
        boxes = [
            RandomResizedCrop.get_params(blank, list(config.crop_scale), list(config.crop_ratio))
            for _ in range(count)
        ]
    top, left, height, width = torch.tensor(boxes, dtype=torch.float32).unbind(1)
    expected = torch.stack(
        [
            (top + height / 2) / source[0],
            (left + width / 2) / source[1],
            height / source[0],
            width / source[1],
        ]
    )
    for ours, theirs in zip(found.T, expected, strict=True):
        levels = torch.linspace(0, 1, 41)
        shares = [(values[:, None] <= levels + 1e-4).float().mean(0) for values in (ours, theirs)]
        # the two-sample Kolmogorov-Smirnov bound at 1e-4
        assert (shares[0] - shares[1]).abs().max() < 2.23 * math.sqrt(2 / count)


def test_parameters_have_the_promised_types_and_ranges():
    params = draw_views(2000, (32, 40), EVERYTHING, seeded())
    types = {name: (drawn.dtype, drawn.shape[1:]) for name, drawn in vars(params).items()}
    assert types == {
        "crop": (torch.float32, (4,)),
        "flip": (torch.bool, ()),
        "quarter_turns": (torch.int64, ()),
        "jitter": (torch.float32, (4,)),
        "order": (torch.int64, (4,)),
        "grey": (torch.bool, ()),
        "sigma_px": (torch.float32, ()),
        "threshold": (torch.float32, ()),
    }
    assert len(params) == 2000
    centre, extent = params.crop[:, :2], params.crop[:, 2:]
    assert (centre - extent / 2).min() >= -1e-6
    assert (centre + extent / 2).max() <= 1 + 1e-6
    area = extent.prod(1)
    assert 0.19 < area.min() < 0.23
    assert 0.95 < area.max() <= 1
    pixels = extent * torch.tensor([32, 40])
    torch.testing.assert_close(pixels, pixels.round(), atol=1e-4, rtol=0)
    assert params.order.sort(dim=1).values.eq(torch.arange(4)).all()
    assert len(params.order.unique(dim=0)) == 24
    low, high = jitter_range(EVERYTHING)
    assert ((params.jitter >= low - 1e-6) & (params.jitter <= high + 1e-6)).all()
    assert 0.1 <= params.sigma_px[params.sigma_px > 0].min() < 0.12
    assert 1.98 < params.sigma_px.max() <= 2


def test_as_many_views_are_changed_as_the_settings_say():
    config = ViewsConfig(flip=0.3, jitter=0.7, grey=0.1, blur=0.6, rotation=0.8, solarize=0.4)
    params = draw_views(20_000, (32, 32), config, seeded())
    changed = {
        "flip": params.flip,
        "jitter": (params.jitter != torch.tensor(colour.UNCHANGED)).any(1),
        "grey": params.grey,
        "blur": params.sigma_px > 0,
        "solarize": params.threshold < 1,
    }
    for name, share in changed.items():
        assert share.float().mean().item() == pytest.approx(vars(config)[name], abs=0.02)
    turned = params.quarter_turns.bincount(minlength=4) / 20_000
    torch.testing.assert_close(turned, torch.tensor([0.4, 0.2, 0.2, 0.2]), atol=0.02, rtol=0)


def test_everything_off_leaves_the_picture():
    config = ViewsConfig(crop_scale=(1.0, 1.0), flip=0, jitter=0, grey=0, blur=0)
    for source in ((20, 26), (40, 10)):
        images = random_images(5, *source)
        params = draw_views(5, source, config, seeded())
        found = apply_views(images, params, size=source)
        torch.testing.assert_close(found, images.permute(0, 3, 1, 2) / 255, atol=1e-6, rtol=0)


def test_jitter_of_no_range_changes_nothing():
    config = dataclasses.replace(
        EVERYTHING, brightness=0, contrast=0, saturation=0, hue=0, jitter=1
    )
    params = draw_views(50, (20, 20), config, seeded())
    assert params.jitter.unique(dim=0).tolist() == [list(colour.UNCHANGED)]


def test_draws_do_not_depend_on_what_else_is_on():
    on = draw_views(50, (32, 32), EVERYTHING, seeded())
    off = draw_views(
        50, (32, 32), ViewsConfig(crop_scale=(1, 1), flip=0, blur=0, jitter=0), seeded()
    )
    assert torch.equal(on.grey, off.grey)
    assert torch.equal(on.order, off.order)
    one, other = seeded(), seeded()
    draw_views(50, (32, 32), EVERYTHING, one)
    draw_views(50, (99, 12), ViewsConfig(crop_scale=(1, 1)), other)
    assert torch.equal(one.get_state(), other.get_state())


def test_draws_do_not_depend_on_the_images_that_come_after():
    few, many = (draw_views(count, (32, 32), EVERYTHING, seeded()) for count in (3, 40))
    assert equal(few, rows(many, slice(3)))


def test_same_seed_draws_the_same_and_the_global_generator_is_not_touched():
    before = torch.get_rng_state()
    one, two, other = (draw_views(9, (32, 32), EVERYTHING, seeded(seed)) for seed in (5, 5, 6))
    apply_views(random_images(9, 32, 32), one, size=(32, 32))
    assert equal(one, two)
    assert not torch.equal(one.crop, other.crop)
    assert torch.equal(torch.get_rng_state(), before)


# pixels


def test_same_parameters_give_the_same_pixels_and_the_images_stay():
    images = random_images()
    before = images.clone()
    params = draw_views(12, (20, 26), EVERYTHING, seeded())
    kept = {name: drawn.clone() for name, drawn in vars(params).items()}
    one, two = (apply_views(images, params, size=(18, 18)) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(images, before)
    assert equal(params, ViewParams(**kept))


@pytest.mark.parametrize("size", [(20, 26), (33, 24), (9, 40)])
def test_views_have_the_promised_shape_and_range(size: tuple[int, int]):
    config = dataclasses.replace(EVERYTHING, rotation=0)
    params = draw_views(12, (20, 26), config, seeded())
    found = apply_views(random_images(), params, size=size)
    assert found.shape == (12, 3, *size)
    assert found.dtype == torch.float32
    assert found.min() >= 0
    assert found.max() <= 1


def test_rounding_leaves_no_value_outside_the_range():
    config = ViewsConfig(blur=1.0, grey=0.0, solarize=0.5)
    params = draw_views(64, (24, 24), config, seeded())
    white = torch.full((64, 24, 24, 3), 255, dtype=torch.uint8)
    found = apply_views(white, params, size=(24, 24))
    assert found.max() <= 1
    assert found.min() >= 0


@pytest.mark.parametrize("source", [(16, 16), (20, 26), (26, 20)])
@pytest.mark.parametrize("ratio", [(100.0, 200.0), (60.0, 1e300)])
def test_crops_of_ratios_that_no_part_of_the_source_has_are_one_pixel_high_or_wide(
    source: tuple[int, int], ratio: tuple[float, float]
):
    flat = ViewsConfig(crop_ratio=ratio, flip=0, jitter=0, grey=0, blur=0)
    narrow = dataclasses.replace(flat, crop_ratio=(1 / ratio[1], 1 / ratio[0]))
    images = random_images(8, *source)
    pixels = images.permute(0, 3, 1, 2) / 255  # (B, 3, H, W)
    for config, side, dim in ((flat, source[0], 2), (narrow, source[1], 3)):
        params = draw_views(8, source, config, seeded())
        # the centre of the pixels that the view shows, in pixels of the source
        shown = int((params.crop[0, dim - 2] * side).item())
        assert params.crop[0, dim].item() * side == pytest.approx(1)
        expected = pixels.narrow(dim, shown, 1).expand_as(pixels)
        found = apply_views(images, params, size=source)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_rows_exchanged_in_images_and_parameters_are_exchanged_in_the_views():
    images, params = random_images(), draw_views(12, (20, 26), EVERYTHING, seeded())
    whole = apply_views(images, params, size=(16, 16))
    places = torch.randperm(12, generator=seeded(1))
    exchanged = apply_views(images[places], rows(params, places), size=(16, 16))
    torch.testing.assert_close(exchanged, whole[places], atol=1e-6, rtol=0)


def test_shares_of_a_batch_make_up_the_batch():
    images, params = random_images(), draw_views(12, (20, 26), EVERYTHING, seeded())
    whole = apply_views(images, params, size=(16, 16))
    shares = [slice(0, 1), slice(1, 7), slice(7, 12)]
    found = [apply_views(images[share], rows(params, share), size=(16, 16)) for share in shares]
    torch.testing.assert_close(torch.cat(found), whole, atol=1e-6, rtol=0)


def test_steps_come_in_the_order_of_the_paper():
    images, params = random_images(), draw_views(12, (20, 26), EVERYTHING, seeded(2))
    params = dataclasses.replace(
        params, sigma_px=torch.full((12,), 1.0), threshold=torch.full((12,), 0.4)
    )
    view = crop_and_turn(images, params.crop, params.flip, params.quarter_turns, size=(30, 30))
    for image in range(12):
        one = rows(params, slice(image, image + 1))
        expected = colour.jitter(view[image : image + 1], one.jitter, one.order)
        expected = colour.without_colour(expected, one.grey)
        expected = colour.solarize(colour.blur(expected, one.sigma_px), one.threshold)
        found = apply_views(images[image : image + 1], one, size=(30, 30))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_two_draws_of_one_generator_are_two_different_views():
    generator, images = seeded(), random_images()
    one, two = (
        apply_views(images, draw_views(12, (20, 26), EVERYTHING, generator), size=(16, 16))
        for _ in range(2)
    )
    assert (one != two).flatten(1).any(1).all()


# settings


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"flip": 1.1}, "--views.flip is 1.1; it must lie between 0 and 1"),
        ({"grey": float("nan")}, "--views.grey is nan"),
        ({"hue": 0.6}, "--views.hue is 0.6; it must lie between 0 and 0.5"),
        ({"contrast": -0.1}, "--views.contrast is -0.1; it must be at least 0"),
        ({"contrast": math.inf}, "--views.contrast is inf"),
        ({"crop_scale": (0.0, 1.0)}, "--views.crop-scale is 0.0 1.0"),
        ({"crop_scale": (0.5, 1.5)}, "none above 1"),
        ({"crop_ratio": (2.0, 1.0)}, "--views.crop-ratio is 2.0 1.0; give the least"),
        ({"blur_sigma": (0.0, 1.0)}, "--views.blur-sigma is 0.0 1.0"),
        ({"blur_sigma": (0.1, math.inf)}, "--views.blur-sigma is 0.1 inf"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, object], words: str):
    with pytest.raises(ConfigError) as caught:
        check_views(dataclasses.replace(ViewsConfig(), **change), (32, 32))  # type: ignore[arg-type]
    assert words in str(caught.value)


def test_turns_need_square_views():
    with pytest.raises(
        ConfigError, match=r"--views.rotation needs square views, and these are 32 x 40"
    ):
        check_views(ViewsConfig(rotation=0.1), (32, 40))
    check_views(ViewsConfig(rotation=0.1), (32, 32))
    check_views(ViewsConfig(), (32, 40))
