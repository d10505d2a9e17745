"""A real server process, and what BentoML's client, curl and people who press Ctrl-C see of it."""

import http.client
import os
import re
import runpy
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import httpx
import pytest
from bentoml import SyncHTTPClient
from bentoml.exceptions import BentoMLException
from PIL import Image

import viewfold
from serving import repository, start
from serving.limits import MAX_SILENCE_S
from serving.predictor import DeviceError, ModeError
from serving.repository import RepositoryError
from serving.settings import ROOT, Settings, SettingsError
from serving.start import ServeConfig, announcement, run
from tests.bundles import write_bundle, write_embedder
from tests.pictures import GREEN, RED, declared_png, encoded, plain
from tests.serving.servers import (
    START_S,
    free_port,
    launch,
    serving,
    start_command,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server") / "log"


@pytest.fixture(scope="module")
def url(colours: Path, log: Path) -> Iterator[str]:
    """A server of `viewfold serve`; that it stops cleanly is checked when the tests are through."""
    port = free_port()
    command = start_command(colours, port, mode="single", device="cpu", workers=2)
    with serving(command, port, log) as started:
        yield started


def test_says_what_is_served_and_where(url: str, log: Path, colours: Path):
    text = log.read_text()
    assert "colours: 3 classes, on cpu" in text
    assert "distilled (1), single (1), aggregated (4); default single" in text
    assert f"curl --data-binary @{colours / 'samples' / 'red.png'} {url}/predict" in text


def test_curl_with_the_raw_file(url: str):
    headers = {"content-type": "application/x-www-form-urlencoded"}
    answer = httpx.post(f"{url}/predict", content=plain(RED, "JPEG"), headers=headers).json()
    assert (answer["label"], answer["mode"]) == ("red", "single")


def test_curl_itself(url: str, tmp_path: Path):
    (tmp_path / "green.png").write_bytes(plain(GREEN))
    for options in (
        ["--data-binary", "@green.png"],
        ["-F", "image=@green.png", "-F", "mode=single"],
    ):
        command = ["curl", "-s", *options, f"{url}/predict?top_k=1"]
        answer = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout
        assert b'"label": "green"' in answer


def test_bentomls_own_client(url: str, tmp_path: Path):
    path = tmp_path / "green.png"
    path.write_bytes(plain(GREEN))
    with SyncHTTPClient(url) as client:
        assert client.predict(image=path)["label"] == "green"
        assert client.predict(image=str(path), mode="aggregated", top_k=2)["forward_passes"] == 4
        assert client.predict(image=path, mode=None)["mode"] == "single"
        with Image.open(path) as picture:
            assert client.predict(image=picture)["label"] == "green"


def test_bentomls_own_client_sees_the_sentence(url: str, tmp_path: Path):
    path = tmp_path / "red.png"
    path.write_bytes(plain(RED))
    with SyncHTTPClient(url) as client, pytest.raises(BentoMLException, match="unknown mode"):
        client.predict(image=path, mode="best")


def test_bad_requests_one_after_the_other_and_the_server_lives_on(url: str):
    def too_large() -> Iterator[bytes]:
        for _ in range(25):
            yield bytes(1024**2)

    with httpx.Client(base_url=url, timeout=20) as client:
        for content, status in (
            (b"", 400),
            (b"nonsense", 415),
            (encoded(Image.effect_noise((64, 64), 90), "JPEG")[:1500], 422),
            (declared_png(60_000, 60_000), 413),
            (bytes(21 * 1024**2), 413),
            (too_large(), 413),
        ):
            response = client.post("/predict", content=content)
            assert response.status_code == status
            assert set(response.json()) == {"error"}
        assert client.post("/predict", content=plain(RED, size=1)).json()["label"] == "red"


def test_declared_length_over_the_limit_is_refused_before_the_body_is_sent(url: str):
    address = httpx.URL(url)
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n"
    with closing(socket.create_connection((address.host, address.port or 80), timeout=10)) as raw:
        raw.sendall(head)
        assert raw.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "path", ["/predict", "/v2/models/colours/infer", "/v2/models/none/infer", "/none"]
)
@pytest.mark.parametrize("chunked", [False, True])
def test_client_that_sends_all_before_it_reads_gets_the_answer(url: str, path: str, chunked: bool):
    chunk = bytes(1024**2)
    body = iter([chunk] * 40) if chunked else chunk * 40
    address = httpx.URL(url)
    with closing(http.client.HTTPConnection(address.host, address.port, timeout=20)) as connection:
        headers = {"Connection": "close"}  # as urllib says
        connection.request("POST", path, body, headers, encode_chunked=chunked)  # raises at a reset
        response = connection.getresponse()
        assert response.status == (404 if "none" in path else 413)
        assert b"error" in response.read()


