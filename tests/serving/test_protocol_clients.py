"""A real server process, and what the real tritonclient, and one in the shape of KServe's, see of it."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from serving import limits
from tests.bundles import CLASSES, SIZE, TURNS, write_embedder
from tests.pictures import BLUE, GREEN, RED, plain
from tests.serving.servers import free_port, serving, start_command
from tests.tensors import entry, labels, pictures

pytestmark = pytest.mark.slow

triton = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")

Error = triton.InferenceServerException


@pytest.fixture(scope="module")
def address(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of a server; that it stops cleanly is checked when the tests are through."""
    port = free_port()
    log = tmp_path_factory.mktemp("protocol") / "log"
    with serving(start_command(colours, port, device="cpu"), port, log) as url:
        yield url.removeprefix("http://")


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[Any]:
    with triton.InferenceServerClient(address, concurrency=8) as found:
        yield found


def images(array: np.ndarray[Any, Any], binary: bool = True) -> Any:
    found = triton.InferInput("images", array.shape, "UINT8")
    return found.set_data_from_numpy(array, binary_data=binary)


def encoded(*files: bytes) -> Any:
    array = np.array(files, dtype=np.object_)
    return triton.InferInput("encoded", array.shape, "BYTES").set_data_from_numpy(array)


def test_health_and_metadata(client: Any):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["name"] == "viewfold"
    for name in ("colours", "colours-distilled", "colours-single", "colours-aggregated"):
        assert client.is_model_ready(name)
        assert client.is_model_ready(name, "1")
        said = client.get_model_metadata(name)
        assert (said["name"], said["versions"]) == (name, ["1"])
    assert not client.is_model_ready("colours-best")
    assert not client.is_model_ready("colours", "2")


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("mode", ["", "-distilled", "-single", "-aggregated"])
def test_pixels(client: Any, mode: str, binary: bool):
    array = pictures(RED, GREEN, BLUE)
    wanted = [triton.InferRequestedOutput("probabilities", binary_data=binary)]
    result = client.infer(f"colours{mode}", [images(array, binary)], outputs=wanted, request_id="7")
    said = result.get_response()
    assert (said["id"], said["model_name"]) == ("7", f"colours{mode}")
    found = result.as_numpy("probabilities")
    assert (found.dtype, found.shape) == (np.float32, (3, 3))
    assert labels(found) == ["red", "green", "blue"]


def test_files(client: Any):
    array = [plain(GREEN, "JPEG", size=90), plain(RED)]
    found = client.infer("colours", [encoded(*array)]).as_numpy("probabilities")
    assert labels(found) == ["green", "red"]


@pytest.mark.parametrize("binary", [True, False])
def test_classification(client: Any, binary: bool):
    top = triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=2)
    result = client.infer("colours", [images(pictures(BLUE, RED))], outputs=[top])
    found = result.as_numpy("probabilities")
    assert found.shape == (2, 2)
    texts = [text.decode() if isinstance(text, bytes) else text for text in found[:, 0]]
    assert [text.split(":")[1:] for text in texts] == [["2", "blue"], ["0", "red"]]


def test_votes_and_copies(client: Any):
    array = pictures(RED, BLUE)
    names = ("probabilities", "per_transformation", "copies")
    wanted = [triton.InferRequestedOutput(name) for name in names]
    result = client.infer("colours-aggregated", [images(array)], outputs=wanted)
    assert result.as_numpy("per_transformation").shape == (2, TURNS, 3)
    np.testing.assert_array_equal(result.as_numpy("copies")[:, 0], array)


