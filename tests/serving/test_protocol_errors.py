"""Every way to be wrong in the Open Inference Protocol: one sentence, in the protocol's own shape."""

import gzip
import json
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from serving import limits, protocol
from serving.batching import Busy
from serving.engine import Engine
from serving.errors import RequestError
from serving.models import Models
from tests.bundles import SIZE
from tests.pictures import RED, declared_png, plain
from tests.tensors import (
    GOOD,
    INFER,
    LENGTH,
    binary,
    binary_images,
    encoded,
    entry,
    pictures,
    refusal,
)


@pytest.mark.parametrize(
    ("request_", "status", "code", "words"),
    [
        ({}, 400, "which_input", "0 inputs; send 'images' (pixels) or 'encoded'"),
        ({"inputs": [GOOD, GOOD]}, 400, "which_input", "2 inputs"),
        ({"inputs": [GOOD, encoded(plain(RED))]}, 400, "which_input", "2 inputs"),
        ({"inputs": [{**GOOD, "name": "x"}]}, 400, "unknown_input", "'x'; choose from ['images', 'encoded']"),
        ({"inputs": [{**GOOD, "datatype": "FP32"}]}, 400, "wrong_datatype", "'FP32'; it must be 'UINT8'"),
        ({"inputs": [{**encoded(b""), "datatype": "UINT8"}]}, 400, "wrong_datatype", "must be 'BYTES'"),
        ({"inputs": [entry(pictures(RED, size=28))]}, 400, "wrong_shape", "[1, 28, 28, 3]; it must be [-1, 32, 32, 3]"),
        ({"inputs": [{**GOOD, "shape": [SIZE, SIZE, 3]}]}, 400, "wrong_shape", "[32, 32, 3]"),
        ({"inputs": [{**GOOD, "shape": [0, SIZE, SIZE, 3]}]}, 400, "wrong_shape", "1 or more images"),
        ({"inputs": [{**encoded(b""), "shape": [1, 1]}]}, 400, "wrong_shape", "it must be [-1]"),
        ({"inputs": [{**GOOD, "shape": [2, SIZE, SIZE, 3]}]}, 400, "wrong_size", "3072 values; its shape"),
        ({"inputs": [{**GOOD, "shape": [2**63 - 1, SIZE, SIZE, 3]}]}, 400, "wrong_size", "3072 values"),
        ({"inputs": [{**GOOD, "shape": [2**63, SIZE, SIZE, 3]}]}, 400, "malformed_request", "whole numbers"),
        ({"inputs": [{**GOOD, "shape": [10**4299, SIZE, SIZE, 3]}]}, 400, "malformed_request", "whole numbers"),
        ({"inputs": [{**GOOD, "shape": [-1, SIZE, SIZE, 3]}]}, 400, "malformed_request", "whole numbers"),
        ({"inputs": [{**GOOD, "shape": [True, SIZE, SIZE, 3]}]}, 400, "malformed_request", "whole numbers"),
        ({"inputs": [{**GOOD, "shape": "all"}]}, 400, "malformed_request", "'shape' is 'all'"),
        ({"inputs": [{**GOOD, "data": [256] * 3072}]}, 400, "wrong_value", "0 to 255"),
        ({"inputs": [{**GOOD, "data": [-1] * 3072}]}, 400, "wrong_value", "0 to 255"),
        ({"inputs": [{**GOOD, "data": [0.5] * 3072}]}, 400, "wrong_value", "0 to 255"),
        ({"inputs": [{**GOOD, "data": ["1"] * 3072}]}, 400, "wrong_value", "0 to 255"),
        ({"inputs": [{**GOOD, "data": [[1] * 3072]}]}, 400, "malformed_request", "not nested"),
        ({"inputs": [{**GOOD, "data": [[1], 2]}]}, 400, "malformed_request", "not nested"),
        ({"inputs": [{**GOOD, "data": []}]}, 400, "wrong_size", "0 values"),
        ({"inputs": [{**GOOD, "data": "x"}]}, 400, "malformed_request", "'data' is 'x'"),
        ({"inputs": [{**encoded(b""), "data": [1]}]}, 400, "malformed_request", "base64 strings"),
        ({"inputs": [{**encoded(b""), "data": []}]}, 400, "malformed_request", "base64 strings"),
        ({"inputs": [{**encoded(b""), "data": ["é"]}]}, 422, "not_base64", "element 0 of 'encoded'"),
        ({"inputs": [encoded(plain(RED), b"text")]}, 415, "not_an_image", "element 1 of 'encoded': "),
        ({"inputs": [encoded(plain(RED), b"")]}, 415, "not_an_image", "element 1 of 'encoded': "),
        ({"inputs": [encoded(declared_png(50_000, 50_000))]}, 413, "too_many_pixels", "element 0"),
        ({"inputs": [encoded(*[b"x"] * 257)]}, 413, "too_many_images", "257 images; send at most 256"),
        ({"inputs": "x"}, 400, "malformed_request", "'inputs' is 'x'"),
        ({"inputs": [1]}, 400, "malformed_request", "an input is no object"),
        ({"inputs": [GOOD], "id": 7}, 400, "malformed_request", "'id' is 7, which is no str"),
        ({"inputs": [GOOD], "parameters": {"mode": 1}}, 400, "malformed_request", "'mode' is 1"),
        ({"inputs": [GOOD], "parameters": {"mode": "best"}}, 422, "unknown_mode", "unknown mode 'best'"),
        ({"inputs": [GOOD], "parameters": [1]}, 400, "malformed_request", "'parameters'"),
        ({"inputs": [GOOD], "parameters": {"binary_data_output": 1}}, 400, "malformed_request", "no bool"),
        ({"inputs": [GOOD], "outputs": [1]}, 400, "malformed_request", "an output is no object"),
        ({"inputs": [GOOD], "outputs": [{"name": "x"}]}, 400, "unknown_output", "'x'; choose from ['probabilities', "),
        ({"inputs": [GOOD], "outputs": [{"name": "copies"}] * 2}, 400, "twice", "'copies' is asked for twice"),
        ({"inputs": [{**GOOD, "parameters": {"shared_memory_region": "x"}}]}, 400, "no_shared_memory", "not offered"),
        ({"inputs": [{**GOOD, "parameters": {"binary_data_size": 4}}]}, 400, "malformed_request", "0 bytes of binary"),
        ({"inputs": [{**GOOD, "parameters": {"binary_data_size": 10**4299}}]}, 400, "malformed_request", "which is no"),
        ({"inputs": [GOOD], "parameters": {"mode": "x" * 1_000_000}}, 422, "unknown_mode", "unknown mode 'xxx"),
        ({"inputs": [{**GOOD, "parameters": {"binary_data_size": True}}]}, 400, "malformed_request", "which is no int"),
    ],
)  # fmt: skip
def test_bad_requests_are_one_sentence(
    client: TestClient, request_: dict[str, Any], status: int, code: str, words: str
):
    response = client.post(INFER, json=request_)
    assert refusal(response) == (status, code)
    assert words in response.json()["error"]
    assert len(response.json()["error"]) < 300


