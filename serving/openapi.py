"""The OpenAPI document of the server, GET /docs.json, with the modes, and classes or dimensions, of what is loaded."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic.json_schema import models_json_schema

from serving import protocol_openapi, schemas
from serving.limits import MAX_IMAGES, MAX_REQUEST_BYTES
from serving.model import ADDRESSES

_REFERENCE = "#/components/schemas/{model}"
_MODELS = (
    schemas.Prediction,
    schemas.Predictions,
    schemas.Embeddings,
    schemas.Models,
    schemas.ErrorAnswer,
)
_ABOUT = {
    "classify": "An image in, its class out: in one forward pass, or in several.",
    "embed": "Images in, a vector for each out: alike images have vectors of like direction.",
}
_IMAGE = {"type": "string", "format": "binary", "description": "an encoded image"}
_IMAGES = {"type": "array", "minItems": 1, "maxItems": MAX_IMAGES, "items": _IMAGE}
_BASE64 = {"type": "string", "contentEncoding": "base64"}
_EXPLAIN = {
    "type": "string",
    "enum": ["false", "true", "copies"],
    "default": "false",
    "description": "what each transformed copy votes; with copies, as pictures too",
}
_TAKES = (
    f"JPEG, PNG, WebP, GIF, TIFF, ... up to {MAX_REQUEST_BYTES // 1024**2} MiB; the bytes decide "
    "what it is, not the declared type. Options go into the query or beside the image. "
    f"Up to {MAX_IMAGES} images in several parts of a form, in a zip or as JSON are answered in their order, and one "
    "that cannot be used spoils nothing."
)
_FAULTS = ("400", "413", "415", "422")


def document(*models: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI 3.1 for a server of these models.

    models: what model.describe says of each.
    """
    tasks = sorted({model["task"] for model in models})
    _, definitions = models_json_schema(
        [(model, "serialization") for model in _MODELS], ref_template=_REFERENCE
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"viewfold: {', '.join(model['name'] for model in models) or 'nothing loaded'}",
            "version": own_version(),
            "description": " ".join(_ABOUT[task] for task in tasks),
        },
        "paths": {
            **{ADDRESSES[task]: {"post": _operation(task, models)} for task in tasks},
            "/models": {"get": _get("What is loaded", _json("Models"))},
            "/livez": {"get": _get("Is the process alive?", _text())},
            "/readyz": {"get": _get("Is the model loaded?", _text())},
            "/metrics": {"get": _get("Metrics for Prometheus", _text())},
            **protocol_openapi.paths(),
        },
        "components": {"schemas": definitions["$defs"]},
    }


def _operation(task: str, models: Sequence[dict[str, Any]]) -> dict[str, Any]:
    of_task = [model for model in models if model["task"] == task]
    choice = {"mode": _mode(of_task)}
    if len(models) > 1:
        names = [model["name"] for model in of_task]
        choice["model"] = {"type": "string", "enum": names, "description": "which model"}
    return _OPERATIONS[task](of_task, choice)


def _predict(models: Sequence[dict[str, Any]], choice: dict[str, Any]) -> dict[str, Any]:
    top_k = {
        "type": "integer",
        "minimum": 1,
        "maximum": max(len(model["classes"]) for model in models),
        "description": "how many classes to name",
    }
    return {
        "operationId": "predict",
        "summary": "What does an image show?",
        "description": _TAKES,
        **_request({**choice, "top_k": top_k, "explain": _EXPLAIN}),
        "responses": _responses(_json("Prediction", "Predictions"), *_FAULTS),
    }


def _embed(models: Sequence[dict[str, Any]], choice: dict[str, Any]) -> dict[str, Any]:
    normalize = {
        "type": "boolean",
        "default": False,
        "description": "whether to scale every vector to length 1",
    }
    return {
        "operationId": "embed",
        "summary": "Which vector stands for an image?",
        "description": _TAKES,
        **_request({**choice, "normalize": normalize}),
        "responses": _responses(_json("Embeddings"), *_FAULTS),
    }


_OPERATIONS = {"classify": _predict, "embed": _embed}


def _mode(models: Sequence[dict[str, Any]]) -> dict[str, Any]:
    mode: dict[str, Any] = {
        "type": "string",
        "enum": list(dict.fromkeys(mode for model in models for mode in model["modes"])),
        "description": "how to answer; GET /models says what each mode costs and is worth",
    }
    return {**mode, "default": models[0]["default_mode"]} if len(models) == 1 else mode


def _request(options: dict[str, Any]) -> dict[str, Any]:
    """Options in the query, in a form or in JSON; images in the form, as the body, in a zip or in JSON."""
    form = {"type": "object", "required": ["image"], "properties": {"image": _IMAGES, **options}}
    texts = {"images": {"type": "array", "maxItems": MAX_IMAGES, "items": _BASE64}}
    listed = {"type": "object", "required": ["images"], "properties": {**texts, **options}}
    content = {
        "multipart/form-data": {"schema": form},
        "application/octet-stream": {"schema": _IMAGE},
        "application/zip": {"schema": {"type": "string", "format": "binary"}},
        "application/json": {"schema": {"oneOf": [listed, texts["images"]]}},
    }
    return {
        "parameters": [
            {"name": name, "in": "query", "schema": schema} for name, schema in options.items()
        ],
        "requestBody": {"required": True, "content": content},
    }


def _get(summary: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"summary": summary, "responses": _responses(content)}


def _responses(content: dict[str, Any], *faults: str) -> dict[str, Any]:
    error = {"description": "what was wrong and what to do", "content": _json("ErrorAnswer")}
    good = {"description": "the answer", "content": content}
    return {"200": good, **dict.fromkeys(faults, error), "default": error}


def _json(*names: str) -> dict[str, Any]:
    references = [{"$ref": _REFERENCE.format(model=name)} for name in names]
    schema = references[0] if len(references) == 1 else {"oneOf": references}
    return {"application/json": {"schema": schema}}


def _text() -> dict[str, Any]:
    return {"text/plain": {"schema": {"type": "string"}}}


def own_version() -> str:
    """The version of viewfold that serves."""
    try:
        return version("viewfold")
    except PackageNotFoundError:  # a Bento holds the source, not the installed distribution
        return "0"
