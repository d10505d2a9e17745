"""Tensors as the Open Inference Protocol's clients read them: in JSON, or as binary data after it."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from json import JSONEncoder
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.responses import Response

from serving.modes import best
from serving.predictor import Answers

HEADER_LENGTH = "inference-header-content-length"
DATATYPES = {np.dtype("uint8"): "UINT8", np.dtype("float32"): "FP32"}

_to_json = JSONEncoder(allow_nan=False, separators=(",", ":")).encode  # NaN is no JSON


@dataclass(frozen=True)
class Tensor:
    """A tensor to be sent. values: numbers, (n, ...); or n lists of texts, each of the same length."""

    name: str
    values: NDArray[Any] | Sequence[Sequence[str]]
    binary: bool


def classified(probabilities: Answers, count: int, classes: Sequence[str]) -> list[list[str]]:
    """The best classes of each image, as "probability:index:label": (n, N) to n lists of count texts."""
    places = best(probabilities, count)  # (n, count)
    values = np.take_along_axis(probabilities, places, axis=1)  # (n, count)
    return [
        [f"{value:f}:{place}:{classes[place]}" for value, place in zip(*row, strict=True)]
        for row in zip(values.tolist(), places.tolist(), strict=True)
    ]


def response(said: dict[str, Any], tensors: Sequence[Tensor]) -> Response:
    """The answer to an inference. said: the fields before the outputs."""
    entries, parts = [], []
    for tensor in tensors:
        entry, data = _encoded(tensor)
        entries.append(entry)
        parts.append(data)
    head = _to_json({**said, "outputs": entries}).encode()
    if not any(tensor.binary for tensor in tensors):
        return Response(head, media_type="application/json")
    return Response(
        b"".join([head, *parts]),
        media_type="application/octet-stream",
        headers={HEADER_LENGTH: str(len(head))},
    )


def _encoded(tensor: Tensor) -> tuple[dict[str, Any], Any]:
    """A tensor's entry in the JSON, and its binary data, none where the entry holds the values."""
    values = tensor.values
    if isinstance(values, np.ndarray):
        shape, datatype = [*values.shape], DATATYPES[values.dtype]
    else:
        shape, datatype = [len(values), len(values[0])], "BYTES"
    entry: dict[str, Any] = {"name": tensor.name, "datatype": datatype, "shape": shape}
    if not tensor.binary:
        return {**entry, "data": _flat(values)}, b""
    data = _bytes(values)
    return {**entry, "parameters": {"binary_data_size": len(data)}}, data


def _flat(values: NDArray[Any] | Sequence[Sequence[str]]) -> list[Any]:
    """The values in their order."""
    if isinstance(values, np.ndarray):
        return values.ravel().tolist()
    return [text for row in values for text in row]


def _bytes(values: NDArray[Any] | Sequence[Sequence[str]]) -> memoryview | bytes:
    """The values as the protocol has them: little-endian, in their order; texts after their lengths."""
    if isinstance(values, np.ndarray):
        little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        return little.data.cast("B")
    texts = [text.encode() for row in values for text in row]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)
