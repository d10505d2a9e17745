"""JPEGs that are decoded at reduced scale: what size, and that they show what the whole picture shows."""

import numpy as np
import pytest
from PIL import Image

from serving import images
from serving.images import ImageError, ImageSpec, Pixels, ResizeRule, decode, fit, header, load
from tests.pictures import RED, STORED_AS, encoded, scene

SPEC = ImageSpec(32, 32)


def jpeg(picture: Image.Image, **options: object) -> bytes:
    return encoded(picture, "JPEG", quality=95, **options)


def scale(data: bytes, spec: ImageSpec) -> float:
    """How many times wider a picture is stored than it is decoded, once it lies as it is stored."""
    return round(header(data).width / load(header(data), spec).width)


def whole(data: bytes, spec: ImageSpec) -> Pixels:
    return fit(load(header(data)), spec)


def difference(data: bytes, spec: ImageSpec) -> float:
    """Between reduced and whole decoding, the mean of all pixels' absolute difference."""
    return float(np.abs(decode(data, spec).astype(int) - whole(data, spec)).mean())


@pytest.mark.parametrize("resize", ["crop", "stretch"])
@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((32, 32), 1),
        ((127, 500), 1),  # the shorter side counts, and 2 x 32 must be left of it
        ((128, 500), 2),
        ((255, 256), 2),
        ((256, 256), 4),
        ((511, 600), 4),
        ((512, 600), 8),
        ((2000, 1500), 8),  # libjpeg's smallest
    ],
)
def test_scale_is_the_smallest_that_leaves_twice_the_models_size(
    size: tuple[int, int], expected: int, resize: ResizeRule
):
    data = jpeg(Image.new("RGB", size, RED))
    assert scale(data, ImageSpec(32, 32, resize=resize)) == expected
    assert decode(data, ImageSpec(32, 32, resize=resize)).shape == (32, 32, 3)


def test_scale_follows_the_models_own_sides():
    data = jpeg(Image.new("RGB", (1200, 400)))
    assert scale(data, ImageSpec(25, 200)) == 2  # 1200 / (2 x 200) is 3, 400 / (2 x 25) is 8
    assert scale(data, ImageSpec(25, 75)) == 8
    assert scale(data, ImageSpec(100, 25)) == 2


@pytest.mark.parametrize("resize", ["crop", "stretch"])
@pytest.mark.parametrize("size", [(1000, 700), (701, 1003), (515, 2049), (3000, 130)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_reduced_and_whole_pictures_look_the_same(
    size: tuple[int, int], resize: ResizeRule, interpolation: images.Interpolation
):
    spec = ImageSpec(32, 32, resize, interpolation)
    data = jpeg(scene(*size))
    assert scale(data, spec) > 1
    assert difference(data, spec) < 1.5


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"optimize": True}])
def test_every_kind_of_jpeg_is_reduced(options: dict[str, object]):
    data = jpeg(scene(600, 600), **options)
    assert scale(data, SPEC) == 8
    assert difference(data, SPEC) < 1.5


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_are_reduced_in_their_own_mode(mode: str):
    data = jpeg(scene(600, 600).convert(mode))
    picture = load(header(data), SPEC)
    assert (picture.mode, picture.size) == (mode, (75, 75))
    assert difference(data, SPEC) < 1.5


def test_first_picture_of_an_mpo_is_reduced():
    data = encoded(
        scene(600, 600), "MPO", save_all=True, append_images=[Image.new("RGB", (600, 600))]
    )
    assert header(data).format == "MPO"
    assert scale(data, SPEC) == 8
    assert difference(data, SPEC) < 2


@pytest.mark.parametrize("orientation", STORED_AS)
def test_orientation_is_undone_after_reducing(orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = scene(900, 600)
    stored = np.ascontiguousarray(STORED_AS[orientation](np.asarray(upright)))
    data = jpeg(Image.fromarray(stored), exif=exif)
    spec = ImageSpec(32, 48)
    assert load(header(data), spec).size == (900 // 8 + 1, 75)
    expected = fit(upright, spec).astype(int)
    assert np.abs(decode(data, spec) - expected).mean() < 1.5


def test_sides_are_exchanged_where_the_picture_lies_on_its_side():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = jpeg(Image.new("RGB", (400, 1600)), exif=exif)  # 1600 x 400 when upright
    assert load(header(data), ImageSpec(25, 200)).size == (400, 100)  # 1600 / (2 x 200) is 4
    assert load(header(data), ImageSpec(200, 25)).size == (1600, 400)  # 400 / (2 x 200) is 1


def test_single_pixels_are_picked_from_the_whole_picture():
    spec = ImageSpec(32, 32, interpolation="nearest")
    data = jpeg(scene(600, 600))
    np.testing.assert_array_equal(decode(data, spec), whole(data, spec))


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF", "JPEG2000"])
def test_other_formats_are_decoded_whole(file_format: str):
    data = encoded(scene(600, 400), file_format)
    assert load(header(data), SPEC).size == (600, 400)


def test_limit_counts_the_pixels_of_the_whole_picture():
    data = jpeg(Image.new("RGB", (1000, 1000), RED))
    assert decode(data, SPEC, max_pixels=1_000_000).shape == (32, 32, 3)
    with pytest.raises(ImageError, match="1000 x 1000 pixels: more than") as caught:
        decode(data, SPEC, max_pixels=999_999)
    assert caught.value.code == "too_many_pixels"


def test_header_is_read_without_decoding():
    data = jpeg(scene(600, 400))
    picture = header(data[: len(data) // 3])  # the rest is missing, and not missed yet
    assert (picture.format, picture.size) == ("JPEG", (600, 400))
    with pytest.raises(ImageError, match="truncated or damaged") as caught:
        load(picture, SPEC)
    assert caught.value.code == "damaged_image"


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_truncated_picture_is_damaged_also_where_it_is_reduced(kept: float):
    data = jpeg(scene(600, 600))
    with pytest.raises(ImageError, match="truncated or damaged"):
        decode(data[: int(kept * len(data))], SPEC)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"Exif\x00\x00MM\x00*\xff\xff\xff\xff", b"?"])
def test_broken_exif_does_not_stop_reducing(exif: bytes):
    data = jpeg(scene(600, 600), exif=exif)
    assert scale(data, SPEC) == 8
    assert difference(data, SPEC) < 1.5


@pytest.mark.parametrize("size", [(20_000, 3), (3, 20_000), (9000, 64)])
def test_very_long_pictures_keep_what_little_there_is_of_them(size: tuple[int, int]):
    data = jpeg(scene(*size))
    assert scale(data, SPEC) == 1
    np.testing.assert_array_equal(decode(data, SPEC), whole(data, SPEC))
