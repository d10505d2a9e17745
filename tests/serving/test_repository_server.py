"""Models swapped under load, in real server processes: two workers, many clients, and not one wrong answer."""

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest

from serving.settings import ROOT
from tests.bundles import replace_bundle, write_bundle, write_embedder, write_unloadable
from tests.pictures import RED, plain
from tests.serving.servers import free_port, launch, serving, start_command, stop

pytestmark = pytest.mark.slow

ENOUGH_S = 60  # a busy machine; an idle one needs 3
FIRST, SECOND = ("red", "green", "blue"), ("rot", "gruen", "blau")


@dataclass
class Server:
    """Two workers that watch a folder of models and let clients load them."""

    url: str
    models: Path
    log: Path

    def index(self) -> list[dict[str, Any]]:
        response = httpx.post(f"{self.url}/v2/repository/index")
        return list(response.json())

    def post(self, name: str, what: str) -> httpx.Response:
        return httpx.post(f"{self.url}/v2/repository/models/{name}/{what}", timeout=ENOUGH_S)

    def wait_for(self, reached: Callable[[list[dict[str, Any]]], bool]) -> None:
        end = time.monotonic() + ENOUGH_S
        while not reached(found := self.index()):
            assert time.monotonic() < end, found
            time.sleep(0.05)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    models = folder / "models"
    replace_bundle(models / "a", classes=FIRST)
    write_embedder(models / "means")
    port = free_port()
    command = start_command(models, port, device="cpu", workers=2, watch=True, allow_load=True)
    with serving(command, port, folder / "log") as url:
        yield Server(url, models, folder / "log")


@pytest.fixture
def server(started: Server) -> Server:
    """The server with the models a and means, in both workers."""
    for folder in started.models.iterdir():
        if folder.name != "means":
            shutil.rmtree(folder)
    replace_bundle(started.models / "a", classes=FIRST)
    started.wait_for(lambda rows: started.post("a", "load").status_code == 200)
    started.wait_for(
        lambda rows: (
            [(row["name"], row["state"], len(row["workers"])) for row in rows]
            == [("a", "READY", 2), ("means", "READY", 2)]
        )
    )
    assert label(started) == "red"
    return started


def digests(rows: list[dict[str, Any]], name: str) -> set[str]:
    """What all workers serve under a name; several where they differ."""
    return {row["digest"] for row in rows if row["name"] == name and row["state"] == "READY"}


def ask_until(url: str, end: Event) -> Counter[tuple[Any, ...]]:
    """How often each answer came, by status, model, the label and all the labels."""
    found: Counter[tuple[Any, ...]] = Counter()
    data = plain(RED)
    with httpx.Client(base_url=url, timeout=ENOUGH_S) as client:
        while not end.is_set():
            response = client.post("/predict?model=a", content=data)
            answer = response.json()
            labels = [entry["label"] for entry in answer.get("top", ())]
            found[response.status_code, answer.get("model"), answer.get("label"), *labels] += 1
    return found


def test_swaps_under_load_answer_every_request_by_one_of_the_two(server: Server):
    end = Event()
    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask_until, server.url, end) for _ in range(8)]
        try:
            for turn in range(10):
                before = digests(server.index(), "a")
                replace_bundle(server.models / "a", classes=SECOND if turn % 2 == 0 else FIRST)
                server.wait_for(
                    lambda rows, before=before: (
                        len(digests(rows, "a")) == 1 and digests(rows, "a") != before
                    )
                )
        finally:
            end.set()
        found = sum((one.result() for one in asking), Counter())
    assert set(found) == {
        (200, "a", "red", "red", "green", "blue"),
        (200, "a", "rot", "rot", "gruen", "blau"),
    }
    assert min(found.values()) > 20
    assert httpx.post(f"{server.url}/predict?model=a", content=plain(RED)).json()["label"] == "red"


def test_damaged_bundle_replaces_nothing_until_it_is_repaired(server: Server):
    write_bundle(server.models / ".new", classes=SECOND)
    good = (server.models / ".new" / "single.onnx").read_bytes()
    (server.models / ".new" / "single.onnx").write_bytes(good[:-1] + b"?")
    shutil.move(server.models / "a", server.models / ".old")
    shutil.move(server.models / ".new", server.models / "a")
    server.wait_for(lambda rows: "UNAVAILABLE" in {row["state"] for row in rows})
    states = {(row["state"], row["reason"]) for row in server.index() if row["name"] == "a"}
    assert ("READY", "") in states
    assert any("single.onnx: sha256 does not match" in reason for _, reason in states)
    assert label(server) == "red"
    refused = server.post("a", "load")
    assert refused.status_code == 400
    assert "version 1 is served" in refused.json()["error"]
    assert "a, version 1, cannot be served: single.onnx: sha256" in server.log.read_text()
    (server.models / "a" / "single.onnx").write_bytes(good)
    server.wait_for(lambda rows: {row["state"] for row in rows} == {"READY"})
    assert label(server) == "rot"


def label(server: Server) -> str:
    answer = httpx.post(f"{server.url}/predict?model=a", content=plain(RED))
    return str(answer.json()["label"])


