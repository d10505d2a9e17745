import dataclasses

import pytest
import torch
from torch import Tensor

from training.pretrain_config import ViewsConfig
from training.view_differences import (
    blur_difference,
    color_difference,
    crop_difference,
    differs,
    flip_target,
    rotation_target,
    solarize_difference,
)
from training.views import ViewParams, apply_views, draw_views

EVERYTHING = ViewsConfig(rotation=0.7, solarize=0.5)
PLAIN = ViewParams(
    crop=torch.tensor([[0.5, 0.5, 1.0, 1.0]]),
    flip=torch.tensor([False]),
    quarter_turns=torch.tensor([0]),
    jitter=torch.tensor([[1.0, 1.0, 1.0, 0.0]]),
    order=torch.tensor([[0, 1, 2, 3]]),
    grey=torch.tensor([False]),
    sigma_px=torch.tensor([0.0]),
    threshold=torch.tensor([1.0]),
)


def params(
    crop: tuple[float, ...] = (0.5, 0.5, 1.0, 1.0),
    *,
    flip: bool = False,
    turns: int = 0,
    jitter: tuple[float, ...] = (1.0, 1.0, 1.0, 0.0),
    grey: bool = False,
    sigma: float = 0.0,
    threshold: float = 1.0,
) -> ViewParams:
    return ViewParams(
        crop=torch.tensor([crop]),
        flip=torch.tensor([flip]),
        quarter_turns=torch.tensor([turns]),
        jitter=torch.tensor([jitter]),
        order=torch.tensor([[0, 1, 2, 3]]),
        grey=torch.tensor([grey]),
        sigma_px=torch.tensor([sigma]),
        threshold=torch.tensor([threshold]),
    )


def close(found: Tensor, expected: list[float]) -> None:
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([expected]), atol=1e-6, rtol=0)


def many(count: int = 200) -> tuple[ViewParams, ViewParams]:
    generator = torch.Generator().manual_seed(0)
    first, second = (draw_views(count, (20, 30), EVERYTHING, generator) for _ in range(2))
    return first, second


# crop

CROP = (0.3, 0.2, 0.5, 0.4)


@pytest.mark.parametrize(
    ("flip", "turns", "shown"),
    [
        (False, 0, (0.3, 0.2, 0.5, 0.4)),
        (True, 0, (0.3, 0.8, 0.5, 0.4)),
        # the left part of a picture lies at the bottom after a quarter turn counter-clockwise, its top at the left
        (False, 1, (0.8, 0.3, 0.4, 0.5)),
        (False, 2, (0.7, 0.8, 0.5, 0.4)),
        (False, 3, (0.2, 0.7, 0.4, 0.5)),
        (True, 1, (0.2, 0.3, 0.4, 0.5)),
        (True, 2, (0.7, 0.2, 0.5, 0.4)),
        (True, 3, (0.8, 0.7, 0.4, 0.5)),
    ],
)
def test_crop_is_where_the_view_shows_it(flip: bool, turns: int, shown: tuple[float, ...]):
    view, other = params(CROP, flip=flip, turns=turns), params((0.6, 0.6, 0.1, 0.2))
    expected = [a - b for a, b in zip(shown, (0.6, 0.6, 0.1, 0.2), strict=True)]
    close(crop_difference(view, other), expected)
    close(crop_difference(other, view), [-value for value in expected])


def test_crop_as_shown_is_the_same_pixels_of_the_mirrored_and_turned_picture():
    source = torch.randint(256, (1, 40, 28, 3), generator=torch.Generator().manual_seed(1)).to(
        torch.uint8
    )
    whole = params()
    crop = (12 / 40, 9 / 28, 20 / 40, 10 / 28)
    for flip in (False, True):
        for turns in range(4):
            view = params(crop, flip=flip, turns=turns)
            shown = crop_difference(view, whole) + whole.crop
            picture = (source.flip(2) if flip else source).rot90(turns, (1, 2))
            torch.testing.assert_close(
                apply_views(source, view, size=(16, 16)),
                apply_views(picture, dataclasses.replace(PLAIN, crop=shown), size=(16, 16)),
                atol=1e-5,
                rtol=0,
            )


def test_crop_difference_is_read_off_the_pixels_of_a_picture_of_its_coordinates():
    row, column = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    picture = torch.stack([4 * row, 4 * column, 0 * row], dim=2).to(torch.uint8)[None]
    views = params((0.5, 0.5, 0.5, 0.75)), params((0.375, 0.5625, 0.25, 0.5), flip=True)
    centres, extents = [], []
    for view, mirrored in zip(views, (False, True), strict=True):
        seen = (apply_views(picture, view, size=(32, 32))[0] * 255 / 4 + 0.5) / 64  # fractions
        y, x = seen[0].mean(), seen[1].mean()
        centres.append((y, 1 - x if mirrored else x))
        steps = (seen[0, 20, 16] - seen[0, 12, 16]) / 8, (seen[1, 16, 20] - seen[1, 16, 12]) / 8
        extents.append([step.abs() * 32 for step in steps])
    expected = [
        float(a - b)
        for a, b in zip((*centres[0], *extents[0]), (*centres[1], *extents[1]), strict=True)
    ]
    torch.testing.assert_close(crop_difference(*views), torch.tensor([expected]), atol=1e-4, rtol=0)


# flip, rotation, blur, solarize


