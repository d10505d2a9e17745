"""The parts of a multipart/form-data body, as bytes. Nothing is written to disk, nothing is fetched."""

from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from serving.errors import RequestError

MAX_NAME_BYTES = 64
MAX_FILENAME_BYTES = 1024


@dataclass(frozen=True)
class Part:
    """One field of a form."""

    name: str
    data: bytes
    filename: str | None = None


def split(body: bytes, content_type: str, *, max_parts: int) -> list[Part]:
    """The parts of a body, in their order.

    Raises:
        RequestError: no boundary, a malformed or truncated body, a part without a name, more than max_parts.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise _malformed("its content type has no boundary")
    collector = _Collector(max_parts)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": collector.begin,
                "on_header_field": collector.header_name,
                "on_header_value": collector.header_value,
                "on_header_end": collector.header_end,
                "on_part_data": collector.data,
                "on_part_end": collector.end,
                "on_end": collector.finish,
            },
        )
        parser.write(body)
    except FormParserError:
        raise _malformed("its parts do not follow RFC 7578") from None
    if not collector.complete:
        raise _malformed("it ends before its last boundary")
    return collector.parts


class _Collector:
    """The state between the parser's callbacks."""

    def __init__(self, max_parts: int) -> None:
        self._max_parts = max_parts
        self.parts: list[Part] = []
        self.complete = False
        self._chunks: list[bytes] = []
        self._field = b""
        self._value = b""
        self._name: str | None = None
        self._filename: str | None = None

    def begin(self) -> None:
        if len(self.parts) == self._max_parts:
            raise _malformed(f"it has more than {self._max_parts} parts")
        self._chunks, self._field, self._value = [], b"", b""
        self._name = self._filename = None

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            options = parse_options_header(self._value)[1]
            self._name = _decoded(options.get(b"name", b"")[:MAX_NAME_BYTES])
            self._filename = _decoded(options.get(b"filename", b"")[:MAX_FILENAME_BYTES])
        self._field = self._value = b""

    def data(self, data: bytes, start: int, end: int) -> None:
        self._chunks.append(data[start:end])

    def end(self) -> None:
        if self._name is None:
            raise _malformed("a part has no name")
        self.parts.append(Part(self._name, b"".join(self._chunks), self._filename))

    def finish(self) -> None:
        self.complete = True


def _decoded(text: bytes) -> str | None:
    return text.decode("utf-8", "replace") or None


def _malformed(reason: str) -> RequestError:
    return RequestError(400, "malformed_multipart", f"the multipart body cannot be read: {reason}")
