"""A real server process of an encoder, and what curl and BentoML's client see of it."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from bentoml import SyncHTTPClient
from bentoml.exceptions import BentoMLException

from tests.answers import error
from tests.bundles import write_embedder
from tests.pictures import BLUE, GREEN, RED, plain
from tests.serving.servers import free_port, serving, start_command

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embedding") / "log"


@pytest.fixture(scope="module")
def url(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of `viewfold serve`; that it stops cleanly is checked when the tests are through."""
    bundle = write_embedder(tmp_path_factory.mktemp("bundles") / "means")
    port = free_port()
    with serving(start_command(bundle, port, device="cpu"), port, log) as started:
        yield started


def test_says_what_is_served(url: str, log: Path):
    assert "means: embeddings of 3 numbers, on cpu" in log.read_text()
    assert f"{url}/embed" in log.read_text()


def test_curl_with_one_image_and_with_several(url: str, tmp_path: Path):
    colours = {"red": RED, "green": GREEN, "blue": BLUE}
    for name, colour in colours.items():
        (tmp_path / f"{name}.png").write_bytes(plain(colour))
    several = [f"image=@{name}.png" for name in colours]
    for options, expected in (
        (["--data-binary", "@green.png"], [GREEN]),
        (["-F", several[0], "-F", several[1], "-F", several[2]], [RED, GREEN, BLUE]),
        (["-F", several[2], "-F", "normalize=false", "-F", several[0]], [BLUE, RED]),
    ):
        command = ["curl", "-s", *options, f"{url}/embed"]
        answer = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout
        found = json.loads(answer)["embeddings"]
        np.testing.assert_allclose(found, np.array(expected) / 255, atol=1e-6)


def test_vectors_of_length_1_on_request(url: str):
    answer = httpx.post(f"{url}/embed?normalize=true", content=plain(RED)).json()
    np.testing.assert_allclose(answer["embeddings"], [np.array(RED) / np.linalg.norm(RED)], 1e-5)


def test_bentomls_own_client(url: str, tmp_path: Path):
    paths = [tmp_path / "red.png", tmp_path / "blue.png"]
    for path, colour in zip(paths, (RED, BLUE), strict=True):
        path.write_bytes(plain(colour))
    with SyncHTTPClient(url) as client:
        answer = client.embed(image=paths)
        np.testing.assert_allclose(answer["embeddings"], np.array([RED, BLUE]) / 255, atol=1e-6)
        assert client.embed(image=paths[:1], normalize=True, mode="embed")["normalized"]
        with pytest.raises(BentoMLException, match="ask POST /embed"):
            client.predict(image=paths[0])


def test_vector_of_a_new_image_as_the_document_says(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    document = Path(__file__).resolve().parents[2] / "docs" / "embed.md"
    blocks = re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL)
    (code,) = [block for block in blocks if "urllib" in block]
    assert "http://localhost:3000/embed" in code
    (tmp_path / "new.jpg").write_bytes(plain(GREEN))
    monkeypatch.chdir(tmp_path)
    names = {"np": np}
    exec(code.replace("http://localhost:3000", url), names)
    np.testing.assert_allclose(names["query"], np.array(GREEN) / np.linalg.norm(GREEN), atol=1e-6)


def test_errors_have_the_one_shape_and_the_server_lives_on(url: str):
    def post(path: str = "/embed", *images: bytes) -> httpx.Response:
        return httpx.post(f"{url}{path}", files=[("image", ("x", data)) for data in images])

    for response, status, code in (
        (post("/embed", b"text"), 415, "not_an_image"),
        (post("/embed", *[plain(RED)] * 257), 413, "too_many_images"),
        (post("/embed?normalize=perhaps", plain(RED)), 422, "invalid_normalize"),
        (post("/predict", plain(RED)), 404, "wrong_task"),
        (httpx.post(f"{url}/embed", content=b""), 400, "no_image"),
        (httpx.get(f"{url}/embed"), 405, "method_not_allowed"),
    ):
        found = error(response)
        assert (found["status"], found["code"]) == (status, code)
    assert httpx.post(f"{url}/embed", content=plain(RED, size=1)).status_code == 200


def test_documented_addresses_answer(url: str):
    for path, methods in httpx.get(f"{url}/docs.json").json()["paths"].items():
        if "get" in methods:
            address = url + path.replace("{model}", "means")
            assert httpx.get(address).status_code == 200
    (loaded,) = httpx.get(f"{url}/models").json()["models"]
    assert (loaded["task"], loaded["classes"], loaded["dimensions"]) == ("embed", [], 3)
