"""A server that is told to stop, as a container is: by SIGTERM to its first process."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.pictures import RED, plain
from tests.serving.servers import STOP_S, free_port, launch, start_command, stop, wait_until_ready

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("workers", [1, 2])
def test_what_has_begun_is_answered_before_a_server_stops(
    colours: Path, tmp_path: Path, workers: int
):
    port, log = free_port(), tmp_path / "log"
    url = f"http://127.0.0.1:{port}"
    process = launch(start_command(colours, port, device="cpu", workers=workers), log)
    try:
        wait_until_ready(url, process, log)
        picture, half, go_on = plain(RED), threading.Event(), threading.Event()

        def slowly() -> Iterator[bytes]:
            yield picture[:10]
            half.set()
            go_on.wait(STOP_S)
            yield picture[10:]

        answers: list[httpx.Response] = []

        def ask() -> None:
            answers.append(httpx.post(f"{url}/predict", content=slowly(), timeout=STOP_S))

        asking = threading.Thread(target=ask)
        asking.start()
        assert half.wait(STOP_S)
        wait_for(lambda: 'in_progress{endpoint="/predict"' in httpx.get(f"{url}/metrics").text)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: not accepts(url))
        go_on.set()
        asking.join(STOP_S)
        assert [(a.status_code, a.json()["label"]) for a in answers] == [(200, "red")]
        assert process.wait(STOP_S) == 0
    finally:
        stop(process)
    assert "Traceback" not in log.read_text()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + STOP_S
    while not condition():
        assert time.monotonic() < end


def accepts(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez").is_success
    except httpx.TransportError:
        return False
