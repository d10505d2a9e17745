"""The rest of a refused request's body: read and thrown away, so that its client comes to read the answer.

Python's urllib, and many others, send all of a body before they look at what comes back, and ask for the connection to
be closed after it. A server that answers and closes earlier resets the connection, and they never learn why. Bounded in
bytes and in time: who sends on and on is closed on. A client that asks first (Expect: 100-continue) has sent nothing,
and is answered at once.
"""

import asyncio
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope

from serving.limits import MAX_DISCARD_S, MAX_DISCARDED_BYTES, MAX_SILENCE_S


class Body:
    """A request's body: called as the `receive` that it stands for, it knows how much was received."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._headers = Headers(scope=scope)
        self._receive = receive
        self._asked = self._ended = False
        self._size = 0

    async def __call__(self) -> Message:
        """The next message."""
        self._asked = True
        message = await self._receive()
        self._size += len(message.get("body", b""))
        self._ended = not message.get("more_body", False)  # also when the client went away
        return message

    async def discard(self) -> None:
        """Read what is still to come, if the client sends it and it is not too much."""
        if self._coming():
            with suppress(TimeoutError):
                async with asyncio.timeout(MAX_DISCARD_S):
                    while not self._ended and self._size <= MAX_DISCARDED_BYTES:
                        await asyncio.wait_for(self(), MAX_SILENCE_S)

    def _coming(self) -> bool:
        declared = self._headers.get("content-length", "")
        if self._ended or (not self._asked and "expect" in self._headers):
            return False
        if declared.isdigit():
            return 0 < int(declared[:20]) <= MAX_DISCARDED_BYTES
        return "transfer-encoding" in self._headers