def test_client_that_asks_before_it_sends_is_refused_at_once(url: str):
    address = httpx.URL(url)
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 40000000\r\n\r\n"
    with closing(socket.create_connection((address.host, address.port or 80), timeout=10)) as raw:
        begin = time.monotonic()
        raw.sendall(head)
        assert raw.recv(100).startswith(b"HTTP/1.1 413")
        assert time.monotonic() - begin < MAX_SILENCE_S


def test_client_that_goes_away_leaves_no_trace(url: str, log: Path):
    address = httpx.URL(url)
    with closing(socket.create_connection((address.host, address.port or 80), timeout=10)) as raw:
        raw.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf")
    time.sleep(0.5)
    assert httpx.get(f"{url}/models").status_code == 200
    assert "Traceback" not in log.read_text()


def test_documented_addresses_answer(url: str):
    for path, methods in httpx.get(f"{url}/docs.json").json()["paths"].items():
        if "get" in methods:
            address = url + path.replace("{model}", "colours")
            assert httpx.get(address).status_code == 200


def test_metrics_count_strangers_addresses_together(url: str):
    httpx.post(f"{url}/predict", content=plain(RED))
    for number in range(5):
        assert httpx.get(f"{url}/stranger/{number}").status_code == 404
    metrics = httpx.get(f"{url}/metrics").text
    assert "stranger" not in metrics
    assert re.search(r'request_total\{endpoint="/unknown",http_response_code="404".*\} \d', metrics)
    assert re.search(r'request_total\{endpoint="/predict",http_response_code="200".*\} \d', metrics)


def test_plain_bentoml_serve_reads_the_environment_and_reports_nothing(
    colours: Path, tmp_path: Path
):
    port = free_port()
    command = ["-m", "bentoml", "serve", str(ROOT)]
    environment = {
        "VIEWFOLD_BUNDLE": os.path.relpath(colours, tmp_path),  # workers run in another folder
        "VIEWFOLD_MODE": "aggregated",
        "__BENTOML_DEBUG_USAGE": "True",  # BentoML then prints what it would report
    }
    command += ["--port", str(port), "--host", "127.0.0.1"]
    with serving(command, port, tmp_path / "log", **environment) as url:
        assert httpx.post(f"{url}/predict", content=plain(RED)).json()["mode"] == "aggregated"
    assert "Tracking Payload" not in (tmp_path / "log").read_text()


def test_plain_bentoml_serve_without_a_bundle_says_so_and_ends(tmp_path: Path):
    command = ["-m", "bentoml", "serve", "serving.service:Service", "--working-dir", str(ROOT)]
    command += ["--port", str(free_port())]
    process = launch(command, tmp_path / "log", VIEWFOLD_BUNDLE=str(tmp_path / "nothing"))
    assert process.wait(START_S) != 0
    text = (tmp_path / "log").read_text()
    assert "nothing is not a bundle" in text
    assert "Traceback" not in text


