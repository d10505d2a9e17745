"""From a request as it came over the wire to the response: one shape for all errors."""

import asyncio
from collections.abc import Awaitable, Callable
from json import JSONEncoder
from typing import Any

from starlette.responses import Response

from serving import classification, embedding, errors, form
from serving.batching import Busy
from serving.form import Received, Refused
from serving.model import require
from serving.models import Models

_QUICK_ROWS = 16  # of an answer: so many the event loop may write by itself
Work = Callable[[Models, Received], Awaitable[dict[str, Any]]]

_to_json = JSONEncoder(ensure_ascii=False, allow_nan=False).encode  # NaN is no JSON


async def classify(models: Models, request: Received) -> dict[str, Any]:
    """What POST /predict answers, in the fields of schemas.Prediction or schemas.Predictions."""
    wanted = await form.parse(request)
    return await classification.classify(require(models.get(wanted.model), "classify"), wanted)


async def embed(models: Models, request: Received) -> dict[str, Any]:
    """What POST /embed answers, in the fields of schemas.Embeddings."""
    wanted = await form.parse_embed(request)
    return await embedding.embed(require(models.get(wanted.model), "embed"), wanted)


async def answer(models: Models, request: Received | Refused, work: Work) -> Response:
    """The answer that the work becomes, or an error."""
    if isinstance(request, Refused):
        return errors.response(request.error, request.request_id)
    try:
        content = await work(models, request)
    except errors.RequestError as error:
        return errors.response(error, request.request_id)
    except Busy:
        return errors.response(errors.busy(), request.request_id)
    rows = content.get("predictions") or content.get("embeddings") or ()
    many = len(rows) > _QUICK_ROWS
    text = await asyncio.to_thread(_to_json, content) if many else _to_json(content)
    return Response(text.encode(), media_type="application/json")
