"""More than a server takes at a time: refused at once, and taken again when there is room."""

import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from serving import batching, decoding, images, service
from tests.answers import error
from tests.pictures import RED, encoded, plain

LARGE = encoded(Image.new("RGB", (400, 400), RED))  # decoded in a thread
ENOUGH_S = 20


class Held:
    """A function that waits for the gate, and says when it has begun."""

    def __init__(self, work: Callable[..., Any]) -> None:
        self.work = work
        self.gate, self.begun = threading.Event(), threading.Semaphore(0)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.begun.release()
        assert self.gate.wait(ENOUGH_S)
        return self.work(*arguments, **options)


def test_files_that_wait_to_be_decoded_are_bounded(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
):
    held = Held(images.load)
    monkeypatch.setattr(images, "load", held)
    monkeypatch.setattr(decoding, "MAX_ENCODED_BYTES", len(LARGE))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/predict", content=LARGE)
        assert held.begun.acquire(timeout=ENOUGH_S)
        check_refusal(client.post("/predict", content=LARGE))
        assert client.post("/predict", content=b"text").status_code == 503
        held.gate.set()
        assert first.result(ENOUGH_S).json()["label"] == "red"
    assert client.post("/predict", content=LARGE).json()["label"] == "red"


def test_pixels_that_wait_for_a_network_are_bounded(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
):
    engine = service._models.get(None).engine
    batcher = engine._batcher
    held = Held(engine._predictor.run)
    monkeypatch.setattr(engine._predictor, "run", held)
    monkeypatch.setattr(batcher, "_max_bytes", 1)
    monkeypatch.setattr(batching, "_QUICK_S", 0.0)  # what is held would hold the event loop
    with ThreadPoolExecutor(8) as pool:
        ask = functools.partial(pool.submit, client.post, "/predict", content=plain(RED))
        asked = []
        for _ in range(batcher._runners):  # each has a run to itself
            asked.append(ask())
            assert held.begun.acquire(timeout=ENOUGH_S)
        asked.append(ask())  # waits
        end = time.monotonic() + ENOUGH_S
        while not batcher._bytes:
            assert time.monotonic() < end
        check_refusal(client.post("/predict", content=plain(RED)))
        held.gate.set()
        assert [one.result(ENOUGH_S).json()["label"] for one in asked] == ["red"] * len(asked)
    assert client.post("/predict", content=plain(RED)).json()["label"] == "red"


def check_refusal(response: Any) -> None:
    found = error(response)
    assert (found["status"], found["code"]) == (503, "unavailable")
    assert response.headers["retry-after"] == "1"
