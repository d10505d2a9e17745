"""The Open Inference Protocol as its text has it, without a client library: JSON and binary data."""

import asyncio
import gzip
import json
import struct
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from serving import limits, model, protocol_inputs, protocol_models, protocol_request
from serving.bundle import read
from serving.engine import Processors
from serving.errors import RequestError
from serving.images import ImageSpec
from serving.models import Models
from serving.settings import Settings
from tests import pictures as files
from tests.bundles import CLASSES, SIZE, TURNS, write_bundle, write_embedder, write_manifest
from tests.pictures import BLUE, COLOURS, GREEN, RED, plain
from tests.tensors import (
    INFER,
    LENGTH,
    binary,
    binary_images,
    encoded,
    entry,
    labels,
    outputs,
    pictures,
    refusal,
)


def test_what_the_server_says_of_itself(client: TestClient):
    said = client.get("/v2").json()
    assert (said["name"], set(said)) == ("viewfold", {"name", "version", "extensions"})
    assert {"binary_tensor_data", "classification"} <= set(said["extensions"])
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.head("/v2/health/live").status_code == 200
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/colours/ready").json() == {"name": "colours", "ready": True}


@pytest.mark.parametrize("name", ["colours", "colours-distilled", "colours-aggregated"])
@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_every_mode_is_a_model(client: TestClient, name: str, version: str):
    said = client.get(f"/v2/models/{name}{version}").json()
    assert (said["name"], said["versions"], said["platform"]) == (name, ["1"], "onnxruntime_onnx")
    assert said["inputs"] == [
        {"name": "images", "datatype": "UINT8", "shape": [-1, SIZE, SIZE, 3]},
        {"name": "encoded", "datatype": "BYTES", "shape": [-1]},
    ]
    assert said["outputs"] == [
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "per_transformation", "datatype": "FP32", "shape": [-1, TURNS, 3]},
        {"name": "copies", "datatype": "UINT8", "shape": [-1, TURNS, SIZE, SIZE, 3]},
    ]
    answer = client.post(
        f"/v2/models/{name}{version}/infer", json={"inputs": [entry(pictures(RED))]}
    )
    assert answer.json()["model_name"] == name
    assert answer.json()["parameters"] == {"mode": name.partition("-")[2] or "distilled"}


def test_pixels_as_json_flat_and_nested(client: TestClient):
    images = pictures(RED, GREEN, BLUE)
    for data in (images.ravel().tolist(), images.tolist()):
        response = client.post(INFER, json={"id": "7", "inputs": [entry(images, data=data)]})
        assert response.headers["content-type"] == "application/json"
        said = response.json()
        assert (said["id"], said["model_name"], said["model_version"]) == ("7", "colours", "1")
        assert labels(outputs(response)["probabilities"]) == ["red", "green", "blue"]


def test_pixels_as_binary_data_give_what_predict_gives(client: TestClient):
    images = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)
    response = client.post(INFER, **binary_images(images, parameters={"binary_data_output": True}))
    assert response.headers["content-type"] == "application/octet-stream"
    assert "id" not in json.loads(response.content[: int(response.headers[LENGTH])])
    found = outputs(response)["probabilities"]
    for row, picture in zip(found, images, strict=True):
        answer = client.post(
            "/predict?top_k=3", content=files.encoded(Image.fromarray(picture))
        ).json()
        top = {one["label"]: one["probability"] for one in answer["top"]}
        np.testing.assert_allclose(row, [top[label] for label in CLASSES], atol=1e-6)


def test_pixels_are_a_view_of_the_body(processors: Processors):
    request = binary_images(pictures(RED, BLUE))
    asked = protocol_request.read(request["content"], request["headers"][LENGTH])
    spec = ImageSpec(SIZE, SIZE, "crop", "bicubic")
    found = asyncio.run(protocol_inputs.pixels(asked, spec, processors.decoder))
    assert np.shares_memory(found, np.frombuffer(request["content"], np.uint8))
    np.testing.assert_array_equal(found, pictures(RED, BLUE))


