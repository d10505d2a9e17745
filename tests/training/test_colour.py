import colorsys
from itertools import permutations

import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as reference

from tests.test_walls import ROOT, imported
from training import colour

# brightness, contrast, saturation, hue by torchvision, of one image
REFERENCES = (
    reference.adjust_brightness,
    reference.adjust_contrast,
    reference.adjust_saturation,
    reference.adjust_hue,
)


def random_images(batch: int = 6, height: int = 7, width: int = 9) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(batch, 3, height, width, generator=generator, dtype=torch.float64)
    images[:, :, 0] = images[:, :1, 0]  # a row of grey
    images[:, :, 1, :3] = 0
    images[:, :, 1, 3:6] = 1
    images[:, 1, 2] = images[:, 0, 2]  # and one where two channels are equal
    return images


def random_factors(batch: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    uniform = torch.rand(batch, 4, generator=generator, dtype=torch.float64)
    low = torch.tensor([0.3, 0.3, 0.3, -0.5], dtype=torch.float64)
    high = torch.tensor([1.8, 1.8, 1.8, 0.5], dtype=torch.float64)
    return low + uniform * (high - low)


def column(values: Tensor) -> Tensor:
    return values[:, None, None, None]


@pytest.mark.parametrize("number", range(4))
def test_step_is_torchvisions_with_every_images_own_factor(number: int):
    images, factors = random_images(), random_factors()[:, number]
    found = colour.STEPS[number](images, column(factors))
    expected = [
        REFERENCES[number](image, factor)
        for image, factor in zip(images, factors.tolist(), strict=True)
    ]
    exact = 1e-12 if number < 3 else 2e-6  # torchvision turns the hue in float32
    torch.testing.assert_close(found, torch.stack(expected), atol=exact, rtol=0)


@pytest.mark.parametrize("number", range(4))
def test_step_in_float32_is_near_the_one_in_float64(number: int):
    images, factors = random_images().float(), random_factors()[:, number].float()
    found = colour.STEPS[number](images, column(factors))
    assert found.dtype == torch.float32
    exact = colour.STEPS[number](images.double(), column(factors.double()))
    torch.testing.assert_close(found.double(), exact, atol=2e-6, rtol=0)


@pytest.mark.parametrize("number", range(4))
def test_step_with_the_unchanging_factor_is_the_identity(number: int):
    images = random_images()
    factors = torch.full((len(images),), colour.UNCHANGED[number], dtype=torch.float64)
    found = colour.STEPS[number](images, column(factors))
    torch.testing.assert_close(found, images, atol=1e-12, rtol=0)


def test_hue_matches_a_loop_over_pixels_by_the_standard_library():
    images, shifts = random_images(), random_factors()[:, 3]
    found = colour.hue_turned(images, column(shifts))
    for image, seen, shift in zip(images, found, shifts.tolist(), strict=True):
        for pixel, turned in zip(
            image.flatten(1).T.tolist(), seen.flatten(1).T.tolist(), strict=True
        ):
            hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
            assert turned == pytest.approx(
                colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)
            )


def test_third_of_a_turn_of_the_hue_makes_red_green():
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    found = colour.hue_turned(red, torch.tensor([[[[1 / 3]]]]))
    torch.testing.assert_close(found.flatten(), torch.tensor([0.0, 1.0, 0.0]), atol=1e-6, rtol=0)


def test_half_the_brightness_is_read_off_the_pixels():
    images = random_images()
    found = colour.brightened(images, torch.tensor(0.5).view(1, 1, 1, 1))
    torch.testing.assert_close(found, images / 2)


def test_contrast_keeps_the_mean_and_scales_the_distance_to_it():
    images = 0.4 + 0.2 * random_images().mean(1, keepdim=True).expand(-1, 3, -1, -1)
    found = colour.contrasted(images, torch.full((6, 1, 1, 1), 0.5, dtype=torch.float64))
    spread = found.std((1, 2, 3)) / images.std((1, 2, 3))
    torch.testing.assert_close(spread, torch.full_like(spread, 0.5), atol=1e-3, rtol=0)
    torch.testing.assert_close(found.mean((1, 2, 3)), images.mean((1, 2, 3)), atol=1e-4, rtol=0)


# all four


def one_by_one(image: Tensor, factors: list[float], order: list[int]) -> Tensor:
    for number in order:
        image = REFERENCES[number](image, factors[number])
    return image


