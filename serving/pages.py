"""What is answered to GET: the page, the OpenAPI document and the list of models. Nothing is loaded from outside."""

from importlib.resources import files

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from serving import model, openapi

# The browser itself refuses whatever the page would load from another host.
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


async def _page(request: Request) -> Response:
    return HTMLResponse(request.app.state.page, headers=_HEADERS)


async def _document(request: Request) -> Response:
    return JSONResponse(request.app.state.document)


async def _models(request: Request) -> Response:
    return JSONResponse(request.app.state.models)


_ENDPOINTS = {"/": _page, "/docs": _page, "/docs.json": _document, "/models": _models}

PAGES = frozenset(_ENDPOINTS)
app = Starlette(routes=[Route(path, endpoint) for path, endpoint in _ENDPOINTS.items()])


def show(*loaded: model.Model) -> None:
    """Let the pages speak of these models; BentoML wants the application before a model is loaded."""
    descriptions = [model.describe(one) for one in loaded]
    app.state.page = files("serving").joinpath("page", "index.html").read_text(encoding="utf-8")
    app.state.document = openapi.document(*descriptions)
    app.state.models = {"models": descriptions}
