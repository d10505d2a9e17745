"""The Open Inference Protocol's part of the server's OpenAPI document, in brief: the protocol has a text of its own.

Its model repository extension is described here as well.
"""

from typing import Any

from serving.limits import MAX_REQUEST_BYTES
from serving.repository_endpoints import INDEX, LOAD, UNLOAD

_TEXT, _OBJECT = {"type": "string"}, {"type": "object"}
_MODEL = {
    "name": "model",
    "in": "path",
    "required": True,
    "schema": _TEXT,
    "description": "the name of a model, which is its default mode, or NAME-MODE",
}
_TENSOR = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {**_TEXT, "description": "images (UINT8), or encoded (BYTES: picture files)"},
        "datatype": _TEXT,
        "shape": {"type": "array", "items": {"type": "integer"}},
        "data": {"type": "array", "description": "flat or nested; none where binary data follow"},
        "parameters": _OBJECT,
    },
}
_REQUEST = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": _TEXT,
        "parameters": {"type": "object", "properties": {"mode": _TEXT}},
        "inputs": {"type": "array", "minItems": 1, "maxItems": 1, "items": _TENSOR},
        "outputs": {"type": "array", "items": _OBJECT},
    },
}
_ERROR = {"type": "object", "required": ["error"], "properties": {"error": _TEXT}}


def paths() -> dict[str, Any]:
    """The addresses; each is there with /versions/1 after the model's name as well."""
    infer = {
        "operationId": "infer",
        "summary": "Tensors in, tensors out: the Open Inference Protocol",
        "description": "Binary tensors behind the JSON, after Inference-Header-Content-Length bytes, are taken and "
        f"given. Up to {MAX_REQUEST_BYTES // 1024**2} MiB.",
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _REQUEST},
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            },
        },
        "responses": _responses("application/json", "application/octet-stream"),
    }
    named = {"parameters": [_MODEL]}
    return {
        "/v2": {"get": _get("What is this server, and what can it do?")},
        "/v2/health/live": {"get": _get("Is the process alive?")},
        "/v2/health/ready": {"get": _get("Is a model loaded?")},
        "/v2/models/{model}": {**named, "get": _get("What does a model take and give?")},
        "/v2/models/{model}/ready": {**named, "get": _get("Is a model loaded?")},
        "/v2/models/{model}/infer": {**named, "post": infer},
        **_repository(),
    }


def _repository() -> dict[str, Any]:
    """The addresses of the model repository extension."""
    name = {"name": "name", "in": "path", "required": True, "schema": _TEXT}
    named = {"parameters": [{**name, "description": "the name of a model in the folder"}]}
    off = "403 unless the server was started with --allow-load."
    return {
        INDEX: {
            "post": {
                "operationId": "index",
                "summary": "Which models are there, and who serves them?",
                "requestBody": {
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "properties": {
                                    "ready": {
                                        "type": "boolean",
                                        "description": "only what is served",
                                    }
                                },
                            }
                        }
                    }
                },
                "responses": _responses("application/json"),
            }
        },
        LOAD: {**named, "post": _change("load", "Serve a model, or load it again", off)},
        UNLOAD: {**named, "post": _change("unload", "Serve a model no more", off)},
    }


def _change(operation: str, summary: str, description: str) -> dict[str, Any]:
    return {
        "operationId": operation,
        "summary": summary,
        "description": description,
        "responses": _responses("application/json"),
    }


def _get(summary: str) -> dict[str, Any]:
    return {"summary": summary, "responses": _responses("application/json")}


def _responses(*kinds: str) -> dict[str, Any]:
    good = {"description": "the answer", "content": {kind: {"schema": _OBJECT} for kind in kinds}}
    fault = {"application/json": {"schema": _ERROR}}
    return {
        "200": good,
        "default": {"description": "what was wrong and what to do", "content": fault},
    }
