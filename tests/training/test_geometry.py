import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as reference

from training.geometry import crop_and_turn

WHOLE = (0.5, 0.5, 1.0, 1.0)


def random_images(batch: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(256, (batch, height, width, 3), generator=generator).to(torch.uint8)


def fractions(box: tuple[int, int, int, int], source: tuple[int, int]) -> tuple[float, ...]:
    """Top, left, height, width in pixels as centre and size in fractions."""
    top, left, height, width = box
    return (
        (top + height / 2) / source[0],
        (left + width / 2) / source[1],
        height / source[0],
        width / source[1],
    )


def viewed(
    images: Tensor,
    crop: tuple[float, ...] = WHOLE,
    *,
    size: tuple[int, int],
    flip: bool = False,
    turns: int = 0,
) -> Tensor:
    count = len(images)
    return crop_and_turn(
        images,
        torch.tensor([crop]).repeat(count, 1),
        torch.full((count,), flip),
        torch.full((count,), turns),
        size=size,
    )


def looped(image: Tensor, box: tuple[int, int, int, int], size: tuple[int, int]) -> Tensor:
    """Crop and resize through a triangle, pixel by pixel in float64. image: (H, W, 3). Returns (3, h, w)."""
    top, left, height, width = box
    out = torch.zeros(3, *size, dtype=torch.float64)
    for i in range(size[0]):
        for j in range(size[1]):
            total = 0.0
            for s in range(height):
                for t in range(width):
                    weight = 1.0
                    for pixel, place, extent, side in (
                        (s, i, height, size[0]),
                        (t, j, width, size[1]),
                    ):
                        scale = extent / side
                        distance = abs(pixel + 0.5 - (place + 0.5) * scale)
                        weight *= max(0.0, 1 - distance / max(scale, 1.0))
                    out[:, i, j] += weight * image[top + s, left + t].double() / 255
                    total += weight
            out[:, i, j] /= total
    return out


@pytest.mark.parametrize("box", [(0, 0, 6, 9), (1, 2, 4, 5), (5, 8, 1, 1), (2, 0, 3, 9)])
@pytest.mark.parametrize("size", [(4, 4), (3, 8), (9, 7)])
def test_crop_matches_the_loop_over_pixels(box: tuple[int, int, int, int], size: tuple[int, int]):
    images = random_images(2, 6, 9)
    found = viewed(images, fractions(box, (6, 9)), size=size)
    expected = torch.stack([looped(image, box, size) for image in images])
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (70, 51)])
def test_each_image_is_cropped_as_torchvision_crops_it(size: tuple[int, int]):
    source = (41, 53)  # neither square nor the view's size: some crops are enlarged, some shrunk
    images = random_images(12, *source)
    generator = torch.Generator().manual_seed(0)
    boxes = []
    for _ in range(12):
        height, width = (
            int(torch.randint(1, side + 1, (), generator=generator)) for side in source
        )
        top = int(torch.randint(source[0] - height + 1, (), generator=generator))
        left = int(torch.randint(source[1] - width + 1, (), generator=generator))
        boxes.append((top, left, height, width))
    found = crop_and_turn(
        images,
        torch.tensor([fractions(box, source) for box in boxes]),
        torch.zeros(12, dtype=torch.bool),
        torch.zeros(12, dtype=torch.int64),
        size=size,
    )
    pixels = images.permute(0, 3, 1, 2) / 255
    expected = [
        reference.resized_crop(image, *box, list(size), antialias=True)
        for image, box in zip(pixels, boxes, strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(expected), atol=3e-5, rtol=0)


def test_whole_picture_at_its_own_size_is_the_picture():
    images = random_images(3, 8, 11)
    found = viewed(images, size=(8, 11))
    torch.testing.assert_close(found, images.permute(0, 3, 1, 2) / 255, atol=1e-6, rtol=0)
    assert found.dtype == torch.float32


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("flip", [False, True])
def test_view_is_mirrored_first_and_then_turned(flip: bool, turns: int):
    images = random_images(2, 12, 9)
    crop = fractions((2, 1, 5, 7), (12, 9))
    plain = viewed(images, crop, size=(6, 6))
    expected = (plain.flip(3) if flip else plain).rot90(turns, (2, 3))
    found = viewed(images, crop, size=(6, 6), flip=flip, turns=turns)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_mirroring_needs_no_square_view():
    images = random_images(2, 12, 9)
    crop = fractions((2, 1, 5, 7), (12, 9))
    expected = viewed(images, crop, size=(5, 8)).flip(3)
    torch.testing.assert_close(
        viewed(images, crop, size=(5, 8), flip=True), expected, atol=1e-6, rtol=0
    )


def test_every_image_gets_its_own_parameters():
    images = random_images(1, 10, 10).repeat(8, 1, 1, 1)
    flip = torch.tensor([False, True] * 4)
    turns = torch.arange(4).repeat_interleave(2)
    found = crop_and_turn(images, torch.tensor([WHOLE]).repeat(8, 1), flip, turns, size=(10, 10))
    for row in range(8):
        alone = viewed(images[:1], size=(10, 10), flip=bool(flip[row]), turns=int(turns[row]))
        assert torch.equal(found[row], alone[0])


def test_nothing_outside_the_crop_is_seen():
    images = random_images(1, 16, 16)
    changed = images.clone()
    changed[:, :4] = 255 - changed[:, :4]
    changed[:, :, 11:] = 255 - changed[:, :, 11:]
    crop = fractions((4, 3, 9, 8), (16, 16))
    for size in ((20, 20), (3, 3)):
        assert torch.equal(viewed(images, crop, size=size), viewed(changed, crop, size=size))


def test_one_colour_stays_one_colour_however_far_it_is_shrunk():
    images = torch.full((1, 50, 37, 3), 200, dtype=torch.uint8)
    for size in ((1, 1), (8, 5), (90, 64)):
        found = viewed(images, (0.4, 0.6, 0.5, 0.5), size=size)
        torch.testing.assert_close(found, torch.full((1, 3, *size), 200 / 255), atol=1e-6, rtol=0)


def test_fine_stripes_that_are_shrunk_become_grey_and_not_other_stripes():
    images = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    images[:, :, ::2] = 255
    found = viewed(images, size=(16, 16))
    assert (found[..., 1:-1] - 0.5).abs().max() < 0.01


@pytest.mark.parametrize(("flip", "sign"), [(False, 1), (True, -1)])
def test_crop_is_read_off_the_pixels_of_a_picture_of_its_coordinates(flip: bool, sign: int):
    row, column = torch.meshgrid(torch.arange(60), torch.arange(60), indexing="ij")
    picture = torch.stack([4 * row, 4 * column, 0 * row], dim=2).to(torch.uint8)[None]
    box = (11, 5, 30, 40)
    seen = viewed(picture, fractions(box, (60, 60)), size=(48, 48), flip=flip)[0] * 255 / 4
    # the mean pixel is the centre; the step between pixels, far from the border, is size / 48
    centre = seen.mean((1, 2)) + 0.5
    height = (seen[0, 30, 24] - seen[0, 20, 24]) / 10 * 48
    width = sign * (seen[1, 24, 30] - seen[1, 24, 20]) / 10 * 48
    assert centre[0].item() == pytest.approx(11 + 15, abs=1e-3)
    assert centre[1].item() == pytest.approx(5 + 20, abs=1e-3)
    assert height.item() == pytest.approx(30, abs=1e-2)
    assert width.item() == pytest.approx(40, abs=1e-2)


def test_images_are_not_changed():
    images = random_images(2, 7, 7)
    before = images.clone()
    viewed(images, size=(5, 5), flip=True, turns=1)
    assert torch.equal(images, before)