def test_mode_and_other_parameters(client: Any):
    result = client.infer(
        "colours", [images(pictures(RED))], parameters={"mode": "single"}, priority=1, timeout=9
    )
    assert result.get_response()["parameters"] == {"mode": "single"}


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression(client: Any, algorithm: str):
    result = client.infer(
        "colours",
        [images(pictures(GREEN))],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    assert labels(result.as_numpy("probabilities")) == ["green"]


def test_many_requests_at_a_time_get_their_own_answers(client: Any):
    random = np.random.default_rng(0)
    expected, asked = [], []
    for number in range(40):
        colours = [(RED, GREEN, BLUE)[place] for place in random.integers(0, 3, 1 + number % 7)]
        expected.append([CLASSES[(RED, GREEN, BLUE).index(colour)] for colour in colours])
        mode = ("colours", "colours-aggregated")[number % 2]
        asked.append(client.async_infer(mode, [images(pictures(*colours))], request_id=str(number)))
    results = [one.get_result() for one in asked]
    assert [labels(result.as_numpy("probabilities")) for result in results] == expected
    assert [result.get_response()["id"] for result in results] == [str(k) for k in range(40)]


def test_the_asyncio_client(address: str):
    aio = pytest.importorskip("tritonclient.http.aio")

    async def ask() -> list[Any]:
        async with aio.InferenceServerClient(address) as asking:
            requests = [asking.infer("colours", [images(pictures(c))]) for c in (RED, BLUE)]
            return list(await asyncio.gather(*requests))

    found = [labels(result.as_numpy("probabilities")) for result in asyncio.run(ask())]
    assert found == [["red"], ["blue"]]


@pytest.mark.parametrize(
    ("model", "make", "status", "words"),
    [
        ("none", lambda: images(pictures(RED)), "404", "there is no model 'none'"),
        ("colours", lambda: images(pictures(RED, size=28)), "400", r"\[1, 28, 28, 3\]"),
        ("colours", lambda: encoded(plain(RED), b"text"), "415", "element 1 of 'encoded'"),
        ("colours", lambda: encoded(*[b"x"] * 257), "413", "at most 256"),
        ("colours", lambda: images(np.zeros((7000, SIZE, SIZE, 3), np.uint8)), "413", "20 MiB"),
    ],
)
def test_errors_are_sentences(client: Any, model: str, make: Any, status: str, words: str):
    with pytest.raises(Error, match=words) as found:
        client.infer(model, [make()])
    assert found.value.status() == status
    assert client.infer("colours", [images(pictures(RED))]) is not None


def test_what_is_not_offered_is_a_sentence(client: Any):
    for ask in (client.get_model_config, client.get_inference_statistics):
        with pytest.raises(Error, match="there is nothing at this address"):
            ask("colours")


def test_as_many_pixels_as_a_request_may_hold(client: Any):
    array = np.repeat(pictures(RED, BLUE), 3400, axis=0)
    assert array.nbytes < limits.MAX_REQUEST_BYTES
    found = client.infer("colours", [images(array)]).as_numpy("probabilities")
    assert labels(found) == ["red"] * 3400 + ["blue"] * 3400


def test_client_in_the_shape_of_kserves(address: str):
    with httpx.Client(base_url=f"http://{address}") as kserve:
        assert kserve.get("/v2/health/live").json()["live"] is True
        assert kserve.get("/v2/health/ready").json()["ready"] is True
        asked = {"id": "abc", "inputs": [entry(pictures(GREEN))], "parameters": {}}
        said = kserve.post("/v2/models/colours/infer", json=asked).json()
        (output,) = said["outputs"]
        assert (said["id"], output["datatype"], output["shape"]) == ("abc", "FP32", [1, 3])
        assert max(output["data"]) == output["data"][1]
        response = kserve.post("/v2/models/none/infer", json=asked)
        assert (response.status_code, type(response.json()["error"])) == (404, str)


def test_metrics_have_no_names_of_strangers(address: str, client: Any):
    for number in range(5):
        assert not client.is_model_ready(f"stranger-{number}")
    client.infer("colours", [images(pictures(RED))])
    metrics = httpx.get(f"http://{address}/metrics").text
    assert "stranger" not in metrics
    for template, status in (("/v2/models/{model}/ready", 404), ("/v2/models/{model}/infer", 200)):
        series = f'request_total{{endpoint="{template}",http_response_code="{status}"'
        assert re.search(re.escape(series) + r".*\} \d", metrics)


def test_example_of_the_document(
    colours: Path, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
):
    document = Path(__file__).resolve().parents[2] / "docs" / "protocol.md"
    (code,) = re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL)
    (tmp_path / "cat.jpg").write_bytes(plain(GREEN, "JPEG", size=90))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code.replace("localhost:3000", address).replace("digits", "colours"), names)
    assert names["probabilities"].shape == (32, 3)
    assert names["best"].shape == (1, 3)
    assert names["best"][0, 0].endswith(b":1:green")
    names["client"].close()


def test_encoder(tmp_path: Path):
    bundle, port = write_embedder(tmp_path / "means"), free_port()
    with serving(start_command(bundle, port, device="cpu"), port, tmp_path / "log") as url:
        asking = triton.InferenceServerClient(url.removeprefix("http://"))
        (output,) = asking.get_model_metadata("means")["outputs"]
        assert output == {"name": "embeddings", "datatype": "FP32", "shape": [-1, 3]}
        array = pictures(RED, BLUE)
        for name, tensor in (
            ("means", images(array)),
            ("means-embed", encoded(plain(RED), plain(BLUE))),
        ):
            found = asking.infer(name, [tensor]).as_numpy("embeddings")
            np.testing.assert_allclose(found, np.array([RED, BLUE]) / 255, atol=1e-6)
        top = triton.InferRequestedOutput("embeddings", class_count=1)
        with pytest.raises(Error, match="cannot be classified"):
            asking.infer("means", [images(array)], outputs=[top])
        asking.close()
