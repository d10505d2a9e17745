"""What is still to come of a refused request's body is read within bounds, and not where nothing is to come."""

import asyncio

import pytest
from starlette.types import Message

from serving import limits, unread
from serving.unread import Body

CHUNKED = {"transfer-encoding": "chunked"}


class Client:
    """Sends chunks of a MiB; without an end when there are no more."""

    def __init__(self, chunks: int, *, ends: bool = True) -> None:
        self.left, self.ends = chunks, ends

    async def __call__(self) -> Message:
        if not self.left:
            await asyncio.Event().wait()
        self.left -= 1
        body = bytes(1024**2)
        return {"type": "http.request", "body": body, "more_body": bool(self.left) or not self.ends}


def left(client: Client, received: int = 0, **headers: str) -> int:
    """The chunks that are not read after some were received and the rest discarded."""

    async def refuse() -> None:
        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        body = Body({"type": "http", "headers": raw}, client)
        for _ in range(received):
            await body()
        await asyncio.wait_for(body.discard(), 5)

    asyncio.run(refuse())
    return client.left


@pytest.mark.parametrize("received", [0, 1, 30])
@pytest.mark.parametrize("headers", [CHUNKED, {"content-length": str(30 * 1024**2)}])
def test_the_rest_is_read_and_nothing_after_it(received: int, headers: dict[str, str]):
    assert left(Client(30), received, **headers) == 0


def test_more_than_the_bound_is_left():
    most = limits.MAX_DISCARDED_BYTES // 1024**2
    assert left(Client(most + 10), **CHUNKED) == 9
    assert left(Client(30), content_length=str(limits.MAX_DISCARDED_BYTES + 1)) == 30
    assert left(Client(30), content_length="9" * 5000) == 30


def test_no_body_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(unread, "MAX_SILENCE_S", 60)
    assert left(Client(0)) == left(Client(0), content_length="0") == 0


def test_client_that_asks_first_is_not_asked_to_send():
    headers = {**CHUNKED, "expect": "100-continue"}
    assert left(Client(3), **headers) == 3
    assert left(Client(3), received=1, **headers) == 0  # it was asked


@pytest.mark.parametrize("bound", ["MAX_SILENCE_S", "MAX_DISCARD_S"])
def test_silent_client_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, bound: str):
    monkeypatch.setattr(unread, bound, 0.01)
    assert left(Client(2, ends=False), **CHUNKED) == 0