@pytest.mark.parametrize(
    ("classification", "code"),
    [
        (0, "invalid_classification"),
        (4, "invalid_classification"),
        pytest.param(10**4299, "malformed_request", id="huge"),
        ("1", "malformed_request"),
    ],
)
def test_classification_out_of_range(client: TestClient, classification: object, code: str):
    wanted = [{"name": "probabilities", "parameters": {"classification": classification}}]
    response = client.post(INFER, json={"inputs": [GOOD], "outputs": wanted})
    assert refusal(response) == (400, code)


def test_only_probabilities_are_classified(client: TestClient):
    wanted = [{"name": "per_transformation", "parameters": {"classification": 1}}]
    response = client.post(INFER, json={"inputs": [GOOD], "outputs": wanted})
    assert refusal(response) == (400, "not_classes")


@pytest.mark.parametrize(
    "body", [b"", b"text", b"[]", b"1", b"\xff", b'{"a":' * 100_000, b'{"inputs": [' + b"9" * 5000 + b"]}"]
)  # fmt: skip
def test_what_is_not_the_protocols_json(client: TestClient, body: bytes):
    assert refusal(client.post(INFER, content=body)) == (400, "malformed_request")


@pytest.mark.parametrize("length", ["-1", "0", "x", "1e3", "99999", "9" * 30, "²"])
def test_header_length_that_cannot_be(client: TestClient, length: str):
    request = binary_images(pictures(RED))
    headers = {LENGTH: length.encode("latin-1", "replace")}
    response = client.post(INFER, content=request["content"], headers=headers)
    assert refusal(response) == (400, "malformed_request")


