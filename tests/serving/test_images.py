import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving import images
from serving.images import ImageError, ImageSpec, decode
from tests.pictures import COLOURS, GREEN, RED, STORED_AS, declared_png, encoded, endless, plain

SPEC = ImageSpec(32, 32)
CORNERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], dtype=np.uint8)


def corners(size: int = 32) -> Image.Image:
    """Red and green over blue and white: every turn and mirror image of it is another picture."""
    return Image.fromarray(CORNERS).resize((size, size), Image.Resampling.NEAREST)


def grey(values: list[list[int]], dtype: type) -> Image.Image:
    return Image.fromarray(np.array(values, dtype=dtype))


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_picture_of_the_right_size_is_not_touched(file_format: str):
    pixels = decode(encoded(corners(), file_format), SPEC)
    np.testing.assert_array_equal(pixels, np.asarray(corners()))


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP", "JPEG2000", "AVIF"])
def test_lossy_formats_are_read(file_format: str):
    pixels = decode(plain(RED, file_format), SPEC)
    assert np.abs(pixels.astype(int) - RED).max() <= 8


def test_pixels_are_contiguous_bytes_in_three_channels():
    pixels = decode(plain(GREEN, size=77), ImageSpec(20, 30))
    assert pixels.shape == (20, 30, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("orientation", STORED_AS)
def test_exif_orientation_is_undone(orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED_AS[orientation](np.asarray(corners())))
    data = encoded(Image.fromarray(stored), "PNG", exif=exif)
    np.testing.assert_array_equal(decode(data, SPEC), np.asarray(corners()))


def test_exif_turn_is_applied_before_the_size_is_looked_at():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.new("RGB", (20, 10), RED), "PNG", exif=exif)
    assert images.header(data).size == (20, 10)  # as stored
    assert images.load(images.header(data)).size == (10, 20)


@pytest.mark.filterwarnings(
    "ignore:Corrupt EXIF data"
)  # Pillow says it, the picture is read all the same
@pytest.mark.parametrize(
    "exif", [b"Exif\x00\x00nonsense", b"Exif\x00\x00MM\x00*\xff\xff\xff\xff", b"?"]
)
def test_broken_exif_leaves_the_picture_as_it_is(exif: bytes):
    data = encoded(corners(), "JPEG", exif=exif, quality=95)
    pixels = decode(data, SPEC)
    assert np.abs(pixels[4, 4].astype(int) - (255, 0, 0)).max() < 40


def test_unknown_orientation_counts_as_upright():
    exif = Image.Exif()
    exif[0x0112] = 9
    pixels = decode(encoded(corners(), "PNG", exif=exif), SPEC)
    np.testing.assert_array_equal(pixels, np.asarray(corners()))


def test_grey_is_repeated_over_the_channels():
    pixels = decode(encoded(Image.new("L", (32, 32), 77)), SPEC)
    assert (pixels == 77).all()


def test_black_and_white_become_the_extremes():
    pixels = decode(encoded(corners().convert("1")), SPEC)
    assert set(np.unique(pixels)) == {0, 255}


def test_palette_is_looked_up():
    pixels = decode(encoded(corners().quantize(4)), SPEC)
    np.testing.assert_array_equal(pixels, np.asarray(corners()))


def test_palette_with_transparency_is_laid_over_white():
    picture = Image.new("P", (32, 32), 1)
    picture.putpalette([0, 0, 0, 200, 0, 0])
    assert (decode(encoded(picture, transparency=1), SPEC) == 255).all()
    assert (decode(encoded(picture, transparency=0), SPEC) == (200, 0, 0)).all()


def test_palette_with_half_transparent_colours_is_laid_over_white():
    picture = Image.new("P", (32, 32), 1)
    picture.putpalette([0, 0, 0, 0, 0, 0])
    pixels = decode(encoded(picture, transparency=bytes([255, 128])), SPEC)
    assert (np.abs(pixels.astype(int) - 127) <= 1).all()


@pytest.mark.parametrize(("alpha", "expected"), [(0, 255), (255, 0), (128, 127)])
def test_alpha_is_laid_over_white(alpha: int, expected: int):
    for picture in (
        Image.new("RGBA", (32, 32), (0, 0, 0, alpha)),
        Image.new("LA", (32, 32), (0, alpha)),
    ):
        pixels = decode(encoded(picture), SPEC)
        assert (np.abs(pixels.astype(int) - expected) <= 1).all()


