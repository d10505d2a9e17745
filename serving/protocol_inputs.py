"""The two inputs that the Open Inference Protocol's clients may send, one of them a request.

images    UINT8 (n, H, W, 3), pixels of the model's size: straight to the network
encoded   BYTES (n), picture files: decoded and resized as everywhere; in JSON as base64
"""

import asyncio
import struct
from itertools import chain
from math import prod
from typing import Any

import numpy as np

from serving.decoding import Decoder
from serving.errors import RequestError, from_image_error, require_few
from serving.images import ImageError, ImageSpec, Pixels
from serving.limits import LARGE_JSON_BYTES
from serving.manifest import INPUT
from serving.payload import from_base64
from serving.protocol_request import InferRequest, Input, malformed

ENCODED = "encoded"
DATATYPES = {INPUT: "UINT8", ENCODED: "BYTES"}
_LENGTH = struct.Struct("<I")  # before each element of BYTES


def shapes(spec: ImageSpec) -> dict[str, tuple[int, ...]]:
    """The shape of each input; -1 for the number of images."""
    return {INPUT: (-1, spec.height, spec.width, 3), ENCODED: (-1,)}


async def pixels(request: InferRequest, spec: ImageSpec, decoder: Decoder) -> Pixels:
    """The pictures of a request, (n, H, W, 3) uint8, n > 0; a view of its body where they came as binary data.

    Raises:
        RequestError: not exactly one input; an unknown name; another datatype, shape or size than the model takes;
            too many files; a file that cannot be used, by its place.
    """
    found = _only(request.inputs)
    _check_type(found, spec)
    return _images(found) if found.name == INPUT else await _decoded(found, spec, decoder)


def _only(inputs: tuple[Input, ...]) -> Input:
    for one in inputs:
        if one.name not in DATATYPES:
            choice = f"choose from {[*DATATYPES]}"
            raise RequestError(400, "unknown_input", f"unknown input {one.name[:50]!r}; {choice}")
    if len(inputs) != 1:
        how = f"send {INPUT!r} (pixels) or {ENCODED!r} (picture files)"
        raise RequestError(400, "which_input", f"{len(inputs)} inputs; {how}, one of them")
    return inputs[0]


def _check_type(found: Input, spec: ImageSpec) -> None:
    """Raise where datatype or shape is not what the input takes."""
    expected, datatype = shapes(spec)[found.name], DATATYPES[found.name]
    if found.datatype != datatype:
        message = (
            f"the datatype of {found.name!r} is {found.datatype[:50]!r}; it must be {datatype!r}"
        )
        raise RequestError(400, "wrong_datatype", message)
    if len(found.shape) != len(expected) or found.shape[1:] != expected[1:] or not found.shape[0]:
        given = str([*found.shape[:8]])[:100]
        message = f"the shape of {found.name!r} is {given}; it must be {[*expected]}, -1 for 1 or more images"
        if found.name == INPUT:
            message += f"; {ENCODED!r} takes pictures of any size"
        raise RequestError(400, "wrong_shape", message)


def _images(found: Input) -> Pixels:
    data = found.data
    if isinstance(data, list):
        data = _bytes(_flat(data, found.shape))
    if len(data) != prod(found.shape):
        raise RequestError(
            400,
            "wrong_size",
            f"{INPUT!r} has {len(data)} values; its shape {[*found.shape]} has {prod(found.shape)}",
        )
    return np.frombuffer(data, np.uint8).reshape(found.shape)  # (n, H, W, 3)


def _flat(data: list[Any], shape: tuple[int, ...]) -> list[Any]:
    """The values in their order, where they are nested as the shape says; as they are where they are not nested."""
    if not data or not isinstance(data[0], list):
        return data
    for size in shape[1:]:
        if not all(isinstance(row, list) and len(row) == size for row in data):
            raise malformed(f"the lists in 'data' are not nested as the shape {[*shape]} says")
        data = list(chain.from_iterable(data))
    return data


def _bytes(values: list[Any]) -> memoryview:
    try:
        return memoryview(bytes(values))
    except (TypeError, ValueError):
        message = f"the values of {INPUT!r} must be whole numbers from 0 to 255"
        raise RequestError(400, "wrong_value", message) from None


async def _decoded(found: Input, spec: ImageSpec, decoder: Decoder) -> Pixels:
    count = found.shape[0]
    require_few(count, spec)
    large = _characters(found.data) > LARGE_JSON_BYTES
    files = await asyncio.to_thread(_files, found) if large else _files(found)
    decoded = await decoder.decode(files, spec)
    good = []
    for place, one in enumerate(decoded):
        if isinstance(one, ImageError):
            raise from_image_error(one, f"element {place} of {ENCODED!r}: ")
        good.append(one)
    return np.stack(good)  # (n, H, W, 3)


def _characters(data: list[Any] | memoryview) -> int:
    """Of the base64 in JSON; binary data have none."""
    texts = data if isinstance(data, list) else []
    return sum(len(text) for text in texts if isinstance(text, str))


def _files(found: Input) -> list[bytes | ImageError]:
    """The encoded pictures; what is no base64 in JSON is an error in its place."""
    count, data = found.shape[0], found.data
    if isinstance(data, memoryview):
        return [*_elements(data, count)]
    if len(data) != count or not all(isinstance(text, str) for text in data):
        raise malformed(f"'data' of {ENCODED!r} must be a list of {count} base64 strings")
    return [from_base64(text) for text in data]


def _elements(data: memoryview, count: int) -> list[bytes]:
    """The elements of a binary BYTES tensor, each after its length."""
    found: list[bytes] = []
    place = 0
    while place + _LENGTH.size <= len(data) and len(found) < count:
        (size,) = _LENGTH.unpack_from(data, place)
        place += _LENGTH.size
        found.append(bytes(data[place : place + size]))
        place += size
    if len(found) != count or place != len(data):
        raise malformed(
            f"the binary data of {ENCODED!r} are not {count} elements with their lengths"
        )
    return found