def test_more_images_than_go_through_a_network_at_a_time_and_than_files_may_be(client: TestClient):
    count = 3 * limits.MAX_IMAGES
    images = np.repeat(pictures(RED, BLUE), count // 2, axis=0)
    found = outputs(client.post(INFER, **binary_images(images)))["probabilities"]
    assert labels(found) == ["red"] * (count // 2) + ["blue"] * (count // 2)


def test_files_as_json_and_as_binary_data(client: TestClient):
    files = [plain(GREEN, "JPEG", size=90), plain(RED), plain(BLUE, size=1)]
    elements = b"".join(struct.pack("<I", len(file)) + file for file in files)
    head = {"name": "encoded", "datatype": "BYTES", "shape": [3]}
    head["parameters"] = {"binary_data_size": len(elements)}
    for request in ({"json": {"inputs": [encoded(*files)]}}, binary({"inputs": [head]}, elements)):
        found = outputs(client.post(INFER, **request))["probabilities"]
        assert labels(found) == ["green", "red", "blue"]


@pytest.mark.parametrize("mode", ["distilled", "aggregated"])
def test_votes_and_copies_where_they_are_asked_for(client: TestClient, mode: str):
    names = ["copies", "per_transformation", "probabilities"]
    wanted = [{"name": name, "parameters": {"binary_data": name == "copies"}} for name in names]
    images = pictures(RED, BLUE)
    request = binary_images(images, outputs=wanted, parameters={"mode": mode})
    found = outputs(client.post(INFER, **request))
    assert [*found] == names
    assert found["copies"].shape == (2, TURNS, SIZE, SIZE, 3)
    np.testing.assert_array_equal(found["copies"][:, 0], images)
    assert found["per_transformation"].shape == (2, TURNS, 3)
    for copy in range(TURNS):
        np.testing.assert_allclose(
            found["per_transformation"][:, copy], found["probabilities"], atol=1e-6
        )


def test_classification_names_the_best(client: TestClient):
    wanted = [{"name": "probabilities", "parameters": {"classification": 2}}]
    request = {"inputs": [entry(pictures(GREEN, BLUE))], "outputs": wanted}
    found = outputs(client.post(INFER, json=request))["probabilities"]
    assert found.shape == (2, 2)
    values, places, names = zip(*(text.split(":") for text in found[:, 0]), strict=True)
    assert (places, names) == (("1", "2"), ("green", "blue"))
    probabilities = outputs(client.post(INFER, json={"inputs": request["inputs"]}))["probabilities"]
    np.testing.assert_allclose([float(v) for v in values], probabilities.max(1), atol=1e-6)


def test_binary_and_json_outputs_side_by_side(client: TestClient):
    wanted = [
        {"name": "per_transformation", "parameters": {"binary_data": True}},
        {"name": "probabilities", "parameters": {"binary_data": False}},
    ]
    default = {"binary_data_output": True}
    request = {"inputs": [entry(pictures(RED))], "outputs": wanted, "parameters": default}
    response = client.post(INFER, json=request)
    assert '"data":[' in response.text[: int(response.headers[LENGTH])]
    assert set(outputs(response)) == {"per_transformation", "probabilities"}


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_compressed_requests(client: TestClient, encoding: str, pack: Any):
    request = binary_images(pictures(GREEN))
    headers = {**request["headers"], "content-encoding": encoding}
    body = pack(request["content"])
    response = client.post(INFER, content=body, headers=headers)
    assert labels(outputs(response)["probabilities"]) == ["green"]
    for broken, code in ((body[:-20], 400), (b"no" + body, 400), (b"", 400)):
        assert refusal(client.post(INFER, content=broken, headers=headers))[0] == code
    bomb = pack(bytes(limits.MAX_REQUEST_BYTES + 1))
    assert refusal(client.post(INFER, content=bomb, headers=headers)) == (413, "too_large")


def named(folder: Path, processors: Processors, *names: str) -> Models:
    """Models of these names, loaded."""
    found = Models()
    for place, name in enumerate(names):
        path = write_bundle(folder / str(place), name=name)
        found.put(model.load(Settings(path, device="cpu"), processors))
    return found


def test_a_models_own_name_goes_before_one_that_is_made(tmp_path: Path, processors: Processors):
    models = named(tmp_path, processors, "a", "a-single", "a-b")
    for name, own, mode in (
        ("a", "a", None),
        ("a-aggregated", "a", "aggregated"),
        ("a-single", "a-single", None),
        ("a-single-single", "a-single", "single"),
        ("a-b", "a-b", None),
        ("a-b-distilled", "a-b", "distilled"),
    ):
        found = protocol_models.find(models, name, None)
        assert (found.name, found.model.predictor.manifest.name, found.mode) == (name, own, mode)
    for name in ("b", "a-b-best", "a-b-a"):
        with pytest.raises(RequestError, match="there is no model"):
            protocol_models.find(models, name, "1")


def test_modes_with_dashes_are_found(tmp_path: Path, processors: Processors):
    path = write_bundle(tmp_path / "bundle")
    manifest = read(path).manifest
    modes = {"one-pass": manifest.modes["single"], **manifest.modes}
    object.__setattr__(manifest, "modes", modes)
    write_manifest(path, manifest)
    models = Models()
    models.put(model.load(Settings(path, device="cpu"), processors))
    assert protocol_models.find(models, "colours-one-pass", None).mode == "one-pass"


def test_encoder_gives_embeddings_and_no_classes(tmp_path: Path, processors: Processors):
    path = write_embedder(tmp_path / "means")
    models = Models()
    models.put(model.load(Settings(path, device="cpu"), processors))
    said = protocol_models.metadata(protocol_models.find(models, "means-embed", "1"))
    assert said["outputs"] == [{"name": "embeddings", "datatype": "FP32", "shape": [-1, 3]}]


@pytest.mark.parametrize("label", COLOURS)
def test_answers_are_those_of_predict(client: TestClient, label: str):
    file = plain(COLOURS[label])
    answer = client.post("/predict", content=file).json()
    found = outputs(client.post(INFER, json={"inputs": [encoded(file)]}))["probabilities"]
    assert found[0].max() == pytest.approx(answer["confidence"], abs=1e-6)
    assert labels(found) == [answer["label"]]


def test_base64_may_have_line_breaks(client: TestClient):
    request = encoded(plain(RED))
    (text,) = request["data"]
    request["data"] = [f"{text[:20]}\n{text[20:]}\n"]
    response = client.post(INFER, json={"inputs": [request]})
    assert labels(outputs(response)["probabilities"]) == ["red"]


def test_large_base64_is_read_in_a_thread(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    threads, wrapped = [], protocol_inputs.from_base64

    def watched(text: str) -> object:
        threads.append(threading.current_thread().name)
        return wrapped(text)

    monkeypatch.setattr(protocol_inputs, "from_base64", watched)
    for file in (plain(RED), plain(RED) + bytes(300_000)):
        response = client.post(INFER, json={"inputs": [encoded(file)]})
        assert labels(outputs(response)["probabilities"]) == ["red"]
    assert threads[0] != threads[1]
    assert threads[1].startswith("asyncio_")  # asyncio.to_thread's
