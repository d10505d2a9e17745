"""The model repository extension of the Open Inference Protocol, as an ASGI application.

POST /v2/repository/index               what there is and who serves it; {"ready": true} for what is served alone
POST /v2/repository/models/NAME/load    load a model, or load it again; 403 unless the server allows it
POST /v2/repository/models/NAME/unload  serve it no more

Errors are {"error": "..."}, which is what clients of the protocol read. What all workers have to do is written into
the state, and the answer waits until each of them has done it.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serving import errors, form
from serving.errors import RequestError
from serving.limits import MAX_COMMAND_BYTES
from serving.repository import Repository, versions
from serving.repository_state import READY, UNAVAILABLE, Entry, Report, State

INDEX = "/v2/repository/index"
LOAD = "/v2/repository/models/{name}/load"
UNLOAD = "/v2/repository/models/{name}/unload"
ADDRESSES = frozenset({INDEX, LOAD, UNLOAD})

WAIT_S = 30.0  # for all workers; well below BentoML's own timeout
_LOOK_S = 0.05
_FIELDS: Mapping[str, type] = {"ready": bool, "parameters": dict}
_KNOWN_PARAMETERS = ("unload_dependents",)  # Triton's clients send it; nothing here has dependents


class Desk:
    """Where the repository's requests are dealt with; open once a worker has begun."""

    def __init__(self) -> None:
        self._repository: Repository | None = None
        self._state: State | None = None
        self._allow_load = False

    def open(self, repository: Repository, state: State, *, allow_load: bool) -> None:
        """Answer from now on."""
        self._repository, self._state, self._allow_load = repository, state, allow_load

    async def answer(self, path: str, name: str, body: bytes) -> Any:
        """What a request is answered, as JSON; None for nothing.

        Raises:
            RequestError: a malformed body, an unknown model, loading that is off or that failed.
        """
        if self._repository is None or self._state is None:
            raise errors.from_status(503)
        wanted = _parse(body)
        if path == INDEX:
            found = await asyncio.to_thread(index, self._repository, self._state.reports())
            ready = wanted.get("ready", False)
            return [row for row in found if row["state"] == READY or not ready]
        if not self._allow_load:
            raise RequestError(
                403,
                "loading_is_off",
                "this server loads nothing by HTTP; start it with --allow-load",
            )
        _refuse_parameters(wanted)
        work = _load if path == LOAD else _unload
        await work(self._repository, self._state, name)
        return None


class RepositoryEndpoints:
    """Answers the addresses above, and passes everything else on."""

    def __init__(self, app: ASGIApp, desk: Desk) -> None:
        self._app = app
        self._desk = desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] != "http" or scope["path"] not in ADDRESSES:
            await self._app(scope, receive, send)
            return
        try:
            if scope["method"] != "POST":
                raise errors.from_status(405)
            name = scope["path_params"].get("name", "")
            body = await form.read_body(dict(scope["headers"]), receive, MAX_COMMAND_BYTES)
            response = _response(await self._desk.answer(scope["path"], name, body))
        except RequestError as error:
            response = errors.response(error, scope[errors.REQUEST_ID], as_text=True)
            if error.status == 405:
                response.headers["allow"] = "POST"
        await response(scope, receive, send)


def index(repository: Repository, reports: Iterable[Report]) -> list[dict[str, Any]]:
    """A row for each version that workers have something to say about, and each model that none of them has.

    Workers that say the same share a row; `workers` gives their process ids and generations.
    """
    rows: dict[Entry, list[dict[str, int]]] = defaultdict(list)
    for report in reports:
        for entry in report.entries:
            rows[entry].append({"pid": report.pid, "generation": report.generation})
    known = {entry.name for entry in rows}
    for name in _names(repository):
        if name not in known:
            version, _ = next(iter(versions(repository.folder(name))), ("", None))
            rows[Entry(name, version, UNAVAILABLE, "unloaded")] = []
    order = sorted(rows, key=lambda entry: (entry.name, entry.version, entry.state))
    return [{**entry.__dict__, "workers": rows[entry]} for entry in order]


async def _load(repository: Repository, state: State, name: str) -> None:
    there = await asyncio.to_thread(_names, repository)
    if name not in there:
        raise RequestError(404, "unknown_model", f"there is no model {name!r}; choose from {there}")
    reports = await _all_reach(state, await asyncio.to_thread(state.load, [name]))
    entries = [entry for report in reports for entry in report.entries if entry.name == name]
    for entry in entries:
        if entry.state == UNAVAILABLE:
            served = [other.version for other in entries if other.state == READY]
            rest = f"; version {served[0]} is served" if served else ""
            version = f", version {entry.version}," if entry.version else ""
            message = f"{name}{version} cannot be loaded: {entry.reason}{rest}"
            raise RequestError(400, "not_loaded", message)


async def _unload(repository: Repository, state: State, name: str) -> None:
    wanted = state.wanted().models
    if name not in wanted:
        raise RequestError(
            404, "unknown_model", f"{name!r} is not loaded; choose from {sorted(wanted)}"
        )
    await _all_reach(state, await asyncio.to_thread(state.unload, [name], for_good=True))


async def _all_reach(state: State, generation: int) -> list[Report]:
    """What all workers say once each of them has reached a generation.

    Raises:
        RequestError: they did not in time.
    """
    end = asyncio.get_running_loop().time() + WAIT_S
    while True:
        reports = await asyncio.to_thread(state.reports)
        behind = [report.pid for report in reports if report.generation < generation]
        if not behind:
            return reports
        if asyncio.get_running_loop().time() > end:
            raise RequestError(
                504,
                "workers_behind",
                f"workers {behind} have not reached generation {generation} after {WAIT_S:g} s; "
                "they go on with it, see the index",
            )
        await asyncio.sleep(_LOOK_S)


def _names(repository: Repository) -> list[str]:
    try:
        return repository.names()
    except OSError:  # a folder on another machine may be away for a while
        return []


def _parse(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError):
        raise RequestError(400, "malformed_body", "the body is not JSON") from None
    if not isinstance(content, dict) or not all(
        isinstance(content.get(name, kind()), kind) for name, kind in _FIELDS.items()
    ):
        raise RequestError(
            400, "malformed_body", "the body is not an object as the protocol has it"
        )
    return content


def _refuse_parameters(wanted: dict[str, Any]) -> None:
    parameters = wanted.get("parameters", {})
    if unknown := [name for name in parameters if name not in _KNOWN_PARAMETERS]:
        message = f"parameters {unknown} are not supported; a bundle is loaded as it lies"
        raise RequestError(400, "unknown_parameter", message)


def _response(content: Any) -> Response:
    body = b"" if content is None else json.dumps(content, ensure_ascii=False).encode()
    return Response(body, media_type="application/json")
