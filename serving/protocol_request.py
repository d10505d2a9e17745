"""What a body says that the Open Inference Protocol's clients send: JSON, and binary tensors after it.

Structure only: which tensors a model takes is protocol_inputs.py's. Sizes are checked before anything is converted.
"""

import json
import reprlib
import zlib
from dataclasses import dataclass
from typing import Any, TypeVar

from serving.errors import RequestError
from serving.form import too_large
from serving.limits import MAX_JSON_BRACKETS, MAX_JSON_COMMAS, MAX_REQUEST_BYTES

_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}  # of zlib's two formats
_MOST = 2**63  # sizes are int64 to these clients; Python has no text for the product of larger ones
_SHARED_MEMORY = "shared_memory_region"

T = TypeVar("T")


@dataclass(frozen=True)
class Input:
    """A tensor that was sent. data: the values as JSON has them, or the bytes of the body that hold them."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any] | memoryview


@dataclass(frozen=True)
class Output:
    """A tensor that is asked for. classes: how many of the best to name in place of the values; None for the values."""

    name: str
    binary: bool
    classes: int | None = None


@dataclass(frozen=True)
class InferRequest:
    """What is asked. mode: the parameter of that name. outputs: none where the choice is the server's.

    binary: whether such outputs are wanted as binary data.
    """

    id: str | None
    mode: str | None
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    binary: bool


def decompressed(body: bytes, encoding: str) -> bytes:
    """The body that a compressed one holds, of at most MAX_REQUEST_BYTES. encoding: of Content-Encoding.

    Raises:
        RequestError: an unknown encoding, a damaged body, or a larger one.
    """
    if encoding.lower() not in _WINDOW_BITS:
        choice = f"choose from {[*_WINDOW_BITS]}, or send it as it is"
        raise RequestError(415, "unknown_encoding", f"unknown encoding {encoding[:50]!r}; {choice}")
    stream = zlib.decompressobj(_WINDOW_BITS[encoding.lower()])
    try:
        found = stream.decompress(body, MAX_REQUEST_BYTES)
    except zlib.error:
        raise malformed(f"the body is not {encoding.lower()}, or damaged") from None
    if not stream.eof and stream.unconsumed_tail:
        raise too_large()
    if not stream.eof:
        raise malformed(f"the {encoding.lower()} body ends too early")
    if stream.unused_data:
        raise malformed(f"something comes after the {encoding.lower()} body")
    return found


def read(body: bytes, header_length: str | None) -> InferRequest:
    """What a body says. header_length: of Inference-Header-Content-Length, the bytes of JSON before binary data.

    Raises:
        RequestError: not the protocol's JSON, too much of it, or binary data of other sizes than it says.
    """
    size = _size(header_length, len(body))
    _check_amount(body, size)
    try:
        content = json.loads(body[:size])  # a slice of all of it is no copy
    except (ValueError, RecursionError):
        raise malformed(f"its first {size} bytes are no JSON") from None
    if not isinstance(content, dict):
        raise malformed("its JSON is no object")
    parameters = _field(content, "parameters", dict, {})
    binary = _field(parameters, "binary_data_output", bool, False)
    return InferRequest(
        _field(content, "id", str, None),
        _field(parameters, "mode", str, None),
        _inputs(_field(content, "inputs", list, []), memoryview(body)[size:]),
        tuple(_output(entry, binary) for entry in _field(content, "outputs", list, [])),
        binary,
    )


def malformed(reason: str) -> RequestError:
    """The error for a body that is not what the protocol says."""
    return RequestError(400, "malformed_request", f"the request cannot be read: {reason}")


def _size(header_length: str | None, length: int) -> int:
    if header_length is None:
        return length
    if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 10):
        raise malformed("Inference-Header-Content-Length is not a number")
    size = int(header_length)
    if not 0 < size <= length:
        raise malformed(
            f"Inference-Header-Content-Length is {size}; the body has {length} bytes of JSON and data"
        )
    return size


def _check_amount(body: bytes, size: int) -> None:
    """Raise where the JSON in the first `size` bytes has more values than may be read."""
    commas = body.count(b",", 0, size)
    brackets = body.count(b"[", 0, size) + body.count(b"{", 0, size)
    if commas > MAX_JSON_COMMAS or brackets > MAX_JSON_BRACKETS:
        limits = f"{MAX_JSON_COMMAS:,} values and {MAX_JSON_BRACKETS:,} lists and objects"
        message = f"its JSON has more than {limits}; send the tensor as binary data"
        raise RequestError(413, "too_much_json", message)


def _field(where: dict[str, Any], name: str, kind: type[T], default: Any) -> Any:
    """The value of that name, where there is one, if it is of that kind."""
    value = where.get(name, default)
    if value is None or value is default:
        return default
    if not isinstance(value, kind) or (kind is int and not _whole(value)):
        raise malformed(f"{name!r} is {reprlib.repr(value)}, which is no {kind.__name__}")
    return value


def _whole(value: Any) -> bool:
    """Whether it is a number that int64 has; to Python a bool is an int."""
    return type(value) is int and -_MOST <= value < _MOST


def _inputs(entries: list[Any], data: memoryview) -> tuple[Input, ...]:
    """The tensors, each with its part of the binary data."""
    found, place = [], 0
    for entry in entries:
        if not isinstance(entry, dict):
            raise malformed("an input is no object")
        parameters = _field(entry, "parameters", dict, {})
        _refuse_shared_memory(parameters)
        size = _field(parameters, "binary_data_size", int, None)
        values: list[Any] | memoryview = _field(entry, "data", list, [])
        if size is not None and not 0 <= size <= len(data) - place:
            raise malformed(
                f"binary_data_size is {size}; {len(data) - place} bytes of binary data are left"
            )
        if size is not None:
            values = data[place : place + size]
            place += size
        found.append(_input(entry, values))
    if place != len(data):
        raise malformed(f"{len(data) - place} bytes of binary data belong to no input")
    return tuple(found)


def _input(entry: dict[str, Any], data: list[Any] | memoryview) -> Input:
    shape = _field(entry, "shape", list, [])
    if not all(_whole(size) and size >= 0 for size in shape):
        raise malformed(f"'shape' is {reprlib.repr(shape)}; it must be a list of whole numbers")
    name, datatype = _field(entry, "name", str, ""), _field(entry, "datatype", str, "")
    return Input(name, datatype, tuple(shape), data)


def _output(entry: Any, binary: bool) -> Output:
    if not isinstance(entry, dict):
        raise malformed("an output is no object")
    parameters = _field(entry, "parameters", dict, {})
    _refuse_shared_memory(parameters)
    return Output(
        _field(entry, "name", str, ""),
        _field(parameters, "binary_data", bool, binary),
        _field(parameters, "classification", int, None),
    )


def _refuse_shared_memory(parameters: dict[str, Any]) -> None:
    if _SHARED_MEMORY in parameters:
        message = "shared memory is not offered; send and receive the tensors themselves"
        raise RequestError(400, "no_shared_memory", message)
