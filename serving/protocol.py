"""The Open Inference Protocol, version 2: what tritonclient's and KServe's clients ask; docs/protocol.md is their side.

With Triton's binary tensors and classification. Every mode of a model is a model of its own to such clients.
"""

import asyncio
from collections.abc import Callable, Mapping
from math import prod
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope

from serving import errors, form, openapi, protocol_models
from serving.addresses import PROTOCOL
from serving.batching import Busy
from serving.engine import Answer
from serving.errors import RequestError
from serving.limits import MAX_IMAGES, MAX_JSON_VALUES
from serving.manifest import ANSWERS, COPIES, PROBABILITIES, VOTES
from serving.model import Model
from serving.models import Models
from serving.protocol_inputs import pixels
from serving.protocol_models import Named
from serving.protocol_request import InferRequest, Output, decompressed, read
from serving.protocol_response import HEADER_LENGTH, Tensor, classified, response

Names = Mapping[str, str]  # those in the address

EXTENSIONS = ["binary_tensor_data", "classification", "model_repository", "parameters"]


async def answer(models: Models, scope: Scope, receive: Receive) -> Response:
    """The answer to a request for one of ADDRESSES. scope: `path` is the template, `path_params` the names in it."""
    describe = _DESCRIBE.get(scope["path"])
    allowed = ("POST",) if describe is None else ("GET", "HEAD")
    try:
        if scope["method"] not in allowed:
            raise errors.from_status(405)
        if describe is not None:
            return JSONResponse(describe(models, scope["path_params"]))
        return await _infer(models, scope, receive)
    except RequestError as found:
        error = found
    except Busy:
        error = errors.busy()
    refusal = errors.response(error, scope[errors.REQUEST_ID], as_text=True)
    if error.status == 405:
        refusal.headers["allow"] = ", ".join(allowed)
    return refusal


def _server(models: Models, names: Names) -> dict[str, Any]:
    return {"name": "viewfold", "version": openapi.own_version(), "extensions": EXTENSIONS}


def _live(models: Models, names: Names) -> dict[str, Any]:
    return {"live": True}


def _ready(models: Models, names: Names) -> dict[str, Any]:
    if not models.all:
        raise errors.from_status(503)
    return {"ready": True}


def _model(models: Models, names: Names) -> dict[str, Any]:
    return protocol_models.metadata(_named(models, names))


def _model_ready(models: Models, names: Names) -> dict[str, Any]:
    return {"name": _named(models, names).name, "ready": True}


def _named(models: Models, names: Names) -> Named:
    return protocol_models.find(models, names["model"], names.get("version"))


_MODELS = (f"{PROTOCOL}/models/{{model}}", f"{PROTOCOL}/models/{{model}}/versions/{{version}}")
_DESCRIBE: Mapping[str, Callable[[Models, Names], dict[str, Any]]] = {
    PROTOCOL: _server,
    f"{PROTOCOL}/health/live": _live,
    f"{PROTOCOL}/health/ready": _ready,
    **dict.fromkeys(_MODELS, _model),
    **{f"{path}/ready": _model_ready for path in _MODELS},
}
ADDRESSES = frozenset([*_DESCRIBE, *(f"{path}/infer" for path in _MODELS)])


async def _infer(models: Models, scope: Scope, receive: Receive) -> Response:
    named = _named(models, scope["path_params"])
    model, request = named.model, await _read(scope, receive)
    mode, wanted = protocol_models.mode_for(named, request.mode), _wanted(named.model, request)
    images = await pixels(request, model.predictor.spec, model.processors.decoder)
    _check_amount(model, wanted, len(images))
    found = await model.engine.answer(images, mode, explain=_explanation(wanted))
    said: dict[str, Any] = {} if request.id is None else {"id": request.id}
    said["model_name"] = named.name
    said["model_version"] = model.version
    said["parameters"] = {"mode": mode}
    return response(said, [_tensor(model, found, output) for output in wanted])


async def _read(scope: Scope, receive: Receive) -> InferRequest:
    headers = dict(scope["headers"])
    body = await form.read_body(headers, receive)
    encoding = headers.get(b"content-encoding", b"").decode("latin-1").strip()
    if encoding.lower() not in ("", "identity"):
        body = await asyncio.to_thread(decompressed, body, encoding)
    length = headers.get(HEADER_LENGTH.encode())
    return read(body, None if length is None else length.decode("latin-1"))


def _wanted(model: Model, request: InferRequest) -> tuple[Output, ...]:
    """What to answer: what is asked for, or else the answer itself."""
    known = protocol_models.outputs(model)
    if not request.outputs:
        return (Output(next(iter(known)), request.binary),)
    names = [output.name for output in request.outputs]
    for output in request.outputs:
        if output.name not in known:
            message = f"unknown output {output.name[:50]!r}; choose from {[*known]}"
            raise RequestError(400, "unknown_output", message)
        if names.count(output.name) > 1:
            raise RequestError(400, "twice", f"the output {output.name!r} is asked for twice")
        if output.classes is not None:
            _check_classes(model, output.name, output.classes)
    return request.outputs


def _check_classes(model: Model, name: str, count: int) -> None:
    most = len(model.predictor.manifest.classes)
    if name != PROBABILITIES:
        message = f"{name!r} cannot be classified; only {PROBABILITIES!r} can"
        raise RequestError(400, "not_classes", message)
    if not 1 <= count <= most:
        message = f"classification is {count}; it may be 1 to {most}"
        raise RequestError(400, "invalid_classification", message)


def _check_amount(model: Model, wanted: tuple[Output, ...], count: int) -> None:
    """Raise where the answer would be out of proportion. count: images."""
    known = protocol_models.outputs(model)
    for output in wanted:
        if output.name in (VOTES, COPIES) and count > MAX_IMAGES:
            message = (
                f"{output.name!r} of {count} images; ask for it with at most {MAX_IMAGES} a request"
            )
            raise RequestError(413, "too_many_images", message)
        if output.name == COPIES:
            copies = len(model.predictor.manifest.transformations)
            errors.require_few_shown(count, model.predictor.spec, copies)
        values = count * prod(size for size in known[output.name].shape if size is not None)
        if output.classes is not None:
            values = count * output.classes
            if values > MAX_JSON_VALUES:
                message = f"{values} classes of {count} images; {MAX_JSON_VALUES} may be asked for"
                raise RequestError(413, "too_many_classes", message)
        elif not output.binary and values > MAX_JSON_VALUES:
            message = (
                f"{output.name!r} has {values} values; as JSON there may be {MAX_JSON_VALUES}: "
                "ask for it as binary data"
            )
            raise RequestError(413, "too_much_json", message)


def _explanation(wanted: tuple[Output, ...]) -> str | None:
    """What the engine is to explain, for these outputs."""
    names = {output.name for output in wanted}
    return "copies" if COPIES in names else "votes" if VOTES in names else None


def _tensor(model: Model, found: Answer, output: Output) -> Tensor:
    if output.classes is not None:
        classes = model.predictor.manifest.classes
        return Tensor(output.name, classified(found.values, output.classes, classes), output.binary)
    values: Any = found.values
    if found.votes is not None and output.name != ANSWERS[model.predictor.manifest.task]:
        values = found.votes.probabilities if output.name == VOTES else found.votes.copies
    return Tensor(output.name, values, output.binary)
