"""The outermost layer of the server, around everything that BentoML builds.

It gives every request an id, turns every error into a shape of `errors`, has the rest of a refused request read
(`unread`), and lets only known addresses through under a name that is known: BentoML's metrics keep a series for each
address asked for, so strangers who try addresses would fill the memory, and its own index page loads scripts from
outside.
"""

import logging
import re
import uuid
from collections.abc import Iterable
from typing import Any, TypeVar

import bentoml
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import errors, protocol, repository_endpoints
from serving.addresses import Addresses, is_protocol
from serving.pages import PAGES
from serving.unread import Body

T = TypeVar("T")

_log = logging.getLogger(
    "bentoml.viewfold"
)  # below BentoML's, whose handlers write to the server's log

_BENTOML_PATHS = ("/livez", "/healthz", "/readyz", "/metrics", "/schema.json")
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_KEPT_HEADERS = ("allow", "retry-after")


class GatedService(bentoml.Service[T]):  # type: ignore[misc]  # BentoML's SDK is not typed
    """A BentoML service whose application stands behind the gate."""

    def to_asgi(self, is_main: bool = True) -> Any:
        """The application that BentoML's workers, and tests, run."""
        paths = {method.route for method in self.apis.values()}
        paths.update(_BENTOML_PATHS, PAGES, protocol.ADDRESSES, repository_endpoints.ADDRESSES)
        return Gate(super().to_asgi(is_main=is_main), paths)


class Gate:
    """An ASGI application around another one; the module's first lines say what it does."""

    def __init__(self, app: ASGIApp, templates: Iterable[str]) -> None:
        self._app = app
        self._addresses = Addresses(templates)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass the server's start and stop on."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        elif scope["type"] != "http":
            await self._app(scope, receive, send)
        else:
            template, names = self._addresses.find(scope["path"])
            request_id = _request_id(Headers(scope=scope).get(errors.REQUEST_ID, ""))
            inner = {
                **scope,
                "path": template,
                "path_params": names,
                errors.REQUEST_ID: request_id,
            }
            body = Body(scope, receive)
            answer = _Answer(send, body, request_id, is_protocol(scope["path"]))
            await self._app(inner, body, answer)


class Catch:
    """An ASGI application that answers when the one inside raises.

    It goes inside BentoML's own layers (add_asgi_middleware): its timeout waits for an answer that never comes.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, come what may."""
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            if started or scope["type"] != "http":
                raise
            request_id = scope[errors.REQUEST_ID]
            _log.exception("%s %s failed (%s)", scope["method"], scope["path"], request_id)
            as_text = is_protocol(scope["path"])
            answer = errors.response(errors.from_status(500), request_id, as_text=as_text)
            await answer(scope, receive, send)


class _Answer:
    """Sends what the application answers, or our error in place of its own; an error after all of the body.

    as_text: the shape of our errors, as in errors.response.
    """

    def __init__(self, send: Send, body: Body, request_id: str, as_text: bool) -> None:
        self._send = send
        self._body = body
        self._request_id = request_id
        self._as_text = as_text
        self._replaced = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers[errors.REQUEST_ID] = self._request_id
            if message["status"] >= 400:
                await self._body.discard()
            if message["status"] >= 400 and errors.CODE not in headers:
                self._replaced = True
                await self._replace(message["status"], headers)
                return
        if not self._replaced:
            await self._send(message)

    async def _replace(self, status: int, headers: Headers) -> None:
        error = errors.from_status(status)
        response = errors.response(error, self._request_id, as_text=self._as_text)
        for name in _KEPT_HEADERS:
            if name in headers:
                response.headers[name] = headers[name]
        raw = response.raw_headers
        await self._send({"type": "http.response.start", "status": status, "headers": raw})
        await self._send({"type": "http.response.body", "body": bytes(response.body)})


def _request_id(given: str) -> str:
    return given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex
