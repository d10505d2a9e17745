import asyncio
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from bentoml.exceptions import BentoMLException
from PIL import Image
from starlette.testclient import TestClient

from serving import classification, form, model, pages, protocol, repository_endpoints, schemas
from serving.engine import Processors
from serving.payload import Item
from serving.predictor import Predictor
from serving.repository_state import STATE, State
from serving.service import Service
from serving.settings import Settings
from tests.answers import error
from tests.bundles import write_bundle
from tests.pictures import COLOURS, RED, declared_png, encoded, plain


@pytest.mark.parametrize("label", COLOURS)
def test_raw_body_is_classified(client: TestClient, label: str):
    response = client.post("/predict", content=plain(COLOURS[label]))
    assert response.status_code == 200
    answer = schemas.Prediction.model_validate(response.json(), strict=True)
    assert answer.label == label == answer.top[0].label
    assert answer.index == ["red", "green", "blue"].index(label)
    assert answer.confidence == answer.top[0].probability > 0.9
    assert (answer.model, answer.mode, answer.forward_passes) == ("colours", "distilled", 1)
    assert sum(entry.probability for entry in answer.top) == pytest.approx(1, abs=1e-5)


def test_answer_has_the_fields_of_the_issue_and_no_others(client: TestClient):
    answer = client.post("/predict", content=plain(RED)).json()
    assert set(answer) == set(schemas.Prediction.model_fields) - {"votes"}
    assert [list(entry) for entry in answer["top"]] == [["label", "probability"]] * 3


def test_unknown_mode_lists_the_known_ones(client: TestClient):
    found = error(client.post("/predict?mode=best", content=plain(RED)))
    assert (found["status"], found["code"]) == (422, "unknown_mode")
    assert "['aggregated', 'distilled', 'single']" in found["message"]


def noise_file(file_format: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), file_format)


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 400, "no_image"),
        (b"not an image", 415, "not_an_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "not_an_image"),
        (b"GIF89a", 415, "not_an_image"),
        (declared_png(0, 0), 415, "not_an_image"),
        (noise_file("JPEG")[:2000], 422, "damaged_image"),
        (noise_file("PNG")[:2000], 422, "damaged_image"),
        (declared_png(50_000, 50_000), 413, "too_many_pixels"),
        (declared_png(7_100, 7_100), 413, "too_many_pixels"),
        (declared_png(7_000, 7_000), 422, "damaged_image"),
        (encoded(Image.new("F", (8, 8)), "TIFF"), 422, "unsupported_pixels"),
    ],
)
def test_bad_images_are_the_clients_fault_and_the_server_lives_on(
    client: TestClient, data: bytes, status: int, code: str
):
    for request in ({"content": data}, {"files": {"image": ("x", data)}}):
        found = error(client.post("/predict", **request))
        assert (found["status"], found["code"]) == (status, code)
    assert client.post("/predict", content=plain(RED)).json()["label"] == "red"


def alpha_red() -> Image.Image:
    return Image.new("RGBA", (40, 40), (*RED, 255))


@pytest.mark.parametrize(
    "data",
    [
        plain(RED, size=1),
        encoded(Image.new("RGB", (10_000, 1), RED)),
        encoded(Image.new("RGB", (1, 10_000), RED)),
        encoded(Image.new("RGB", (40, 40), RED).quantize(2)),
        encoded(alpha_red()),
        encoded(Image.new("RGB", (40, 40), RED).convert("CMYK"), "JPEG"),
        encoded(Image.new("RGB", (40, 40), RED), "GIF", save_all=True, append_images=[alpha_red()]),
        encoded(Image.new("RGB", (4_000, 3_000), RED), "JPEG"),
    ],
)
def test_unusual_images_get_a_right_answer(client: TestClient, data: bytes):
    assert client.post("/predict", content=data).json()["label"] == "red"


@pytest.mark.parametrize("picture", [Image.new("L", (9, 9), 9), Image.new("I;16", (9, 9), 9)])
def test_grey_images_get_an_answer_without_a_colour(client: TestClient, picture: Image.Image):
    answer = client.post("/predict", content=encoded(picture)).json()
    assert answer["confidence"] == pytest.approx(1 / 3, abs=1e-5)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("POST", "/nothing", 404, "not_found"),
        ("GET", "/static_content/index.css", 404, "not_found"),
        ("GET", "/assets/index.js", 404, "not_found"),
        ("GET", "/predict", 405, "method_not_allowed"),
        ("DELETE", "/models", 405, "method_not_allowed"),
        ("POST", "/", 405, "method_not_allowed"),
        ("PUT", "/livez", 405, "method_not_allowed"),
    ],
)
def test_wrong_address_and_method_have_the_same_shape(
    client: TestClient, method: str, path: str, status: int, code: str
):
    response = client.request(method, path)
    found = error(response)
    assert (found["status"], found["code"]) == (status, code)
    assert ("allow" in response.headers) == (status == 405)


