"""POST /predict, POST /embed and /v2 as an ASGI application, within BentoML's layers: metrics, timeout, access log.

It stands where BentoML lets middleware stand (add_asgi_middleware) and answers these addresses itself. BentoML's own
way to a method, by its router and by inspecting the method's signature at every call, costs a tenth of what a small
network does. The service's methods describe the addresses to BentoML's clients, and answer by the same functions.
"""

from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serving import answering, errors, form, protocol
from serving.answering import Work
from serving.models import Models

WORK: Mapping[str, Work] = {"/predict": answering.classify, "/embed": answering.embed}


class Endpoints:
    """Answers POST to the addresses of WORK, and the Open Inference Protocol; passes everything else on."""

    def __init__(self, app: ASGIApp, models: Models) -> None:
        self._app = app
        self._models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        path = scope["path"] if scope["type"] == "http" else ""
        work = WORK.get(path)
        if work is not None and scope["method"] == "POST":
            response = await self._answer(work, scope, receive)
        elif path in protocol.ADDRESSES:
            response = await protocol.answer(self._models, scope, receive)
        else:
            await self._app(scope, receive, send)
            return
        await response(scope, receive, send)

    async def _answer(self, work: Work, scope: Scope, receive: Receive) -> Response:
        try:
            request: form.Received | form.Refused = await form.receive(scope, receive)
        except errors.RequestError as error:
            request = form.Refused(error, scope[errors.REQUEST_ID])
        return await answering.answer(self._models, request, work)