def test_transparent_colour_of_an_rgb_png_becomes_white():
    data = encoded(Image.new("RGB", (32, 32), (1, 2, 3)), transparency=(1, 2, 3))
    assert (decode(data, SPEC) == 255).all()


def test_cmyk_becomes_rgb():
    for colour in COLOURS.values():
        data = encoded(Image.new("RGB", (32, 32), colour).convert("CMYK"), "JPEG", quality=100)
        assert decode(data, SPEC)[0, 0].argmax() == np.argmax(colour)


def test_sixteen_bit_grey_keeps_its_high_byte():
    data = encoded(grey([[0x0000, 0x12FF], [0x8000, 0xFFFF]], np.uint16))
    pixels = decode(data, ImageSpec(2, 2))
    np.testing.assert_array_equal(pixels[..., 0], [[0x00, 0x12], [0x80, 0xFF]])


def test_transparent_value_of_a_sixteen_bit_grey_png_becomes_white():
    data = encoded(grey([[0x0000, 0x12FF], [0x8000, 0x0001]], np.uint16), transparency=0x12FF)
    pixels = decode(data, ImageSpec(2, 2))
    np.testing.assert_array_equal(pixels[..., 0], [[0x00, 0xFF], [0x80, 0x00]])


def test_palette_that_is_missing_is_damage():
    data = encoded(corners().quantize(4))
    start = data.index(b"PLTE") - 4
    size = 12 + int.from_bytes(data[start : start + 4], "big")
    with pytest.raises(ImageError) as caught:
        decode(data[:start] + data[start + size :], SPEC)
    assert caught.value.code == "damaged_image"


def test_integers_beyond_sixteen_bits_are_refused():
    data = encoded(grey([[0, 70_000], [0, 0]], np.int32), "TIFF")
    with pytest.raises(ImageError, match="beyond 16 bits") as caught:
        decode(data, SPEC)
    assert caught.value.code == "unsupported_pixels"


def test_floating_point_pixels_are_refused():
    data = encoded(grey([[0, 1], [2, 3]], np.float32), "TIFF")
    with pytest.raises(ImageError, match="no agreed RGB") as caught:
        decode(data, SPEC)
    assert caught.value.code == "unsupported_pixels"


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_an_animation_counts(file_format: str):
    frames = [Image.new("RGB", (32, 32), colour) for colour in COLOURS.values()]
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    assert np.abs(decode(data, SPEC).astype(int) - RED).max() <= 2


@pytest.mark.parametrize("resize", ["crop", "stretch"])
@pytest.mark.parametrize("size", [(1, 1), (10_000, 1), (1, 10_000), (3, 2), (31, 33), (500, 400)])
def test_any_size_becomes_the_models(size: tuple[int, int], resize: images.ResizeRule):
    data = encoded(Image.new("RGB", size, RED))
    pixels = decode(data, ImageSpec(32, 32, resize=resize))
    assert pixels.shape == (32, 32, 3)
    assert (pixels == RED).all()


def test_crop_keeps_the_centre_and_stretch_keeps_everything():
    wide = np.zeros((32, 96, 3), dtype=np.uint8)
    wide[:, 32:64] = 255  # black, white, black
    data = encoded(Image.fromarray(wide))
    assert (decode(data, ImageSpec(32, 32, resize="crop")) == 255).all()
    stretched = decode(data, ImageSpec(32, 32, resize="stretch", interpolation="nearest"))
    assert stretched[0, 0, 0] == 0
    assert stretched[0, 16, 0] == 255


def test_interpolation_is_the_one_asked_for():
    data = encoded(corners(2))
    hard = decode(data, ImageSpec(8, 8, interpolation="nearest"))
    soft = decode(data, ImageSpec(8, 8, interpolation="bilinear"))
    assert len(np.unique(hard.reshape(-1, 3), axis=0)) == 4
    assert len(np.unique(soft.reshape(-1, 3), axis=0)) > 4


