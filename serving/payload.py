"""The images in the body of a request, and the fields beside them, in any of the ways that clients send them.

raw         the body is an image, or a zip of images: the bytes decide which, never the declared type
multipart   parts called `image` or `images`, each an image or a zip; other parts are options
JSON        {"image": "<base64>"} or {"images": ["<base64>", ...]}, options beside them; or the list alone. data: URLs
            and base64 with line breaks are taken too

Several images, a part called `images`, a zip or a JSON list is answered by a list, and then a bad image among good
ones spoils nothing. Nothing here is written to disk, nothing is fetched.
"""

import asyncio
import base64
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from serving import multipart
from serving.errors import RequestError
from serving.images import EXTENSIONS, ImageError, header, is_image
from serving.limits import LARGE_JSON_BYTES, MAX_IMAGES, MAX_REQUEST_BYTES, MAX_UNZIPPED_BYTES

IMAGE, IMAGES = "image", "images"
MAX_VALUE_CHARACTERS = 256
_MAX_PARTS = 2000  # so many that who sends too many images is told how many are allowed
_MAX_JSON_MARKS = 3 * _MAX_PARTS  # commas, as one a value and one a data: URL, and brackets
_MAX_DIRECTORY_BYTES = (
    512 * 1024
)  # of a zip: 1,000 files with names of 400 letters; 11,000 at the very most
_COMPRESSIONS = (
    zipfile.ZIP_STORED,
    zipfile.ZIP_DEFLATED,
)  # bzip2 takes 4 s for 20 MB, lzma is no faster
_NO_IMAGE = "the request has no image (0 bytes); send the file as the body, or as the multipart field 'image'"
_NO_IMAGE_IN_ZIP = f"the zip has no image: no file in it ends in {', '.join(sorted(EXTENSIONS))}"
_BLANKS = b" \t\n\v\f\r"  # RFC 2045 breaks lines after 76 characters; `base64` and encodebytes do
_ZIP = b"PK\x03\x04", b"PK\x05\x06"  # with entries, and without any
_OTHERS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ"}  # APPNOTE 4.4.5


Fields = list[tuple[str, str]]


@dataclass(frozen=True)
class Item:
    """An encoded image, or what is wrong with it already. name: what the client calls it, if anything."""

    data: bytes | ImageError
    name: str | None = None


@dataclass(frozen=True)
class Payload:
    """What a body holds. many: whether the answer is a list, however many images there are."""

    items: Sequence[Item]
    fields: Fields
    many: bool


async def read(body: bytes, content_type: str) -> Payload:
    """What a body holds; at least one image. Zips, and JSON that is large, are read in a thread.

    Raises:
        RequestError: no image, more than MAX_IMAGES, a malformed container, a field that is too long.
    """
    if content_type[:20].lower().startswith("multipart/form-data"):
        payload = _multipart(body, content_type)
    elif not _may_be_json(body, content_type):
        payload = _file(body)
    elif len(body) <= LARGE_JSON_BYTES:
        payload = _json_or_file(body)
    else:
        payload = await asyncio.to_thread(_json_or_file, body)
    zipped = any(_is_zip(item) for item in payload.items)
    if zipped:
        payload = await asyncio.to_thread(_unzipped, payload)
    if not any(item.data for item in payload.items):
        raise RequestError(400, "no_image", _NO_IMAGE_IN_ZIP if zipped else _NO_IMAGE)
    if len(payload.items) > MAX_IMAGES:
        message = f"{len(payload.items)} images; send at most {MAX_IMAGES} a request"
        raise RequestError(413, "too_many_images", message)
    return payload


def _file(body: bytes) -> Payload:
    return Payload([Item(body)] if body else [], [], many=False)


def _json_or_file(body: bytes) -> Payload:
    return _json(body) if _is_json(body) else _file(body)


def _multipart(body: bytes, content_type: str) -> Payload:
    parts = multipart.split(body, content_type, max_parts=_MAX_PARTS)
    items = [Item(part.data, part.filename) for part in parts if part.name in (IMAGE, IMAGES)]
    fields = [(part.name, _text(part)) for part in parts if part.name not in (IMAGE, IMAGES)]
    return Payload(items, fields, len(items) > 1 or any(part.name == IMAGES for part in parts))


def _text(part: multipart.Part) -> str:
    text = part.data[: MAX_VALUE_CHARACTERS + 1].decode("utf-8", "replace")
    _check_length(part.name, text)
    return text


def _check_length(name: str, text: str) -> None:
    if len(text) > MAX_VALUE_CHARACTERS:
        limit = f"more than {MAX_VALUE_CHARACTERS} characters"
        raise RequestError(400, "field_too_long", f"the field {name[:50]!r} has {limit}")


def _may_be_json(body: bytes, content_type: str) -> bool:
    declared = content_type[:16].lower() == "application/json"
    return _begins_like_json(body) or (declared and bool(body) and not body.startswith(_ZIP))


def _begins_like_json(body: bytes) -> bool:
    return body[:64].lstrip()[:1] in (b"{", b"[")