def test_binary_data_of_another_size_than_they_say(client: TestClient):
    images = pictures(RED)
    request = binary_images(images)
    for content in (request["content"][:-1], request["content"] + b"x"):
        response = client.post(INFER, content=content, headers=request["headers"])
        assert refusal(response) == (400, "malformed_request")
    described = entry(images, parameters={"binary_data_size": 3071})
    response = client.post(INFER, **binary({"inputs": [described]}, images.tobytes()[:-1]))
    assert refusal(response) == (400, "wrong_size")


@pytest.mark.parametrize(
    "elements", [b"", b"\1\0\0", b"\1\0\0\0", b"\1\0\0\0ab", b"\xff\xff\xff\xffa", b"\0\0\0\0" * 2]
)
def test_elements_of_another_length_than_they_say(client: TestClient, elements: bytes):
    head = {"name": "encoded", "datatype": "BYTES", "shape": [1]}
    head["parameters"] = {"binary_data_size": len(elements)}
    response = client.post(INFER, **binary({"inputs": [head]}, elements))
    assert refusal(response) == (400, "malformed_request")


@pytest.mark.parametrize("encoding", ["br", "zstd", "x" * 300])
def test_unknown_encoding_lists_the_known_ones(client: TestClient, encoding: str):
    response = client.post(INFER, content=b"x", headers={"content-encoding": encoding})
    assert refusal(response) == (415, "unknown_encoding")
    assert "['gzip', 'deflate']" in response.json()["error"]


def test_votes_of_very_many_images_are_refused(client: TestClient):
    images = np.zeros((limits.MAX_IMAGES + 1, SIZE, SIZE, 3), np.uint8)
    for name in ("copies", "per_transformation"):
        wanted = [{"name": name, "parameters": {"binary_data": True}}]
        response = client.post(INFER, **binary_images(images, outputs=wanted))
        assert refusal(response) == (413, "too_many_images")


def test_copies_and_classes_of_very_many_images_are_refused(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
):
    images = np.zeros((50, SIZE, SIZE, 3), np.uint8)
    monkeypatch.setattr(limits, "MAX_COPIES_BYTES", 49 * 4 * SIZE * SIZE * 3)
    shown = [{"name": "copies", "parameters": {"binary_data": True}}]
    response = client.post(INFER, **binary_images(images, outputs=shown))
    assert refusal(response) == (413, "too_many_images")
    assert client.post(INFER, **binary_images(images[1:], outputs=shown)).is_success
    monkeypatch.setattr(protocol, "MAX_JSON_VALUES", 149)
    three = [{"name": "probabilities", "parameters": {"classification": 3}}]
    response = client.post(INFER, **binary_images(images, outputs=three))
    assert refusal(response) == (413, "too_many_classes")
    assert client.post(INFER, **binary_images(images[1:], outputs=three)).is_success


def test_very_many_values_are_given_as_binary_data_only(client: TestClient):
    images = np.zeros((50, SIZE, SIZE, 3), np.uint8)
    for binary_data in (True, False):
        wanted = [{"name": "copies", "parameters": {"binary_data": binary_data}}]
        response = client.post(INFER, **binary_images(images, outputs=wanted))
        assert (response.status_code == 200) == binary_data
    assert refusal(response) == (413, "too_much_json")
    assert "ask for it as binary data" in response.json()["error"]


def test_request_that_is_too_large(client: TestClient):
    body = bytes(limits.MAX_REQUEST_BYTES + 1)
    assert refusal(client.post(INFER, content=body)) == (413, "too_large")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("other", "unknown_model"),
        ("other-distilled", "unknown_model"),
        ("colours-best", "unknown_model"),
        ("colours-", "unknown_model"),
        ("-distilled", "unknown_model"),
        ("distilled", "unknown_model"),
        ("colours/versions/2", "unknown_version"),
        ("colours-single/versions/01", "unknown_version"),
    ],
)
def test_unknown_model_and_version(client: TestClient, name: str, code: str):
    path = f"/v2/models/{name}"
    requests = (
        client.get(path),
        client.get(f"{path}/ready"),
        client.post(f"{path}/infer", json={}),
    )
    for response in requests:
        assert refusal(response) == (404, code)
    known = "['colours']" if code == "unknown_model" else "'1'"
    assert known in response.json()["error"]


