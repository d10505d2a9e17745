"""The repository extension over HTTP, within the gate: what clients of the protocol send and read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from serving import model, repository_endpoints
from serving.engine import Processors
from serving.gate import Gate
from serving.models import Models
from serving.repository import Repository
from serving.repository_endpoints import ADDRESSES, Desk, RepositoryEndpoints
from serving.repository_state import State
from serving.repository_worker import Follower
from serving.settings import Settings
from tests.bundles import write_bundle

KNOWN = [*ADDRESSES, "/other"]


class Served:
    """A worker that follows in its thread, and a client that asks it."""

    def __init__(self, root: Path, folder: Path, processors: Processors, *, allow: bool) -> None:
        settings = Settings(device="cpu")
        self.state = State(folder)
        self.state.begin(Repository(root).names(), None)
        self.models = Models()
        self.follower = Follower(
            Repository(root),
            self.state,
            self.models,
            lambda found, name, version, digest: model.make(
                found, settings, processors, name=name, version=version, digest=digest
            ),
            lambda: None,
        )
        self.follower.follow()
        self.follower.start()
        desk = Desk()
        desk.open(Repository(root), self.state, allow_load=allow)
        app = RepositoryEndpoints(PlainTextResponse("passed on"), desk)
        self.client = TestClient(Gate(app, KNOWN))

    def rows(self, **body: object) -> list[tuple[str, str, str, str]]:
        found = self.client.post("/v2/repository/index", json=body).json()
        return [(row["name"], row["version"], row["state"], row["reason"]) for row in found]

    def ask(self, name: str, what: str, **request: Any) -> tuple[int, str]:
        response = self.client.post(f"/v2/repository/models/{name}/{what}", **request)
        assert response.headers["x-request-id"]
        if response.status_code == 200:
            assert response.content == b""
            return 200, ""
        assert set(response.json()) == {"error"}
        return response.status_code, response.json()["error"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Models a, and b whose newest version is damaged."""
    write_bundle(tmp_path / "models" / "a")
    write_bundle(tmp_path / "models" / "b" / "1")
    (write_bundle(tmp_path / "models" / "b" / "2") / "single.onnx").write_bytes(b"another")
    return tmp_path / "models"


def start(root: Path, processors: Processors, *, allow: bool) -> Iterator[Served]:
    (root.parent / "state").mkdir()
    served = Served(root, root.parent / "state", processors, allow=allow)
    yield served
    served.follower.close()


@pytest.fixture
def served(root: Path, processors: Processors) -> Iterator[Served]:
    yield from start(root, processors, allow=True)


@pytest.fixture
def fixed(root: Path, processors: Processors) -> Iterator[Served]:
    """A server that lets nobody load."""
    yield from start(root, processors, allow=False)


REASON = "single.onnx: sha256 does not match the manifest; export the bundle again"


def test_index_says_what_is_served_and_what_is_not_and_why(fixed: Served):
    rows = fixed.client.post("/v2/repository/index").json()
    assert [(r["name"], r["version"], r["state"], r["reason"]) for r in rows] == [
        ("a", "1", "READY", ""),
        ("b", "1", "READY", ""),
        ("b", "2", "UNAVAILABLE", REASON),
    ]
    (worker,) = rows[0]["workers"]
    assert (set(worker), worker["generation"]) == ({"pid", "generation"}, 1)
    assert len(rows[0]["digest"]) == 64
    assert [row[:2] for row in fixed.rows(ready=True)] == [("a", "1"), ("b", "1")]


@pytest.mark.parametrize("what", ["load", "unload"])
def test_loading_is_off_unless_it_is_switched_on(fixed: Served, what: str):
    status, message = fixed.ask("a", what)
    assert status == 403
    assert message == "this server loads nothing by HTTP; start it with --allow-load"
    assert list(fixed.models.all) == ["a", "b"]


def test_model_is_unloaded_and_loaded_again(served: Served):
    assert served.ask("a", "unload", json={"parameters": {"unload_dependents": False}}) == (200, "")
    assert list(served.models.all) == ["b"]
    assert served.rows()[0] == ("a", "1", "UNAVAILABLE", "unloaded")
    status, message = served.ask("a", "unload")
    assert (status, message) == (404, "'a' is not loaded; choose from ['b']")
    assert served.ask("a", "load", json={}) == (200, "")
    assert list(served.models.all) == ["a", "b"]


def test_new_bundle_is_there_when_the_answer_comes(served: Served, root: Path):
    write_bundle(root / "a", classes=("x", "y", "z"))
    write_bundle(root / "new model")
    assert served.ask("a", "load") == (200, "")
    assert served.models.get("a").predictor.manifest.classes == ("x", "y", "z")
    assert served.ask("new%20model", "load") == (200, "")
    assert list(served.models.all) == ["a", "b", "new model"]


def test_failed_load_says_why_and_what_is_served_instead(served: Served, root: Path):
    assert served.ask("b", "load") == (
        400,
        f"b, version 2, cannot be loaded: {REASON}; version 1 is served",
    )
    (write_bundle(root / "c") / "manifest.json").write_text("{")
    status, message = served.ask("c", "load")
    assert status == 400
    assert message.startswith("c, version 1, cannot be loaded: manifest.json is not JSON")


@pytest.mark.parametrize("name", ["nothing", "%2e%2e", ".hidden", "b%5C1"])
@pytest.mark.parametrize("what", ["load", "unload"])
def test_unknown_names_lead_nowhere(served: Served, root: Path, name: str, what: str):
    write_bundle(root / ".hidden")
    write_bundle(root.parent / "outside")
    assert served.ask(name, what)[0] == 404
    assert served.state.wanted().generation == 1


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"{", "not JSON"),
        (b"[]", "not an object"),
        (b'{"parameters": {"config": "{}"}}', "['config'] are not supported"),
        (b'{"parameters": {"file:1/model.onnx": "eA=="}}', "are not supported"),
        (b'{"parameters": 3}', "not an object"),
        (b"[" * 60_000, "not JSON"),
    ],
)
def test_malformed_request_is_one_sentence(served: Served, body: bytes, word: str):
    status, message = served.ask("a", "load", content=body)
    assert status == 400
    assert word in message


def test_body_has_a_limit(served: Served):
    for path in ("/v2/repository/index", "/v2/repository/models/a/load"):
        response = served.client.post(path, content=b" " * (65 * 1024))
        assert response.status_code == 413
        assert "larger than 64 KiB" in response.json()["error"]


def test_only_post_is_answered_and_the_rest_is_passed_on(served: Served):
    for path in ("/v2/repository/index", "/v2/repository/models/a/load"):
        response = served.client.get(path)
        assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert served.client.post("/other").text == "passed on"


def test_worker_that_does_not_follow_is_named(served: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(repository_endpoints, "WAIT_S", 0.1)
    monkeypatch.setattr(served.follower, "follow", lambda: None)
    status, message = served.ask("a", "load")
    assert status == 504
    assert "have not reached generation 2 after 0.1 s" in message


def test_before_anything_is_loaded_the_answer_is_unavailable():
    app = Gate(RepositoryEndpoints(PlainTextResponse(""), Desk()), ADDRESSES)
    response = TestClient(app).post("/v2/repository/index")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
