"""What a request to POST /predict or POST /embed says: one image or several, and how to answer.

An image is the multipart field `image`, or the raw bytes of the body under any other content type: what the
client declares is not trusted (curl --data-binary says it sends a form, many programs say octet-stream).
`mode`, `top_k` and `normalize` may be given in the query or as form fields. Nothing here ever fetches an address.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request

from serving import multipart
from serving.errors import REQUEST_ID, RequestError
from serving.limits import MAX_IMAGES, MAX_REQUEST_BYTES

IMAGE = "image"
OPTIONS = ("mode", "top_k")
EMBED_OPTIONS = ("mode", "normalize")
MAX_VALUE_CHARACTERS = 256
_MAX_EMBED_PARTS = 1000  # so many that who sends too many images is told how many are allowed
_TRUTH = {"true": True, "1": True, "false": False, "0": False}

_HOW = "send the file as the body, or as the multipart field 'image'"


@dataclass(frozen=True)
class Received:
    """A request as it came over the wire, read whole and not looked into."""

    body: bytes
    content_type: str
    query: tuple[tuple[str, str], ...]
    request_id: str


@dataclass(frozen=True)
class Refused:
    """A request that was not read to its end, and why."""

    error: RequestError
    request_id: str


@dataclass(frozen=True)
class Form:
    """What the client wants; None where it leaves the choice to the server."""

    image: bytes
    mode: str | None
    top_k: int | None


@dataclass(frozen=True)
class EmbedForm:
    """What the client wants embedded, and how; None where it leaves the choice to the server."""

    images: tuple[bytes, ...]
    mode: str | None
    normalize: bool


async def receive(request: Request) -> Received:
    """The request, with at most MAX_REQUEST_BYTES of body.

    Raises:
        RequestError: the body is larger (by its own word, or found out while reading), or the client went away.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > MAX_REQUEST_BYTES:
        raise _too_large()
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > MAX_REQUEST_BYTES:
                raise _too_large()
            chunks.append(chunk)
    except ClientDisconnect:
        raise RequestError(400, "disconnected", "the client went away") from None
    return Received(
        body=b"".join(chunks),
        content_type=request.headers.get("content-type", ""),
        query=tuple(request.query_params.multi_items()),
        request_id=request.scope[REQUEST_ID],
    )


def parse(received: Received) -> Form:
    """The image and the options in a request to classify.

    Raises:
        RequestError: no image, several images, malformed multipart, unknown, contradictory or malformed fields.
    """
    images, fields = _read(received, multipart.MAX_PARTS)
    if len(images) > 1:
        raise RequestError(400, "several_images", f"{len(images)} images; send one image a request")
    options = _options(fields, OPTIONS)
    return Form(images[0], options.get("mode"), _top_k(options.get("top_k")))


def parse_embed(received: Received) -> EmbedForm:
    """The images, in their order, and the options in a request for embeddings.

    Raises:
        RequestError: no image, more than MAX_IMAGES, malformed multipart, unknown, contradictory or malformed fields.
    """
    images, fields = _read(received, _MAX_EMBED_PARTS)
    if len(images) > MAX_IMAGES:
        message = f"{len(images)} images; send at most {MAX_IMAGES} a request"
        raise RequestError(413, "too_many_images", message)
    options = _options(fields, EMBED_OPTIONS)
    return EmbedForm(tuple(images), options.get("mode"), _normalize(options.get("normalize")))


def _read(received: Received, max_parts: int) -> tuple[list[bytes], list[tuple[str, str]]]:
    """The images and the other fields of a request, unread."""
    images, fields = [received.body], list(received.query)
    if received.content_type.partition(";")[0].strip().lower() == "multipart/form-data":
        parts = multipart.split(received.body, received.content_type, max_parts=max_parts)
        images = [part.data for part in parts if part.name == IMAGE]
        fields += [(part.name, _text(part)) for part in parts if part.name != IMAGE]
    if not any(images):
        raise RequestError(400, "no_image", f"the request has no image (0 bytes); {_HOW}")
    return images, fields


def _options(fields: Iterable[tuple[str, str]], known: tuple[str, ...]) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, raw in fields:
        if name not in known:
            names = [IMAGE, *known]
            raise RequestError(400, "unknown_field", f"unknown field {name!r}; choose from {names}")
        value = _unquote(raw)
        if value is not None and options.setdefault(name, value) != value:
            raise RequestError(
                400,
                "contradictory_fields",
                f"{name} is given as {options[name]!r} and as {value!r}",
            )
    return options


def _unquote(value: str) -> str | None:
    """The value meant: BentoML's client sends every field as JSON, `"single"` with its quotes, and `null`."""
    value = value.strip()
    if value in ("", "null"):
        return None
    if len(value) > 1 and value.startswith('"') and value.endswith('"'):
        try:
            return str(json.loads(value))
        except ValueError:
            return value
    return value


def _top_k(value: str | None) -> int | None:
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise RequestError(422, "invalid_top_k", f"top_k is {value!r}; it must be a whole number")
    return int(value)


def _normalize(value: str | None) -> bool:
    if value is None:
        return False
    if value.lower() not in _TRUTH:
        message = f"normalize is {value!r}; it must be true or false"
        raise RequestError(422, "invalid_normalize", message)
    return _TRUTH[value.lower()]


def _text(part: multipart.Part) -> str:
    text = part.data[: MAX_VALUE_CHARACTERS + 1].decode("utf-8", "replace")
    if len(text) > MAX_VALUE_CHARACTERS:
        limit = f"more than {MAX_VALUE_CHARACTERS} characters"
        raise RequestError(400, "field_too_long", f"the field {part.name!r} has {limit}")
    return text


def _too_large() -> RequestError:
    megabytes = MAX_REQUEST_BYTES / 1024**2
    return RequestError(
        413, "too_large", f"the request is larger than {megabytes:g} MiB; send a smaller image"
    )
