"""The OpenAPI document of the server, GET /docs.json, with the modes, and classes or dimensions, of what is loaded."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic.json_schema import models_json_schema

from serving import schemas
from serving.limits import MAX_IMAGES, MAX_REQUEST_BYTES
from serving.model import ADDRESSES

_REFERENCE = "#/components/schemas/{model}"
_MODELS = (schemas.Prediction, schemas.Embeddings, schemas.Models, schemas.ErrorAnswer)
_ABOUT = {
    "classify": "An image in, its class out: in one forward pass, or in several.",
    "embed": "Images in, a vector for each out: alike images have vectors of like direction.",
}
_IMAGE = {"type": "string", "format": "binary", "description": "an encoded image"}
_TAKES = (
    f"JPEG, PNG, WebP, GIF, TIFF, ... up to {MAX_REQUEST_BYTES // 1024**2} MiB; the bytes decide "
    "what it is, not the declared type. Options go into the query or beside the image in a form."
)
_FAULTS = ("400", "413", "415", "422")


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
            "description": _ABOUT[description["task"]],
        },
        "paths": {
            ADDRESSES[description["task"]]: {"post": _OPERATIONS[description["task"]](description)},
            "/models": {"get": _get("What is loaded", _json("Models"))},
            "/livez": {"get": _get("Is the process alive?", _text())},
            "/readyz": {"get": _get("Is the model loaded?", _text())},
            "/metrics": {"get": _get("Metrics for Prometheus", _text())},
        },
        "components": {"schemas": definitions["$defs"]},
    }


def _predict(description: dict[str, Any]) -> dict[str, Any]:
    top_k = {
        "type": "integer",
        "minimum": 1,
        "maximum": len(description["classes"]),
        "description": "how many classes to name",
    }
    return {
        "operationId": "predict",
        "summary": "What does an image show?",
        "description": _TAKES,
        **_request({"mode": _mode(description), "top_k": top_k}, _IMAGE),
        "responses": _responses(_json("Prediction"), *_FAULTS),
    }


def _embed(description: dict[str, Any]) -> dict[str, Any]:
    normalize = {
        "type": "boolean",
        "default": False,
        "description": "whether to scale every vector to length 1",
    }
    images = {"type": "array", "minItems": 1, "maxItems": MAX_IMAGES, "items": _IMAGE}
    return {
        "operationId": "embed",
        "summary": "Which vector stands for an image?",
        "description": (
            f"{_TAKES} A form may hold up to {MAX_IMAGES} images; their vectors come in the same order. One image "
            "that cannot be used makes the whole request an error, which names it."
        ),
        **_request({"mode": _mode(description), "normalize": normalize}, images),
        "responses": _responses(_json("Embeddings"), *_FAULTS),
    }


_OPERATIONS = {"classify": _predict, "embed": _embed}


def _mode(description: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "string",
        "enum": list(description["modes"]),
        "default": description["default_mode"],
        "description": "how to answer; GET /models says what each mode costs and is worth",
    }


def _request(options: dict[str, Any], image: dict[str, Any]) -> dict[str, Any]:
    """Options in the query or in a form; the image in the form, or one as the body."""
    form = {"type": "object", "required": ["image"], "properties": {"image": image, **options}}
    content = {
        "multipart/form-data": {"schema": form},
        "application/octet-stream": {"schema": _IMAGE},
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


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REFERENCE.format(model=name)}}}


def _text() -> dict[str, Any]:
    return {"text/plain": {"schema": {"type": "string"}}}


def _version() -> str:
    try:
        return version("viewfold")
    except PackageNotFoundError:  # a Bento holds the source, not the installed distribution
        return "0"
