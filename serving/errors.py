"""Every error that the server answers with, in one shape, but for what the Open Inference Protocol's clients read.

{"error": {"code": "unknown_mode", "message": "...", "request_id": "..."}}
{"error": "..."}    below /v2: the message alone; code and id are in the headers

400  malformed request: no image, broken multipart, JSON or zip, unknown or contradictory fields
404  no such address; or classes asked of an encoder, embeddings of a classifier
405, 429, 504  as HTTP means them
413  more bytes, more images or more pixels than the limit
415  the bytes are not an image in a known format
422  an image or a value that is understood and cannot be used: damaged, unknown mode, top_k out of range
503  more is waiting than the server allows; try again after the seconds in Retry-After
500  a fault of the server; the message says nothing else, the log says everything

RequestError    a fault of the client; raised while a request is read, answered by `response`
"""

import http.client
import json
from typing import Any

from starlette.responses import Response

from serving.images import ImageError, ImageSpec
from serving.limits import most_images, most_shown

REQUEST_ID = "x-request-id"  # the header, and the key in the ASGI scope (BentoML uses "request_id")
RETRY_AFTER_S = "1"
CODE = "x-error-code"  # also what tells an error in our shape from one of the libraries below us

_IMAGE_STATUS = {
    "not_an_image": 415,
    "damaged_image": 422,
    "too_many_pixels": 413,
    "unsupported_pixels": 422,
    "not_base64": 422,
}
_STATUS_TEXT = {
    404: ("not_found", "there is nothing at this address; GET /docs lists what there is"),
    405: (
        "method_not_allowed",
        "this address does not answer to this method; see the header Allow",
    ),
    429: ("too_many_requests", "the server is busy; try again in a moment"),
    503: ("unavailable", "the server is not ready or has too much to do; try again in a moment"),
    504: ("timeout", "the server did not finish in time; try again with a smaller image"),
}
_SERVER_FAULT = (
    "internal_error",
    "the server failed; its log has the details under this request id",
)


class RequestError(Exception):
    """A request that cannot be answered, through no fault of the server."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def require_few(count: int, spec: ImageSpec) -> None:
    """Check that one request may hold so many images for a model of that size.

    Raises:
        RequestError: they are too many.
    """
    most = most_images(spec)
    if count > most:
        size = f"{spec.width} x {spec.height} pixels"
        message = f"{count} images; send at most {most} a request (the model takes {size})"
        raise RequestError(413, "too_many_images", message)


def require_few_shown(count: int, spec: ImageSpec, copies: int) -> None:
    """Check that one answer may show the copies of so many images.

    Raises:
        RequestError: they are too many.
    """
    most = most_shown(spec, copies)
    if count > most:
        message = (
            f"{count} images with {copies} copies each; ask for copies of at most {most} a request"
        )
        raise RequestError(413, "too_many_images", message)


def from_image_error(error: ImageError, which: str = "") -> RequestError:
    """What an unusable picture means over HTTP. which: of several, the words before the message."""
    return RequestError(_IMAGE_STATUS[error.code], error.code, f"{which}{error}")


def item_error(error: ImageError) -> dict[str, Any]:
    """What an unusable picture among others means, in the shape of all errors."""
    return {"error": {"code": error.code, "message": str(error)}}


def from_status(status: int) -> RequestError:
    """The error that stands for one of a library below us, whose own text is not passed on."""
    if status >= 500:
        code, message = _STATUS_TEXT.get(status, _SERVER_FAULT)
    else:
        phrase = http.client.responses.get(status, "Bad Request")
        fallback = (phrase.lower().replace(" ", "_"), f"the request was refused: {phrase}")
        code, message = _STATUS_TEXT.get(status, fallback)
    return RequestError(status, code, message)


def busy() -> RequestError:
    """The error for a request that finds too much waiting."""
    return from_status(503)


def response(error: RequestError, request_id: str, *, as_text: bool = False) -> Response:
    """The answer that an error becomes. as_text: in the Open Inference Protocol's shape."""
    content: dict[str, str] | str = str(error)
    if not as_text:
        content = {"code": error.code, "message": str(error), "request_id": request_id}
    headers = {REQUEST_ID: request_id, CODE: error.code}
    if error.status == 503:
        headers["retry-after"] = RETRY_AFTER_S
    return Response(
        json.dumps({"error": content}, ensure_ascii=False),
        status_code=error.status,
        headers=headers,
        media_type="application/json",
    )