def test_flip_target_is_one_where_both_are_mirrored_or_neither():
    flips = torch.tensor([[False, False], [False, True], [True, False], [True, True]])
    first, second = (dataclasses.replace(many(4)[0], flip=flips[:, side]) for side in range(2))
    assert flip_target(first, second).tolist() == [1.0, 0.0, 0.0, 1.0]
    assert flip_target(first, second).dtype == torch.float32


@pytest.mark.parametrize(
    ("first", "second", "target"), [(0, 0, 0), (3, 1, 2), (1, 3, 2), (0, 1, 3), (1, 0, 1)]
)
def test_rotation_target_turns_the_second_view_into_the_first(first: int, second: int, target: int):
    picture = torch.randint(256, (1, 9, 9, 3), generator=torch.Generator().manual_seed(1)).to(
        torch.uint8
    )
    views = params(turns=first), params(turns=second)
    assert rotation_target(*views).tolist() == [target]
    one, two = (apply_views(picture, view, size=(9, 9)) for view in views)
    torch.testing.assert_close(two.rot90(target, (2, 3)), one, atol=1e-6, rtol=0)


def test_blur_difference_is_a_share_of_the_greatest_sigma():
    views = ViewsConfig(blur_sigma=(0.1, 4.0))
    close(blur_difference(params(sigma=3.0), params(sigma=1.0), views=views), [0.5])
    close(blur_difference(params(), params(sigma=4.0), views=views), [-1.0])


def test_solarize_difference_is_of_the_thresholds():
    close(solarize_difference(params(threshold=0.25), params()), [-0.75])
    close(solarize_difference(params(threshold=0.5), params(threshold=0.25)), [0.25])


# colour


def test_colours_are_placed_in_their_ranges():
    views = ViewsConfig(brightness=0.4, contrast=0.8, saturation=0.5, hue=0.1)
    first = params(jitter=(1.4, 0.2, 1.25, -0.1))  # the places 1, 0, 0.75, 0
    close(color_difference(first, params(), views=views), [0.5, -0.5, 0.25, -0.5])
    second = params(jitter=(0.6, 1.8, 1.0, 0.05))  # 0, 1, 0.5, 0.75
    close(color_difference(first, second, views=views), [1.0, -1.0, 0.25, -0.75])


def test_identity_of_a_range_cut_off_at_zero_lies_where_it_lies():
    views = ViewsConfig(brightness=3.0)  # factors in [0, 4]
    close(
        color_difference(params(), params(jitter=(4.0, 1.0, 1.0, 0.0)), views=views),
        [0.25 - 1, 0, 0, 0],
    )


def test_saturation_and_hue_of_a_grey_view_count_as_unchanged():
    jitter = (1.2, 0.8, 1.4, 0.1)
    grey, other = params(jitter=jitter, grey=True), params(jitter=(1.0, 1.0, 0.8, 0.05))
    views = ViewsConfig()
    close(color_difference(grey, other, views=views), [0.25, -0.25, 0.25, -0.25])
    close(color_difference(grey, params(grey=True), views=views), [0.25, -0.25, 0.0, 0.0])


def test_colour_that_cannot_change_makes_no_difference():
    views = ViewsConfig(brightness=0.0, hue=0.0)
    found = color_difference(params(jitter=(1.0, 1.2, 1.0, 0.0)), params(), views=views)
    close(found, [0.0, 0.25, 0.0, 0.0])


def test_brightness_difference_is_read_off_the_pixels():
    picture = torch.full((1, 8, 8, 3), 100, dtype=torch.uint8)
    views = params(jitter=(1.3, 1.0, 1.0, 0.0)), params(jitter=(0.7, 1.0, 1.0, 0.0))
    means = [apply_views(picture, view, size=(8, 8)).mean().item() * 255 / 100 for view in views]
    close(color_difference(*views, views=ViewsConfig()), [(means[0] - means[1]) / 0.8, 0, 0, 0])


# all of them


def differences(first: ViewParams, second: ViewParams) -> list[Tensor]:
    return [
        crop_difference(first, second),
        color_difference(first, second, views=EVERYTHING),
        blur_difference(first, second, views=EVERYTHING),
        solarize_difference(first, second),
    ]


def test_exchanging_the_views_negates_every_difference():
    first, second = many()
    for one, other in zip(differences(first, second), differences(second, first), strict=True):
        assert torch.equal(one, -other)
        assert (one != 0).any(0).all()
    assert torch.equal(flip_target(first, second), flip_target(second, first))
    turned = rotation_target(first, second) + rotation_target(second, first)
    assert (turned % 4 == 0).all()


def test_differences_lie_between_minus_one_and_one_a_row_an_image():
    first, second = many()
    for found, values in zip(differences(first, second), (4, 4, 1, 1), strict=True):
        assert found.shape == (200, values)
        assert found.dtype == torch.float32
        assert found.abs().max() <= 1 + 1e-6
    assert rotation_target(first, second).unique().tolist() == [0, 1, 2, 3]
    assert rotation_target(first, second).dtype == torch.int64


def test_a_view_does_not_differ_from_itself():
    first, _ = many()
    for found in differences(first, first):
        assert not found.any()
    assert flip_target(first, first).all()
    assert not rotation_target(first, first).any()


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (torch.zeros(5, 4), False),
        (torch.ones(5), False),
        (torch.tensor([[0.5, 0.0]]), False),
        (torch.tensor([[0.5, 0.0], [0.5, 0.0], [0.5, 1e-6]]), True),
        (torch.tensor([0, 0, 3]), True),
    ],
)
def test_targets_differ_if_one_of_them_is_another(target: Tensor, expected: bool):
    assert differs(target) is expected