@pytest.mark.parametrize(
    "data", [b"", b"x", b"<svg/>", b"%PDF-1.7", b"\x00" * 1000, b"%!PS-Adobe-3.0 EPSF"]
)
def test_what_is_no_image_is_said_to_be_none(data: bytes):
    with pytest.raises(ImageError) as caught:
        decode(data, SPEC)
    assert caught.value.code == "not_an_image"


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_truncated_file_is_damaged(file_format: str, kept: float):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), file_format)
    with pytest.raises(ImageError) as caught:
        decode(data[: int(kept * len(data))], SPEC)
    assert caught.value.code in ("damaged_image", "not_an_image")


@pytest.mark.parametrize("seed", range(20))
def test_flipped_bytes_give_a_picture_or_an_image_error(seed: int):
    generator = np.random.default_rng(seed)
    data = bytearray(encoded(corners(64), ["JPEG", "PNG", "WEBP", "GIF"][seed % 4]))
    for place in generator.integers(0, len(data), 10):
        data[place] ^= int(generator.integers(1, 256))
    with contextlib.suppress(ImageError):
        assert decode(bytes(data), SPEC).shape == (32, 32, 3)


def test_decompression_bomb_is_refused_by_its_header():
    for width, height in ((50_000, 50_000), (10_000, 5_001), (12_000, 8_000)):
        with pytest.raises(ImageError, match="more than the limit of 50 megapixels") as caught:
            decode(declared_png(width, height), SPEC)
        assert caught.value.code == "too_many_pixels"


def test_limit_of_pixels_is_inclusive():
    data = plain(RED, size=10)
    assert decode(data, SPEC, max_pixels=100).shape == (32, 32, 3)
    with pytest.raises(ImageError, match="10 x 10 pixels"):
        decode(data, SPEC, max_pixels=99)


def test_array_and_file_give_the_same_pixels():
    array = np.asarray(corners(50))
    again = decode(images.encode_png(images.from_array(array)), SPEC)
    np.testing.assert_array_equal(images.fit(images.from_array(array), SPEC), again)
    column = array[..., :1]
    np.testing.assert_array_equal(
        images.fit(images.from_array(column), SPEC),
        images.fit(images.from_array(column[..., 0]), SPEC),
    )


@pytest.mark.parametrize(
    "fields", [{"height": 0}, {"width": -1}, {"resize": "squeeze"}, {"interpolation": "box"}]
)
def test_image_spec_refuses_what_it_does_not_know(fields: dict[str, object]):
    with pytest.raises(ValueError, match=r"at least 1|choose from"):
        ImageSpec(**({"height": 8, "width": 8} | fields))


@pytest.mark.parametrize("kind", ["JPEG padding", "JPEG comments", "PPM comment", "PNG chunks"])
def test_header_without_end_is_not_read_to_its_end(kind: str, monkeypatch: pytest.MonkeyPatch):
    data = endless(kind, 1_000_000)
    reads = 0
    read = images._Pieces.read

    def counted(self: images._Pieces, size: int | None = -1, /) -> bytes:
        nonlocal reads
        reads += 1
        return read(self, size)

    monkeypatch.setattr(images._Pieces, "read", counted)
    with pytest.raises(ImageError, match="more parts than any image has") as caught:
        decode(data, SPEC)
    assert caught.value.code == "damaged_image"
    assert reads <= images.PIECES + 1_000_000 // images.BYTES_A_PIECE + 1


def test_chunks_without_end_behind_the_pixels_are_damage():
    whole = plain(RED)
    end = whole[-12:]  # IEND
    chunk = endless("PNG chunks", 24)[-12:]
    with pytest.raises(ImageError) as caught:
        decode(whole[:-12] + 100_000 * chunk + end, SPEC)
    assert caught.value.code == "damaged_image"
    assert decode(whole[:-12] + 100 * chunk + end, SPEC).shape == (32, 32, 3)


def test_picture_of_many_small_parts_is_read():
    from PIL import PngImagePlugin

    info = PngImagePlugin.PngInfo()
    for place in range(1000):
        info.add_text(f"key{place}", "value")
    assert decode(encoded(corners(), "PNG", pnginfo=info), SPEC).shape == (32, 32, 3)


def test_folder_that_cannot_be_looked_into_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "locked").mkdir()
    scan = os.scandir

    def refuse(path: str) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="locked"):
        images.images_below(tmp_path)


def test_link_to_nothing_counts_and_other_things_do_not(tmp_path: Path):
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a.png").write_bytes(plain(RED))
    assert images.images_below(tmp_path) == [tmp_path / "gone.png"]