def test_mode_in_the_name_and_another_one_in_a_parameter(client: TestClient):
    for mode, status in (("single", 200), ("aggregated", 400)):
        request = {"inputs": [GOOD], "parameters": {"mode": mode}}
        response = client.post("/v2/models/colours-single/infer", json=request)
        assert response.status_code == status
    assert refusal(response) == (400, "contradictory_fields")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", INFER, 405),
        ("POST", "/v2", 405),
        ("POST", "/v2/models/colours", 405),
        ("DELETE", "/v2/health/live", 405),
        ("GET", "/v2/models", 404),
        ("GET", "/v2/models/colours/config", 404),
        ("GET", "/v2/models/a/b/c/infer", 404),
        ("GET", "/v2/models//infer", 404),
        ("GET", "/v2/nothing", 404),
    ],
)
def test_wrong_addresses_have_the_protocols_shape(
    client: TestClient, method: str, path: str, status: int
):
    response = client.request(method, path)
    assert refusal(response)[0] == status
    assert ("allow" in response.headers) == (status == 405)


def test_request_id_is_kept(client: TestClient):
    for path in ("/v2", "/v2/models/none", "/v2/nothing"):
        assert client.get(path, headers={"x-request-id": "a-1"}).headers["x-request-id"] == "a-1"


def test_busy_server_says_when_to_come_again(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    async def busy(*arguments: object, **options: object) -> None:
        raise Busy

    monkeypatch.setattr(Engine, "answer", busy)
    response = client.post(INFER, json={"inputs": [GOOD]})
    assert refusal(response) == (503, "unavailable")
    assert response.headers["retry-after"]


def test_fault_of_the_server_says_nothing_else(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    async def broken(*arguments: object, **options: object) -> None:
        raise OSError("/secret/path")

    monkeypatch.setattr(Engine, "answer", broken)
    response = client.post(INFER, json={"inputs": [GOOD]})
    assert refusal(response) == (500, "internal_error")
    assert "secret" not in response.text


def test_server_without_a_model_is_not_ready():
    with pytest.raises(RequestError) as found:
        protocol._ready(Models(), {})
    assert found.value.status == 503


def test_odd_texts_do_no_harm(client: TestClient):
    odd = "\ud800 \0 é"
    request = {"id": odd, "inputs": [GOOD], "parameters": {"something": {"else": [1]}}}
    response = client.post(INFER, content=json.dumps(request))
    assert response.json()["id"] == odd
    request["outputs"] = [{"name": odd}]
    response = client.post(INFER, content=json.dumps(request))
    assert refusal(response) == (400, "unknown_output")
    assert client.get("/v2/models/%ff%00é/ready").status_code == 404


@pytest.mark.parametrize("part", [b"0,", b"[],", b"{},"])
def test_json_of_too_many_values_is_refused_unread(
    client: TestClient, part: bytes, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(json, "loads", None)
    body = b'{"inputs": [], "x": [' + part * 3_000_001 + b"0]}"
    for sent, headers in ((body, {}), (gzip.compress(body), {"content-encoding": "gzip"})):
        response = client.post(INFER, content=sent, headers=headers)
        assert response.status_code == 413
        assert "send the tensor as binary data" in response.text


def test_what_comes_after_a_compressed_body_is_refused(client: TestClient):
    body = gzip.compress(json.dumps({"inputs": [GOOD]}).encode())
    headers = {"content-encoding": "gzip"}
    assert client.post(INFER, content=body, headers=headers).status_code == 200
    response = client.post(INFER, content=body + body, headers=headers)
    assert response.status_code == 400
    assert "something comes after the gzip body" in response.json()["error"]


@pytest.mark.parametrize("encoding", ["Identity", "identity", ""])
def test_body_that_is_not_compressed_may_say_so(client: TestClient, encoding: str):
    body = json.dumps({"inputs": [GOOD]})
    response = client.post(INFER, content=body, headers={"content-encoding": encoding})
    assert response.status_code == 200
