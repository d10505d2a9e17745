"""Encoded pictures for tests."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

RED, GREEN, BLUE = (230, 20, 10), (10, 220, 30), (20, 10, 240)
COLOURS = {"red": RED, "green": GREEN, "blue": BLUE}

STORED_AS = {  # EXIF orientation -> how a camera stores the picture that is to be seen upright
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def scene(width: int, height: int) -> Image.Image:
    """Soft waves, another in each channel, that no turn or mirror image leaves alone."""
    y, x = np.mgrid[:height, :width] / max(width, height)
    channels = [np.sin(7 * x + 2 * y), np.cos(3 * x * y + 5 * y), np.sin(9 * x) * y]
    return Image.fromarray((np.stack(channels, axis=-1) * 100 + 128).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    """The bytes of a picture file."""
    buffer = io.BytesIO()
    image.save(buffer, format=file_format, **options)
    return buffer.getvalue()


def plain(colour: tuple[int, int, int], file_format: str = "PNG", size: int = 32) -> bytes:
    """The bytes of a picture of one colour."""
    return encoded(Image.new("RGB", (size, size), colour), file_format)


def declared_png(width: int, height: int) -> bytes:
    """A few bytes that claim to be a picture of that size: a decompression bomb when it is large."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", body)
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + crc


def endless(kind: str, size: int) -> bytes:
    """About so many bytes that begin like a picture and then are nothing but parts of a header."""
    header = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    begin, part = {
        "JPEG padding": (b"\xff\xd8\xff", b"\xff"),
        "JPEG comments": (b"\xff\xd8\xff", b"\xfe\x00\x02\xff"),
        "PPM comment": (b"P6 #", b"a"),
        "PNG chunks": (header, _chunk(b"abCd", b"")),
    }[kind]
    return begin + part * (size // len(part))