@pytest.fixture
def no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a server would be started."""

    def start(*arguments: object) -> None:
        raise AssertionError("a server was started")

    monkeypatch.setattr(runpy, "run_module", start)


@pytest.mark.usefixtures("no_start")
def test_port_in_use_is_one_sentence(colours: Path):
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"port {port} \(Address already in use\)"):
            run(ServeConfig(colours, port=port))


@pytest.mark.usefixtures("no_start")
@pytest.mark.parametrize(
    ("fields", "fault", "message"),
    [
        ({"bundle": Path("/nowhere")}, RepositoryError, "is not a bundle"),
        ({"modes": "single,best"}, ModeError, "unknown mode 'best'"),
        ({"modes": "single"}, ModeError, r"'distilled' is not among .*name one of them"),
        ({"modes": "single,"}, SettingsError, "commas between"),
        ({"mode": "best"}, ModeError, r"\['aggregated', 'distilled', 'single'\]"),
        ({"workers": 0}, SettingsError, "at least 1"),
        ({"port": 0}, SettingsError, "1 to 65535"),
        ({"port": 70_000}, SettingsError, "1 to 65535"),
        ({"host": "example.org"}, SettingsError, "not an IP address"),
        ({"host": "203.0.113.7"}, SettingsError, "cannot listen on"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(
    colours: Path, fields: dict[str, object], fault: type[Exception], message: str
):
    options = {"bundle": colours, "port": free_port(), **fields}
    with pytest.raises(fault, match=message):
        run(ServeConfig(**options))  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_start")
def test_cuda_where_there_is_none_is_one_sentence(colours: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("serving.predictor._missing_cuda", lambda: "there is no GPU")
    with pytest.raises(DeviceError, match="CUDA was asked for, but there is no GPU"):
        run(ServeConfig(colours, port=free_port(), device="cuda"))


def announced(folder: Path, **fields: object) -> str:
    config = ServeConfig(folder, **fields)  # type: ignore[arg-type]
    settings = Settings(folder)
    return announcement(config, repository.check(repository.open_repository(settings), settings))


def test_announcement_can_be_pasted(colours: Path, tmp_path: Path):
    everywhere = announced(colours, host="0.0.0.0", port=80)
    assert "http://localhost:80/predict" in everywhere
    assert "http://[::1]:81/" in announced(colours, host="::1", port=81)
    without = write_bundle(tmp_path, samples={})
    said = announced(without, host="0.0.0.0", port=80)
    assert "@image.png http://localhost:80/predict" in said
    sample = re.search("@(.*) http", everywhere)
    assert sample is not None
    assert Path(sample[1]).read_bytes() == plain(RED)


def test_announcement_of_several_models_names_each_and_what_is_not_served(tmp_path: Path):
    write_bundle(tmp_path / "a model" / "2")
    write_embedder(tmp_path / "means")
    (write_bundle(tmp_path / "odd") / "single.onnx").unlink()
    said = announced(tmp_path, port=80)
    assert "a model: 3 classes, on cpu\nmodes (forward passes): distilled (1), single (1)" in said
    assert "means: embeddings of 3 numbers, on cpu" in said
    assert "odd, version 1: not served: single.onnx is missing from odd;" in said
    picture = tmp_path / "a model" / "2" / "samples" / "red.png"
    url = "http://127.0.0.1:80/predict?model=a%20model"
    assert f"curl --data-binary '@{picture}' '{url}'" in said


def test_importing_the_service_needs_no_bundle_and_no_torch(tmp_path: Path):
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'training', 'export', 'tyro'): sys.modules[name] = None\n"
        "import serving.service\n"
    )
    process = launch(["-c", code], tmp_path / "log", VIEWFOLD_BUNDLE=str(tmp_path / "nothing"))
    assert process.wait(START_S) == 0, (tmp_path / "log").read_text()


def test_unusual_picture_over_the_wire(url: str):
    picture = Image.new("RGBA", (40, 40), (*GREEN, 255))
    answer = httpx.post(f"{url}/predict", files={"image": encoded(picture)}).json()
    assert answer["label"] == "green"


def test_what_no_flag_says_the_environment_does(tmp_path: Path):
    said = {"BUNDLE": str(tmp_path), "MODE": "single", "MODES": "single,distilled", "WORKERS": "2"}
    said |= dict.fromkeys(("WATCH", "ALLOW_LOAD", "STRICT", "ACCESS_LOG"), "1") | {"DEVICE": "cpu"}
    with patch.dict(os.environ, clear=True):
        assert start.defaults() == ServeConfig()
        os.environ.update({f"VIEWFOLD_{name}": value for name, value in said.items()})
        assert start.defaults() == ServeConfig(
            tmp_path,
            mode="single",
            modes="single,distilled",
            device="cpu",
            workers=2,
            watch=True,
            allow_load=True,
            strict=True,
            access_log=True,
        )
        os.environ["VIEWFOLD_WORKERS"] = "many"
        with pytest.raises(SettingsError, match="VIEWFOLD_WORKERS is 'many'"):
            start.defaults()


def test_mode_of_the_environment_is_announced_or_refused_at_once(
    colours: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    modes: list[str] = []
    monkeypatch.setattr(
        runpy, "run_module", lambda *_, **__: modes.append(os.environ["VIEWFOLD_MODE"])
    )
    monkeypatch.setattr(sys, "argv", [])
    command = [str(colours), "--port", str(free_port())]
    with patch.dict(os.environ, VIEWFOLD_MODE="single"):
        assert viewfold.serve(command) == 0
        assert "default single" in capsys.readouterr().out
        assert viewfold.serve([*command, "--mode", "aggregated"]) == 0
    assert modes == ["single", "aggregated"]
    with patch.dict(os.environ, VIEWFOLD_MODE="foo"), pytest.raises(ModeError, match="foo"):
        viewfold.serve(command)


def test_servers_at_other_addresses_and_on_other_machines_have_metrics_of_their_own(
    colours: Path, monkeypatch: pytest.MonkeyPatch
):
    homes = set()
    for host, machine in (("127.0.0.1", "a"), ("127.0.0.2", "a"), ("127.0.0.1", "b")):
        monkeypatch.setattr(socket, "gethostname", lambda machine=machine: machine)
        config = ServeConfig(colours, host=host, port=3000)
        homes.add(start._environment(Settings(colours), config)["BENTOML_HOME"])
    assert len(homes) == 3
