"""Requests of the Open Inference Protocol for tests, and what comes back."""

import base64
import json
from typing import Any

import numpy as np

from tests.bundles import CLASSES, SIZE
from tests.pictures import RED

INFER = "/v2/models/colours/infer"
LENGTH = "inference-header-content-length"


def pictures(*colours: tuple[int, int, int], size: int = SIZE) -> np.ndarray[Any, Any]:
    """(n, size, size, 3) uint8, a picture of each colour."""
    return np.stack([np.full((size, size, 3), colour, np.uint8) for colour in colours])


def entry(images: np.ndarray[Any, Any], **changes: Any) -> dict[str, Any]:
    """The input `images` as JSON has it."""
    shape = [*images.shape]
    data = images.ravel().tolist()
    return {"name": "images", "datatype": "UINT8", "shape": shape, "data": data, **changes}


def encoded(*files: bytes) -> dict[str, Any]:
    texts = [base64.b64encode(file).decode() for file in files]
    return {"name": "encoded", "datatype": "BYTES", "shape": [len(files)], "data": texts}


def binary(head: dict[str, Any], *data: bytes) -> dict[str, Any]:
    """The arguments of a request with binary data behind its JSON."""
    text = json.dumps(head).encode()
    return {"content": b"".join([text, *data]), "headers": {LENGTH: str(len(text))}}


def binary_images(images: np.ndarray[Any, Any], **head: Any) -> dict[str, Any]:
    described = entry(images, parameters={"binary_data_size": images.nbytes})
    del described["data"]
    return binary({"inputs": [described], **head}, images.tobytes())


def outputs(response: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of an answer, by name, however they came."""
    assert response.status_code == 200, response.text
    size = int(response.headers.get(LENGTH, len(response.content)))
    rest = response.content[size:]
    found = {}
    for one in json.loads(response.content[:size])["outputs"]:
        dtype = {"FP32": "<f4", "UINT8": "u1", "BYTES": object}[one["datatype"]]
        if "data" in one:
            values = np.array(one["data"], dtype)
        else:
            length = one["parameters"]["binary_data_size"]
            values, rest = np.frombuffer(rest[:length], dtype), rest[length:]
        found[one["name"]] = values.reshape(one["shape"])
    assert rest == b""
    return found


def labels(probabilities: np.ndarray[Any, Any]) -> list[str]:
    return [CLASSES[place] for place in probabilities.argmax(1)]


def refusal(response: Any) -> tuple[int, str]:
    """Status and code of an error, whose shape is checked on the way."""
    assert response.status_code >= 400
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error"}
    assert isinstance(response.json()["error"], str)
    assert response.headers["x-request-id"]
    return response.status_code, response.headers["x-error-code"]


GOOD = entry(pictures(RED))
