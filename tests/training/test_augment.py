import pytest
import torch
from torch import Tensor

from training.augment import (
    CropFlip,
    CutOut,
    apply_crop_flip,
    apply_cut_out,
    crop_and_flip,
    cut_out,
)


def random_images(batch: int = 6, height: int = 5, width: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(1, 256, (batch, height, width, 3), generator=generator).to(torch.uint8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def replayed(images: Tensor, drawn: CropFlip, padding: int) -> Tensor:
    """Pad with black, cut the window out, then mirror it: pixel by pixel, from the parameters."""
    batch, height, width, _ = images.shape
    out = torch.zeros_like(images)
    for b in range(batch):
        padded = torch.zeros(height + 2 * padding, width + 2 * padding, 3, dtype=torch.uint8)
        padded[padding : padding + height, padding : padding + width] = images[b]
        top, left = (padding + int(v) for v in drawn.shift[b])
        for y in range(height):
            for x in range(width):
                seen = width - 1 - x if drawn.flipped[b] else x
                out[b, y, x] = padded[top + y, left + seen]
    return out


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("padding", [0, 2, 9])  # 9 pushes whole pictures out
def test_crop_and_flip_matches_the_loop_over_its_own_parameters(padding: int, flip: bool):
    images = random_images()
    found, drawn = crop_and_flip(images, seeded(), padding=padding, flip=flip)
    assert torch.equal(found, replayed(images, drawn, padding))
    assert found.dtype == torch.uint8


def test_applying_the_returned_parameters_gives_the_same_images():
    images = random_images()
    found, drawn = crop_and_flip(images, seeded(), padding=2, flip=True)
    assert torch.equal(apply_crop_flip(images, drawn), found)


def test_shift_moves_the_picture_up_and_left_and_fills_with_black():
    images = random_images(batch=1)
    drawn = CropFlip(shift=torch.tensor([[2, 3]]), flipped=torch.tensor([False]))
    moved = apply_crop_flip(images, drawn)
    assert torch.equal(moved[:, :-2, :-3], images[:, 2:, 3:])
    assert moved[:, -2:].sum() == 0
    assert moved[:, :, -3:].sum() == 0


def test_parameters_stay_in_their_range_and_reach_its_ends():
    _, drawn = crop_and_flip(random_images(batch=500), seeded(), padding=2, flip=True)
    assert drawn.shift.unique().tolist() == [-2, -1, 0, 1, 2]
    assert drawn.shift.shape == (500, 2)
    assert 200 < drawn.flipped.sum() < 300


def test_nothing_is_flipped_where_flip_is_off():
    _, drawn = crop_and_flip(random_images(batch=100), seeded(), padding=2, flip=False)
    assert not drawn.flipped.any()


def test_no_padding_and_no_flip_is_the_identity():
    images = random_images()
    found, drawn = crop_and_flip(images, seeded(), padding=0, flip=False)
    assert torch.equal(found, images)
    assert drawn.shift.abs().sum() == 0


def test_images_are_not_changed_in_place():
    images = random_images()
    before = images.clone()
    crop_and_flip(images, seeded(), padding=3, flip=True)
    assert torch.equal(images, before)


def test_same_seed_gives_the_same_images_and_another_seed_others():
    images = random_images()
    first, _ = crop_and_flip(images, seeded(5), padding=2, flip=True)
    again, _ = crop_and_flip(images, seeded(5), padding=2, flip=True)
    other, _ = crop_and_flip(images, seeded(6), padding=2, flip=True)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_global_generator_is_not_touched():
    before = torch.get_rng_state()
    crop_and_flip(random_images(), seeded(), padding=2, flip=True)
    assert torch.equal(torch.get_rng_state(), before)


def test_crops_do_not_depend_on_whether_flips_are_on():
    _, with_flips = crop_and_flip(random_images(), seeded(), padding=2, flip=True)
    _, without = crop_and_flip(random_images(), seeded(), padding=2, flip=False)
    assert torch.equal(with_flips.shift, without.shift)


def test_one_image_is_a_batch():
    found, _ = crop_and_flip(random_images(batch=1), seeded(), padding=1, flip=True)
    assert found.shape == (1, 5, 7, 3)


# cutout


def hidden(images: Tensor, drawn: CutOut, fill: tuple[int, int, int]) -> Tensor:
    """The square painted pixel by pixel, from the parameters."""
    out = images.clone()
    for b in range(len(images)):
        top, left = (int(v) - drawn.size_px // 2 for v in drawn.centre[b])
        for y in range(images.shape[1]):
            for x in range(images.shape[2]):
                if 0 <= y - top < drawn.size_px and 0 <= x - left < drawn.size_px:
                    out[b, y, x] = torch.tensor(fill, dtype=torch.uint8)
    return out


@pytest.mark.parametrize("size_px", [1, 2, 3, 5, 20])
def test_cut_out_matches_the_loop_over_its_own_parameters(size_px: int):
    images = random_images()
    before = images.clone()
    found, drawn = cut_out(images, seeded(), size_px=size_px, fill=(9.6, 20.2, 30.0))
    assert torch.equal(found, hidden(images, drawn, (10, 20, 30)))
    assert torch.equal(found, apply_cut_out(images, drawn, (9.6, 20.2, 30.0)))
    assert torch.equal(images, before)
    assert found.dtype == torch.uint8


def test_square_in_the_middle_hides_its_area_and_one_at_the_corner_a_quarter():
    images = torch.full((2, 8, 8, 3), 200, dtype=torch.uint8)
    drawn = CutOut(torch.tensor([[4, 4], [0, 0]]), 4)
    found = apply_cut_out(images, drawn, (0.0, 0.0, 0.0))
    assert (found[..., 0] == 0).sum((1, 2)).tolist() == [16, 4]


def test_centres_are_any_pixel():
    _, drawn = cut_out(random_images(batch=900), seeded(), size_px=2, fill=(0.0, 0.0, 0.0))
    assert drawn.centre[:, 0].unique().tolist() == list(range(5))
    assert drawn.centre[:, 1].unique().tolist() == list(range(7))


def test_square_of_no_size_changes_and_draws_nothing():
    images, generator = random_images(), seeded()
    found, _ = cut_out(images, generator, size_px=0, fill=(1.0, 1.0, 1.0))
    assert torch.equal(found, images)
    assert torch.equal(generator.get_state(), seeded().get_state())


def test_same_seed_hides_the_same_squares_and_the_global_generator_is_not_touched():
    before = torch.get_rng_state()
    one, two, other = (
        cut_out(random_images(), seeded(seed), size_px=3, fill=(0.0, 0.0, 0.0))[0]
        for seed in (5, 5, 6)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)
