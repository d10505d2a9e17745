"""Bytes or pixels to uint8 (height, width, 3) RGB: the one decode-and-resize path there is.

Training reads a folder through this file and serving answers through it, so a picture can never be
seen one way when it is learnt and another way when it is asked about. Pillow and NumPy, nothing
else.

How anything becomes RGB (docs/images.md says it for users):
  EXIF orientation is applied; grey is repeated over the three channels; palettes are looked up;
  alpha is composited over white; CMYK, YCbCr and HSV are converted by Pillow without a colour
  profile; 16-bit grey keeps its high byte, as Pillow does for 16-bit colour; of an animation the
  first frame counts.
"""

import io
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

Pixels = NDArray[np.uint8]
ResizeRule = Literal["crop", "stretch"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

MAX_PIXELS = 50_000_000  # a 50-megapixel picture is 150 MB of RGB; beyond it a small file can fill the memory

# What browsers, cameras and scanners write. Pillow knows more formats, some of which start other programs (EPS).
# MPO, which some cameras write, is opened as the JPEG that it begins with.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
# What their files are called, by which the images of a folder are known.
EXTENSIONS = frozenset({
    ".jpg", ".jpe", ".jfif", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif",
})  # fmt: skip

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {  # EXIF 2.32, tag 274: what to do so that the picture stands upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = (5, 6, 7, 8)  # those that are stored with width and height exchanged

# Pieces of a file that Pillow may ask for: so many, and one more for so many bytes. Its parsers take markers, chunks
# and comments apart piece by piece in Python, holding all threads up: seconds, where 20 MB are nothing but these. A PNG
# of chunks of 1 KiB, far below the 8 KiB that libpng writes, needs one for 256 bytes.
PIECES, BYTES_A_PIECE = 10_000, 256

# How much larger than the model's input a JPEG decoded at reduced scale is at least, in both directions. At 2 the
# resize that follows still averages over its whole kernel; at 1 the pixels differ twice as much (docs/images.md).
REDUCED_AT_LEAST = 2


class _TooManyPieces(Exception):
    """Pillow's parsers take a file apart without end."""


class _Pieces(io.BytesIO):
    """The bytes of a file, given out in a bounded number of pieces."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._left = PIECES + len(data) // BYTES_A_PIECE

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise _TooManyPieces
        return super().read(size)


class ImageError(Exception):
    """A picture that cannot be used.

    code: "not_an_image", "damaged_image", "too_many_pixels" or "unsupported_pixels".
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class ImageSpec:
    """The picture a model takes: its size in pixels and how another size becomes it.

    resize: "crop" scales until the shorter side fits and cuts the centre out; "stretch" ignores the
    aspect ratio.

    Raises:
        ValueError: a size below 1, or a rule or an interpolation that is not known.
    """

    height: int
    width: int
    resize: ResizeRule = "crop"
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(
                f"an image of {self.height} x {self.width} pixels; both must be at least 1"
            )
        for value, known in ((self.resize, ResizeRule), (self.interpolation, Interpolation)):
            if value not in get_args(known):
                raise ValueError(
                    f"unknown image setting {value!r}; choose from {list(get_args(known))}"
                )


def decode(data: bytes, spec: ImageSpec, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """The picture in an encoded file, as the model takes it: (spec.height, spec.width, 3) uint8 RGB.

    The bytes decide what format it is, never a file name or a declared content type.

    Raises:
        ImageError: not a picture, a damaged one, more than max_pixels, or pixels that have no RGB
            meaning.
    """
    return fit(load(header(data, max_pixels=max_pixels), spec), spec)


def header(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture of an encoded file as its first bytes describe it: format, mode, size; nothing is decoded yet.

    Cheap, and safe to call on anything. Its size is as stored, before EXIF orientation turns it; pass it to `load`.

    Raises:
        ImageError: not a picture, or one of more than max_pixels.
    """
    if not data:
        raise ImageError("not_an_image", "the image is empty (0 bytes)")
    try:
        # a piece has a byte at least, so that a small file is bounded by itself, and read without counting
        source = _Pieces(data) if len(data) > PIECES else io.BytesIO(data)
        image = Image.open(source, formats=_known_formats())
    except _TooManyPieces:
        raise ImageError(
            "damaged_image", "the image begins with more parts than any image has"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError("too_many_pixels", _too_many(max_pixels)) from None
    except (
        Exception
    ) as error:  # Pillow's parsers raise many types on hostile headers; each means the same here
        raise ImageError(
            "not_an_image", f"not an image in a known format ({', '.join(FORMATS)})"
        ) from error
    if image.width * image.height > max_pixels:
        raise ImageError("too_many_pixels", _too_many(max_pixels, image.size))
    return image


def load(image: Image.Image, spec: ImageSpec | None = None) -> Image.Image:
    """What `header` described, decoded and upright, in whatever mode the file has.

    spec: what it will be resized to by `fit`. A JPEG that is much larger is then decoded at 1/2, 1/4 or 1/8 of its
        size (libjpeg computes no more of it), at which it is still at least REDUCED_AT_LEAST times what the model
        takes. None for the whole picture.

    Raises:
        ImageError: a damaged picture.
    """
    if spec is not None:
        _reduce(image, spec)
    try:
        image.load()
    except Exception as error:  # as in header: truncated, corrupt or hostile data
        raise ImageError(
            "damaged_image", f"the {image.format} image is truncated or damaged"
        ) from error
    orientation = _orientation(image)
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def fit(image: Image.Image, spec: ImageSpec) -> Pixels:
    """A decoded picture as the model takes it: (spec.height, spec.width, 3) uint8 RGB.

    Raises:
        ImageError: the picture's pixels have no RGB meaning (floating point, CIELAB, a palette that is missing).
    """
    try:
        rgb = to_rgb(image)
    except ImageError:
        raise
    except (
        Exception
    ) as error:  # what loading let pass and converting does not, as a PNG without its palette
        raise ImageError(
            "damaged_image", f"the image's pixels of mode {image.mode} cannot be read as RGB"
        ) from error
    size = (spec.width, spec.height)
    if rgb.size != size:
        method = _RESAMPLING[spec.interpolation]
        rgb = ImageOps.fit(rgb, size, method) if spec.resize == "crop" else rgb.resize(size, method)
    return np.asarray(rgb)


def from_array(array: NDArray[np.uint8]) -> Image.Image:
    """A Pillow image over an array of (H, W), (H, W, 1) grey or (H, W, 3) RGB uint8 pixels."""
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def images_below(root: Path) -> list[Path]:
    """The files in a folder and the folders in it that are called like images, in order.

    Hidden ones do not count (copies kept by notebooks, what macOS packs beside a picture). A link to nothing does: it
    cannot be read, which whoever reads it will say.

    Raises:
        OSError: a folder that cannot be looked into.
    """
    found: list[Path] = []
    for folder, folders, files in os.walk(root, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(folder, name) for name in files if is_image(PurePath(name)))
        found += [path for path in paths if path.is_file() or not path.exists()]
    return sorted(found)


def is_image(path: PurePath) -> bool:
    """Whether a file counts as an image by its path below a folder: what it is called, and that it is not hidden."""
    hidden = any(part.startswith(".") for part in path.parts)
    return path.suffix.lower() in EXTENSIONS and not hidden


def encode_png(image: Image.Image) -> bytes:
    """The picture as a lossless PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture in mode RGB; the module's first lines say how each other mode becomes it.

    Raises:
        ImageError: floating-point or CIELAB pixels, or integers beyond 16 bits.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # before transparency: Pillow's own conversion of these clips
        return _sixteen_bit_grey(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    if image.mode in ("F", "LAB"):
        raise ImageError(
            "unsupported_pixels",
            f"pixels of mode {image.mode} have no agreed RGB; save it as 8-bit RGB",
        )
    return image.convert("RGB")


def _sixteen_bit_grey(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(
            "unsupported_pixels",
            "the image has integer pixels beyond 16 bits; save it as 8 or 16 bit",
        )
    grey = (values >> 8).astype(np.uint8)
    if "transparency" in image.info:  # of PNG: the one value that is transparent
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(grey).convert("RGB")


def _raise(error: OSError) -> None:
    raise error


@cache
def _known_formats() -> tuple[str, ...]:
    """The formats that this Pillow was built with; it answers others with a KeyError for every picture."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _reduce(image: Image.Image, spec: ImageSpec) -> None:
    """Have a JPEG decoded at the smallest scale that leaves enough for the spec, before it is loaded.

    For "crop" and "stretch" alike: both scale the direction that has the least to spare by its share, the shorter
    side of a square model.
    """
    if not isinstance(image, JpegImageFile) or spec.interpolation == "nearest":
        return  # "nearest" picks single pixels, of which a reduced picture has none
    size = (REDUCED_AT_LEAST * spec.width, REDUCED_AT_LEAST * spec.height)
    image.draft(None, size[::-1] if _orientation(image) in _ON_ITS_SIDE else size)


def _orientation(image: Image.Image) -> int:
    """How the picture is stored, EXIF's tag 274. A broken EXIF block leaves a picture a picture: it is upright."""
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # Pillow's parser of EXIF raises many types
        return 1


def _too_many(max_pixels: int, size: tuple[int, int] | None = None) -> str:
    got = f"{size[0]} x {size[1]} pixels" if size else "the image"
    return f"{got}: more than the limit of {max_pixels / 1e6:g} megapixels"