def test_fault_of_the_server_says_nothing_else(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    def fail(self: Predictor, graph: str, feeds: object, outputs: object, alone: bool) -> None:
        raise RuntimeError("secret in /srv/private")

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "run", fail)
        found = error(client.post("/predict", content=plain(RED)))
    assert (found["status"], found["code"]) == (500, "internal_error")
    assert "secret" not in found["message"]
    assert client.post("/predict", content=plain(RED)).status_code == 200


def test_request_id_of_the_client_is_kept_if_it_is_sane(client: TestClient):
    response = client.get("/models", headers={"x-request-id": "abc-123_4.5:6"})
    assert response.headers["x-request-id"] == "abc-123_4.5:6"
    for given in ("", "a b", "x" * 65, "<script>", "a\tb"):
        made = client.get("/models", headers={"x-request-id": given}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", made)


def test_models_says_what_is_loaded(client: TestClient):
    answer = schemas.Models.model_validate(client.get("/models").json(), strict=True)
    (loaded,) = answer.models
    assert (loaded.name, loaded.task, loaded.default_mode) == ("colours", "classify", "distilled")
    assert loaded.classes == ["red", "green", "blue"]
    assert (loaded.device, loaded.provider) == ("cpu", "CPUExecutionProvider")
    assert loaded.modes["aggregated"].forward_passes == 4
    assert loaded.parity["tolerance"] == 1e-4


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz", "/models/", "/docs.json"])
def test_addresses_answer(client: TestClient, path: str):
    assert client.get(path).status_code == 200
    assert client.head(path).status_code == 200


def test_document_describes_every_address_and_resolves(client: TestClient):
    document = client.get("/docs.json").json()
    own = {"/predict", "/models", "/livez", "/readyz", "/metrics"}
    versions = {path for path in protocol.ADDRESSES if "/versions/" in path}
    of_protocol = (set(protocol.ADDRESSES) - versions) | repository_endpoints.ADDRESSES
    assert set(document["paths"]) == own | of_protocol
    parameters = document["paths"]["/predict"]["post"]["parameters"]
    assert parameters[0]["schema"]["enum"] == ["distilled", "single", "aggregated"]
    for reference in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)):
        assert reference in document["components"]["schemas"]


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_page_names_no_other_host_and_forbids_them(client: TestClient, path: str):
    response = client.get(path)
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert not re.search(r"(src|href)=.https?:|//[a-z]+\.[a-z]|@import", response.text)


def test_fault_outside_of_predict_is_answered_at_once(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pages.app.state, "models", {"models": {object()}})
    assert error(client.get("/models"))["code"] == "internal_error"


def test_concurrent_requests_do_not_mix(client: TestClient):
    labels = [*COLOURS] * 10
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(
            lambda label: client.post("/predict", content=plain(COLOURS[label])), labels
        )
        assert [answer.json()["label"] for answer in answers] == labels


def modes_answered(loaded: model.Model, *asked: str | None) -> list[str]:
    """The mode that answers, of each mode asked for."""

    async def answer() -> list[str]:
        wanted = [form.Form((Item(plain(RED)),), False, None, mode, None, None) for mode in asked]
        return [(await classification.classify(loaded, one))["mode"] for one in wanted]

    return asyncio.run(answer())


def test_default_mode_is_the_one_that_the_server_was_started_with(
    colours: Path, processors: Processors
):
    loaded = model.load(Settings(colours, mode="aggregated"), processors)
    assert model.describe(loaded)["default_mode"] == "aggregated"
    assert modes_answered(loaded, None, "single") == ["aggregated", "single"]


def test_default_mode_is_else_the_bundles(tmp_path: Path, processors: Processors):
    loaded = model.load(Settings(write_bundle(tmp_path, default_mode="single")), processors)
    assert modes_answered(loaded, None) == ["single"]


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("VIEWFOLD_BUNDLE", "/nowhere", "is not a bundle"),
        ("VIEWFOLD_MODE", "best", r"unknown mode 'best'.*\['aggregated', 'distilled', 'single'\]"),
        ("VIEWFOLD_DEVICE", "tpu", "unknown device 'tpu'.*'cuda'"),
        ("VIEWFOLD_WORKERS", "two", "VIEWFOLD_WORKERS is 'two'"),
        ("VIEWFOLD_MODES", "best", "unknown mode 'best'"),
        ("VIEWFOLD_WATCH", "yes", "VIEWFOLD_WATCH is 'yes'"),
    ],
)
def test_what_cannot_work_is_refused_before_workers_start(
    colours: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
):
    monkeypatch.setenv("VIEWFOLD_BUNDLE", str(colours))
    monkeypatch.setenv(variable, value)
    with pytest.raises(BentoMLException, match=message):
        Service.inner.check()


def test_check_lets_pass_what_works_and_writes_what_workers_follow(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("VIEWFOLD_BUNDLE", str(colours))
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    monkeypatch.setenv(STATE, "")  # set by check, and as it was after the test
    assert Service.inner.check() is None
    wanted = State(Path(os.environ[STATE])).wanted()
    assert (wanted.single, wanted.models) == ("colours", {"colours": 1})