def test_jitter_takes_every_image_through_its_own_order():
    orders = torch.tensor(list(permutations(range(4))))  # all 24
    images, factors = random_images(24), random_factors(24)
    found = colour.jitter(images, factors, orders)
    expected = [
        one_by_one(image, row, order)
        for image, row, order in zip(images, factors.tolist(), orders.tolist(), strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=0)


def test_order_matters():
    images, factors = random_images(1), torch.tensor([[1.7, 0.5, 1.6, 0.1]]).double()
    one, other = (
        colour.jitter(images, factors, torch.tensor([order]))
        for order in ([0, 1, 2, 3], [1, 0, 3, 2])
    )
    assert (one - other).abs().max() > 0.05


def test_jitter_leaves_images_alone_that_it_was_not_drawn_for():
    images, factors = random_images(), random_factors().float()
    factors[::2] = torch.tensor(colour.UNCHANGED)
    found = colour.jitter(images.float(), factors, torch.arange(4).repeat(6, 1))
    assert torch.equal(found[::2], images[::2].float())
    assert (found[1::2] != images[1::2].float()).any((1, 2, 3)).all()


def test_jitter_does_only_the_steps_whose_factor_changes_something():
    images, factors = random_images().float(), torch.tensor([colour.UNCHANGED]).repeat(6, 1)
    factors[:, 0] = 0.5
    found = colour.jitter(images, factors, torch.tensor([[3, 2, 1, 0]]).repeat(6, 1))
    assert torch.equal(found, images * 0.5)


# grey, blur, solarize


def test_chosen_images_lose_their_colour_and_the_others_keep_theirs():
    images, chosen = random_images(), torch.tensor([True, False, False, True, False, True])
    found = colour.without_colour(images, chosen)
    expected = torch.stack([reference.rgb_to_grayscale(image, 3) for image in images])
    torch.testing.assert_close(found[chosen], expected[chosen], atol=1e-12, rtol=0)
    assert torch.equal(found[~chosen], images[~chosen])


@pytest.mark.parametrize(
    ("size", "kernel"), [((12, 60), 3), ((96, 96), 9), ((224, 224), 23), ((8, 8), 3)]
)
def test_blur_reaches_over_a_tenth_of_the_shorter_side(size: tuple[int, int], kernel: int):
    assert colour.kernel_px(size) == kernel


@pytest.mark.parametrize("size", [(96, 100), (32, 20)])
def test_blur_is_torchvisions_with_every_images_own_sigma(size: tuple[int, int]):
    images, sigmas = random_images(5, *size), torch.tensor([0.1, 0.0, 2.0, 0.7, 1.3])
    found = colour.blur(images, sigmas)
    kernel = [colour.kernel_px(size)] * 2
    for image, seen, sigma in zip(images, found, sigmas.tolist(), strict=True):
        expected = reference.gaussian_blur(image, kernel, [sigma, sigma]) if sigma else image
        torch.testing.assert_close(seen, expected, atol=1e-6, rtol=0)
    assert torch.equal(found[1], images[1])


def test_sigma_of_a_blur_is_read_off_a_point():
    point = torch.zeros(1, 3, 101, 101, dtype=torch.float64)
    point[:, :, 50, 50] = 1
    spread = colour.blur(point, torch.tensor([1.5]))[0, 0]
    distance = torch.arange(101, dtype=torch.float64) - 50
    variance = (spread.sum(0) * distance**2).sum()
    assert spread.sum().item() == pytest.approx(1, abs=1e-6)
    assert variance.item() == pytest.approx(1.5**2, rel=0.03)  # 11 pixels reach to 3.7 σ


def test_solarize_is_torchvisions_with_every_images_own_threshold():
    images, thresholds = random_images(4), torch.tensor([0.0, 0.25, 0.8, 1.0])
    images[:, :, 3] = 0.25  # on the threshold: inverted
    found = colour.solarize(images, thresholds)
    for image, seen, threshold in zip(images[:3], found, thresholds.tolist(), strict=False):
        torch.testing.assert_close(seen, reference.solarize(image, threshold), atol=1e-12, rtol=0)
    assert torch.equal(found[3], images[3])  # where white stays white, although it is not below 1


# all of them


def changes(images: Tensor) -> list[Tensor]:
    """Every change with parameters that change all images."""
    rows = len(images)
    return [
        colour.jitter(images, random_factors(rows).to(images), torch.arange(4).repeat(rows, 1)),
        colour.without_colour(images, torch.ones(rows, dtype=torch.bool)),
        colour.blur(images, torch.ones(rows)),
        colour.solarize(images, torch.full((rows,), 0.5)),
    ]


def nothing(images: Tensor) -> list[Tensor]:
    """Every change with the parameters of images for which none was drawn."""
    rows = len(images)
    return [
        colour.jitter(
            images, torch.tensor([colour.UNCHANGED] * rows), torch.arange(4).repeat(rows, 1)
        ),
        colour.without_colour(images, torch.zeros(rows, dtype=torch.bool)),
        colour.blur(images, torch.zeros(rows)),
        colour.solarize(images, torch.ones(rows)),
    ]


@pytest.mark.parametrize("batch", [1, 4])
def test_no_change_writes_into_its_argument_and_all_stay_in_range(batch: int):
    images = random_images(batch).float()
    before = images.clone()
    for found in changes(images):
        assert found.shape == images.shape
        assert found.dtype == torch.float32
        assert found.min() >= -1e-6
        assert found.max() <= 1 + 1e-6
        assert not torch.equal(found, before)
    assert torch.equal(images, before)


def test_images_for_which_nothing_was_drawn_are_the_same_bits():
    images = random_images()
    for found in nothing(images):
        assert torch.equal(found, images)


def test_training_a_classifier_does_not_pay_for_importing_kornia():
    reached, found = {"training.loop"}, {"training.loop"}
    while found:
        sources = [ROOT.joinpath(*name.split(".")).with_suffix(".py") for name in found]
        named = {name for path in sources if path.exists() for name in imported(path.read_text())}
        found = named - reached
        reached |= found
    assert "training.optim" in reached
    assert not any(name.split(".")[0] == "kornia" for name in reached)