def test_models_come_and_go_by_http_in_all_workers_at_once(server: Server):
    assert server.post("a", "unload").status_code == 200
    for _ in range(20):  # whichever worker answers
        answer = httpx.post(f"{server.url}/predict?model=a", content=plain(RED))
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_model")
    assert [m["name"] for m in httpx.get(f"{server.url}/models").json()["models"]] == ["means"]
    write_bundle(server.models / "b" / "1", classes=FIRST)
    write_bundle(server.models / "b" / "2", classes=SECOND)
    assert server.post("b", "load").status_code == 200
    for _ in range(20):
        answer = httpx.post(f"{server.url}/predict?model=b", content=plain(RED))
        assert (answer.json()["label"], answer.json()["version"]) == ("rot", "2")
    (row,) = [row for row in server.index() if row["name"] == "b"]
    assert (row["version"], row["state"], len(row["workers"])) == ("2", "READY", 2)
    assert len({worker["generation"] for worker in row["workers"]}) == 1


def test_model_that_is_deleted_is_unloaded_and_one_that_is_copied_is_loaded(server: Server):
    shutil.rmtree(server.models / "a")
    shutil.copytree(write_bundle(server.models.parent / "new"), server.models / "c")
    server.wait_for(lambda rows: [row["name"] for row in rows] == ["c", "means"])
    documents = httpx.get(f"{server.url}/docs.json").json()
    parameters = documents["paths"]["/predict"]["post"]["parameters"]
    assert "model" in {parameter["name"] for parameter in parameters}


def test_killed_workers_come_back_with_what_is_wanted(server: Server):
    """Both are killed in turn, so that the one that watches is among them."""
    assert server.post("means", "unload").status_code == 200
    for pid in sorted(served_by(server.index())):
        os.kill(pid, signal.SIGKILL)
        server.wait_for(lambda rows, pid=pid: pid not in served_by(rows) and both_serve_a(rows))
    replace_bundle(server.models / "a", classes=SECOND)
    server.wait_for(lambda rows: label(server) == "rot" and both_serve_a(rows))
    assert server.post("means", "load").status_code == 200


def served_by(rows: list[dict[str, Any]]) -> set[int]:
    return {worker["pid"] for row in rows for worker in row["workers"]}


def both_serve_a(rows: list[dict[str, Any]]) -> bool:
    """Whether two workers serve the model a, and nobody anything else."""
    served = [(row["name"], row["state"]) for row in rows if row["workers"]]
    return served == [("a", "READY")] and len(served_by(rows)) == 2


def test_metrics_know_names_by_their_template(server: Server):
    for number in range(5):
        assert server.post(f"stranger{number}", "load").status_code == 404
    metrics = httpx.get(f"{server.url}/metrics").text
    assert "stranger" not in metrics
    assert 'endpoint="/v2/repository/models/{name}/load",http_response_code="404"' in metrics


@contextmanager
def unready(bundle: Path, log: Path, **fields: object) -> Iterator[str]:
    """A server that answers and is not ready."""
    port = free_port()
    process = launch(start_command(bundle, port, device="cpu", **fields), log)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + ENOUGH_S
        while "cannot be served" not in log.read_text() or not answers(url):
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        yield url
        assert process.poll() is None
    finally:
        stop(process)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez").status_code == 200
    except httpx.TransportError:
        return False


def test_graph_that_cannot_be_loaded_is_a_sentence_and_no_restarts(tmp_path: Path):
    log = tmp_path / "log"
    with unready(write_unloadable(tmp_path / "bundle"), log, watch=True) as url:
        assert httpx.get(f"{url}/readyz").status_code == 503
        assert httpx.post(f"{url}/predict", content=plain(RED)).status_code == 503
        assert httpx.get(f"{url}/").status_code == 200
        time.sleep(11)  # BentoML looks for dead workers every 10 s
        text = log.read_text()
        assert text.count("distilled.onnx: onnxruntime cannot load it") == 1
        assert "Traceback" not in text
        replace_bundle(tmp_path / "bundle", classes=FIRST)
        end = time.monotonic() + ENOUGH_S
        while httpx.get(f"{url}/readyz").status_code != 200:
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        assert httpx.post(f"{url}/predict", content=plain(RED)).json()["label"] == "red"


def test_readiness_is_that_something_is_served_by_both_addresses(tmp_path: Path):
    models, port = tmp_path / "models", free_port()
    models.mkdir()
    process = launch(start_command(models, port, device="cpu", allow_load=True), tmp_path / "log")
    url = f"http://127.0.0.1:{port}"

    def ready() -> set[int]:
        return {httpx.get(f"{url}{path}").status_code for path in ("/readyz", "/v2/health/ready")}

    try:
        end = time.monotonic() + ENOUGH_S
        while not answers(url):
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.1)
        assert ready() == {503}
        write_bundle(models / "a")
        for work, status in (("load", 200), ("unload", 503)):
            assert httpx.post(f"{url}/v2/repository/models/a/{work}").status_code == 200
            assert ready() == {status}
        write_unloadable(models / "b")
        assert httpx.post(f"{url}/v2/repository/models/b/load").status_code == 400
        assert ready() == {503}
        assert process.poll() is None
    finally:
        stop(process)


def test_plain_bentoml_serve_takes_a_folder_of_models(tmp_path: Path):
    write_bundle(tmp_path / "models" / "a" / "7")
    write_embedder(tmp_path / "models" / "means")
    port = free_port()
    command = ["-m", "bentoml", "serve", str(ROOT), "--port", str(port), "--host", "127.0.0.1"]
    with serving(command, port, tmp_path / "log", VIEWFOLD_BUNDLE="models") as url:
        found = httpx.get(f"{url}/models").json()["models"]
        assert [(one["name"], one["version"]) for one in found] == [("a", "7"), ("means", "1")]
        assert httpx.post(f"{url}/v2/repository/models/a/unload").status_code == 403
