"""What a request to POST /predict or POST /embed says: images, and how to answer.

Where the images are in a body is payload.py's; options may be given in the query, as form fields or in JSON.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope

from serving import payload
from serving.errors import REQUEST_ID, RequestError
from serving.limits import MAX_REQUEST_BYTES
from serving.payload import Item

PREDICT_OPTIONS = ("model", "mode", "top_k", "explain")
EMBED_OPTIONS = ("model", "mode", "normalize")
_TRUTH = {"true": True, "1": True, "false": False, "0": False}
_EXPLANATIONS = {"true": "votes", "1": "votes", "false": None, "0": None, "copies": "copies"}


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
    """What the client wants classified, and how; None where it leaves the choice to the server.

    many: whether the answer is a list. explain: "votes", or "copies" for the votes with pictures.
    """

    items: tuple[Item, ...]
    many: bool
    model: str | None
    mode: str | None
    top_k: int | None
    explain: str | None


@dataclass(frozen=True)
class EmbedForm:
    """What the client wants embedded, and how; None where it leaves the choice to the server."""

    items: tuple[Item, ...]
    many: bool
    model: str | None
    mode: str | None
    normalize: bool


async def receive(scope: Scope, receive: Receive) -> Received:
    """The request, with at most MAX_REQUEST_BYTES of body.

    Raises:
        RequestError: the body is larger (by its own word, or found out while reading), or the client went away.
    """
    headers = dict(scope["headers"])
    query = scope["query_string"]
    return Received(
        body=await read_body(headers, receive),
        content_type=headers.get(b"content-type", b"").decode("latin-1"),
        query=tuple(parse_qsl(query.decode("latin-1"), keep_blank_values=True)) if query else (),
        request_id=scope[REQUEST_ID],
    )


async def parse(received: Received) -> Form:
    """The images and the options in a request to classify.

    Raises:
        RequestError: no image, too many, a malformed body, unknown, contradictory or malformed fields.
    """
    found, options = await _read(received, PREDICT_OPTIONS)
    return Form(
        tuple(found.items),
        found.many,
        options.get("model"),
        options.get("mode"),
        _top_k(options.get("top_k")),
        _one_of("explain", options.get("explain"), _EXPLANATIONS),
    )


async def parse_embed(received: Received) -> EmbedForm:
    """The images, in their order, and the options in a request for embeddings.

    Raises:
        RequestError: as parse.
    """
    found, options = await _read(received, EMBED_OPTIONS)
    normalize = _one_of("normalize", options.get("normalize"), _TRUTH)
    return EmbedForm(
        tuple(found.items), found.many, options.get("model"), options.get("mode"), bool(normalize)
    )


async def read_body(
    headers: Mapping[bytes, bytes], receive: Receive, most: int = MAX_REQUEST_BYTES
) -> bytes:
    """The body of a request, of at most so many bytes.

    Raises:
        RequestError: as receive.
    """
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared) > most:
        raise too_large(most)
    chunks, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestError(400, "disconnected", "the client went away")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > most:
            raise too_large(most)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _read(
    received: Received, known: tuple[str, ...]
) -> tuple[payload.Payload, dict[str, str]]:
    """The images of a request, and its options."""
    found = await payload.read(received.body, received.content_type)
    fields = [*received.query, *found.fields]
    return found, _options(fields, known) if fields else {}


def _options(fields: Iterable[tuple[str, str]], known: tuple[str, ...]) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, raw in fields:
        if name not in known:
            names = [payload.IMAGE, *known]
            message = f"unknown field {name[:50]!r}; choose from {names}"
            raise RequestError(400, "unknown_field", message)
        value = _unquote(raw)
        if value is not None and options.setdefault(name, value) != value:
            raise RequestError(
                400,
                "contradictory_fields",
                f"{name} is given as {options[name][:50]!r} and as {value[:50]!r}",
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
        raise RequestError(
            422, "invalid_top_k", f"top_k is {value[:50]!r}; it must be a whole number"
        )
    return int(value)


def _one_of(name: str, value: str | None, meanings: Mapping[str, Any]) -> Any:
    if value is None:
        return None
    if value.lower() not in meanings:
        choice = ", ".join(word for word in meanings if not word.isdigit())
        message = f"{name} is {value[:50]!r}; it must be one of {choice}"
        raise RequestError(422, f"invalid_{name}", message)
    return meanings[value.lower()]


def too_large(most: int = MAX_REQUEST_BYTES) -> RequestError:
    """The error for a body of more than so many bytes."""
    if most < MAX_REQUEST_BYTES:
        return RequestError(413, "too_large", f"the request is larger than {most / 1024:g} KiB")
    limit = f"the request is larger than {most / 1024**2:g} MiB"
    return RequestError(413, "too_large", f"{limit}; send smaller or fewer images")
