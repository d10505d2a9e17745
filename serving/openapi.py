"""The OpenAPI document of the server, GET /docs.json, with the modes and classes of what is loaded."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic.json_schema import models_json_schema

from serving import schemas
from serving.limits import MAX_REQUEST_BYTES

_REFERENCE = "#/components/schemas/{model}"
_MODELS = (schemas.Prediction, schemas.Models, schemas.ErrorAnswer)


def document(description: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI 3.1 for a server of one model.

    description: what model.describe says.
    """
    _, definitions = models_json_schema(
        [(model, "serialization") for model in _MODELS], ref_template=_REFERENCE
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"viewfold: {description['name']}",
            "version": _version(),
            "description": "An image in, its class out: in one forward pass, or in several.",
        },
        "paths": {
            "/predict": {"post": _predict(description)},
            "/models": {"get": _get("What is loaded", _json("Models"))},
            "/livez": {"get": _get("Is the process alive?", _text())},
            "/readyz": {"get": _get("Is the model loaded?", _text())},
            "/metrics": {"get": _get("Metrics for Prometheus", _text())},
        },
        "components": {"schemas": definitions["$defs"]},
    }


def _predict(description: dict[str, Any]) -> dict[str, Any]:
    options = {
        "mode": {
            "type": "string",
            "enum": list(description["modes"]),
            "default": description["default_mode"],
            "description": "how to answer; GET /models says what each mode costs and is worth",
        },
        "top_k": {
            "type": "integer",
            "minimum": 1,
            "maximum": len(description["classes"]),
            "description": "how many classes to name",
        },
    }
    image = {"type": "string", "format": "binary", "description": "an encoded image"}
    form = {"type": "object", "required": ["image"], "properties": {"image": image, **options}}
    return {
        "operationId": "predict",
        "summary": "What does an image show?",
        "description": (
            f"JPEG, PNG, WebP, GIF, TIFF, ... up to {MAX_REQUEST_BYTES // 1024**2} MiB; the bytes decide "
            "what it is, not the declared type. Options go into the query or beside the image in a form."
        ),
        "parameters": [
            {"name": name, "in": "query", "schema": schema} for name, schema in options.items()
        ],
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": form},
                "application/octet-stream": {"schema": image},
            },
        },
        "responses": _responses(_json("Prediction"), "400", "413", "415", "422"),
    }


def _get(summary: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"summary": summary, "responses": _responses(content)}


def _responses(content: dict[str, Any], *faults: str) -> dict[str, Any]:
    error = {"description": "what was wrong and what to do", "content": _json("ErrorAnswer")}
    good = {"description": "the answer", "content": content}
    return {"200": good, **dict.fromkeys(faults, error), "default": error}


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REFERENCE.format(model=name)}}}


def _text() -> dict[str, Any]:
    return {"text/plain": {"schema": {"type": "string"}}}


def _version() -> str:
    try:
        return version("viewfold")
    except PackageNotFoundError:  # a Bento holds the source, not the installed distribution
        return "0"