def _is_json(body: bytes) -> bool:
    """Whether a body begins like JSON, as no image does, or else is no image, though it is declared as JSON."""
    if _begins_like_json(body):
        return True
    try:
        header(body)
    except ImageError as error:
        return error.code == "not_an_image"
    return False


def _json(body: bytes) -> Payload:
    if (
        sum(map(body.count, (b",", b"[", b"{"))) > _MAX_JSON_MARKS
    ):  # json holds all threads until it has read them
        raise _malformed("its JSON has too many values")
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise _malformed("it is declared as JSON or begins so, and is none") from None
    if isinstance(content, list):
        content = {IMAGES: content}
    if not isinstance(content, dict):
        raise _malformed("its JSON is no object and no list")
    one, several = content.pop(IMAGE, None), content.pop(IMAGES, None)
    if (one is None) == (several is None):
        raise _malformed('it must have either "image" or "images"')
    texts = [one] if several is None else several
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise _malformed('"image" is a base64 string, "images" a list of them')
    items = [Item(from_base64(text)) for text in texts]
    return Payload(items, [_field(*pair) for pair in content.items()], several is not None)


def from_base64(text: str) -> bytes | ImageError:
    """The file that a base64 text holds, blanks and line breaks apart; of a data: URL what comes after its comma."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text.encode("ascii").translate(None, _BLANKS), validate=True)
    except ValueError:  # binascii's, and that of a text which is not ASCII
        return ImageError("not_base64", "the image is not base64")


def _field(name: str, value: Any) -> tuple[str, str]:
    """An option as a form would have it."""
    if isinstance(value, dict | list):
        raise _malformed(f"the field {name[:50]!r} is not a single value")
    text = value if isinstance(value, str) else json.dumps(value)
    _check_length(name, text)
    return name, text


def _unzipped(payload: Payload) -> Payload:
    """The payload with the images in its zips in their place."""
    items: list[Item] = []
    budget = MAX_UNZIPPED_BYTES
    for item in payload.items:
        found = _entries(item.data, budget) if _is_zip(item) else [item]
        budget -= sum(len(entry.data) for entry in found if isinstance(entry.data, bytes))
        if (
            not found and len(payload.items) > 1
        ):  # its sender is told, though the others are answered
            found = [Item(ImageError("not_an_image", _NO_IMAGE_IN_ZIP), item.name)]
        items += found
    return Payload(items, payload.fields, many=True)


def _is_zip(item: Item) -> bool:
    return isinstance(item.data, bytes) and item.data.startswith(_ZIP)


def _entries(data: bytes | ImageError, budget: int) -> list[Item]:
    """The images in a zip, in its order; what else is in there does not count."""
    assert isinstance(data, bytes)
    try:
        source = _Source(data)
        with zipfile.ZipFile(source) as archive:
            source.most = MAX_REQUEST_BYTES
            entries = [e for e in archive.infolist() if is_image(PurePosixPath(e.filename))]
            if len(entries) > MAX_IMAGES or sum(e.file_size for e in entries) > budget:
                raise RequestError(413, "zip_too_large", _too_large(entries))
            return [Item(_entry(archive, entry), entry.filename) for entry in entries]
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError):
        raise _malformed("the zip is damaged") from None


class _Source(io.BytesIO):
    """The bytes of a zip, whose directory zipfile reads in one piece, before it makes an object of each entry."""

    most = _MAX_DIRECTORY_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.most:
            limit = f"{_MAX_DIRECTORY_BYTES / 1024:g} KiB"
            message = f"the zip's list of files has {size / 1024:,.0f} KiB; it may have {limit}"
            raise RequestError(413, "zip_too_large", message)
        return super().read(size)


def _entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes | ImageError:
    """An entry's bytes, no more than it declares."""
    if entry.flag_bits & 1:
        return ImageError("damaged_image", "the file in the zip is encrypted")
    if entry.compress_type not in _COMPRESSIONS:
        how = _OTHERS.get(entry.compress_type, f"method {entry.compress_type}")
        message = f"the file in the zip is compressed by {how}; make the zip with deflate"
        return ImageError("damaged_image", message)
    if entry.file_size > MAX_REQUEST_BYTES:
        return ImageError("damaged_image", "the file in the zip is too large")
    try:
        with archive.open(entry) as file:
            return file.read(entry.file_size)
    except (
        Exception
    ):  # zlib's own errors, and what zipfile makes of entries that contradict its directory
        return ImageError("damaged_image", "the file in the zip is damaged")


def _too_large(entries: list[zipfile.ZipInfo]) -> str:
    size = sum(entry.file_size for entry in entries) / 1024**2
    return (
        f"the zip has {len(entries)} images of {size:,.0f} MiB; send at most {MAX_IMAGES} images and "
        f"{MAX_UNZIPPED_BYTES / 1024**2:g} MiB a request"
    )


def _malformed(reason: str) -> RequestError:
    return RequestError(400, "malformed_body", f"the body cannot be read: {reason}")
