"""Encoded pictures for tests."""

import io
import struct
import zlib

from PIL import Image

RED, GREEN, BLUE = (230, 20, 10), (10, 220, 30), (20, 10, 240)
COLOURS = {"red": RED, "green": GREEN, "blue": BLUE}


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
