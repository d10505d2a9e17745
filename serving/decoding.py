"""Encoded images to pixels, and back, without holding up the event loop: small ones at once, the rest in threads."""

import asyncio
import base64
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serving import images
from serving.batching import Busy
from serving.images import ImageError, ImageSpec, Pixels
from serving.limits import MAX_ENCODED_BYTES, MAX_REQUEST_PIXELS

# To decode so many pixels takes about a millisecond: a hand-over to a thread would be a good part of that. A file of so
# many bytes holds all of them even uncompressed, and no more parts than Pillow goes through in ten milliseconds
# (images.PIECES).
_SMALL_PIXELS, _SMALL_BYTES = 64_000, 256 * 1024

T = TypeVar("T")
Opened = Image.Image | ImageError  # of which only the header has been read
Decoded = Pixels | ImageError


class Decoder:
    """Decodes the images of all requests of a process, in so many threads at most."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._bytes = 0  # of files that wait
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    async def decode(self, encoded: Sequence[bytes | ImageError], spec: ImageSpec) -> list[Decoded]:
        """The pictures in encoded files as a model takes them, in their order, or what is wrong with each.

        Pixels are (H, W, 3) uint8. What is known to be wrong already stays so.

        Raises:
            Busy: too much is waiting to be decoded.
        """
        size = sum(len(data) for data in encoded if isinstance(data, bytes))
        if self._bytes and self._bytes + size > MAX_ENCODED_BYTES:
            raise Busy
        self._bytes += size
        try:
            return await self._decode(encoded, spec)
        finally:
            self._bytes -= size

    async def _decode(
        self, encoded: Sequence[bytes | ImageError], spec: ImageSpec
    ) -> list[Decoded]:
        if len(encoded) == 1:
            return [await self._decode_one(encoded[0], spec)]
        opened = await self._in_thread(_open_all, encoded)
        size = -(-len(opened) // (2 * self._threads))
        groups = [opened[first : first + size] for first in range(0, len(opened), size)]
        found = await asyncio.gather(*(self._in_thread(_load_all, g, spec) for g in groups))
        return [one for group in found for one in group]

    async def encode(self, copies: NDArray[np.uint8]) -> list[list[str]]:
        """The copies of each image as PNG files in base64. copies: (n, M, H, W, 3)."""
        return [await self._in_thread(_encode_all, of_one) for of_one in copies]

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(cancel_futures=True)

    async def _decode_one(self, data: bytes | ImageError, spec: ImageSpec) -> Decoded:
        if isinstance(data, bytes) and len(data) > _SMALL_BYTES:
            return await self._in_thread(lambda: _load(_open_all([data])[0], spec))
        opened = _open_all([data])[0]
        small = isinstance(opened, ImageError) or opened.width * opened.height <= _SMALL_PIXELS
        return _load(opened, spec) if small else await self._in_thread(_load, opened, spec)

    def _in_thread(self, work: Callable[..., T], *arguments: Any) -> "asyncio.Future[T]":
        return asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)


def _encode_all(copies: NDArray[np.uint8]) -> list[str]:
    return [base64.b64encode(images.encode_png(Image.fromarray(copy))).decode() for copy in copies]


def _load_all(opened: list[Opened], spec: ImageSpec) -> list[Decoded]:
    return [_load(one, spec) for one in opened]


def _load(opened: Opened, spec: ImageSpec) -> Decoded:
    try:
        if isinstance(opened, ImageError):
            return opened
        return images.fit(images.load(opened, spec), spec)
    except ImageError as error:
        return error


def _open_all(encoded: Sequence[bytes | ImageError]) -> list[Opened]:
    """The images' headers; from where on their pixels are too many together, an error."""
    opened: list[Opened] = []
    pixels = 0
    for data in encoded:
        try:
            picture = images.header(_bytes(data))
        except ImageError as error:
            opened.append(error)
            continue
        pixels += picture.width * picture.height
        opened.append(picture if pixels <= MAX_REQUEST_PIXELS else _too_many())
    return opened


def _bytes(data: bytes | ImageError) -> bytes:
    if isinstance(data, ImageError):
        raise data
    return data


def _too_many() -> ImageError:
    return ImageError(
        "too_many_pixels",
        f"together more than {MAX_REQUEST_PIXELS / 1e6:g} megapixels; send fewer images at a time",
    )
