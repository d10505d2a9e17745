"""Where the processor time of a request goes: `python -m benchmarks.hot_path BUNDLE`, on Linux, a minute.

The server of benchmarks.serving, a PNG as the body, 16 connections of wrk. Under load the time of its threads is read:
the event loop's, and that of all others, which run the network. What onnxruntime alone takes for an image stands beside
it. Then the loop's own work is taken apart in one process, with a network that answers at once: decoding, BentoML's
layers with ours around them, and the rest of an answer. Writes benchmarks/results/hot_path.json.
"""

import asyncio
import json
import os
import resource
import statistics
import time
import urllib.request
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import in_process, requests, servers
from benchmarks.load import Shot, load
from benchmarks.serving import CONNECTIONS, PACKAGES, ROWS, Alone, shot
from serving import bundle, images
from serving.batching import Lane
from serving.images import ImageSpec
from serving.limits import available_cpus
from serving.predictor import Predictor
from training.device import cpu_name
from training.json_files import write_json

RESULTS = Path(__file__).parent / "results"
TURNS, TIMES = 5, 1000  # of what is measured in one process, and how often in a turn
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
ROW = next(row for row in ROWS if row.name == "raw body")


def main() -> None:
    """Measure, print and write."""
    parser = servers.flags(str(__doc__), RESULTS / "hot_path.json")
    settings = parser.parse_args()
    pieces = asyncio.run(in_one_process(settings.bundle))
    loaded = under_load(settings.bundle, settings.rounds, settings.seconds)
    content = {
        "command": "python -m benchmarks.hot_path BUNDLE",
        "what": f"{ROW.name}, {CONNECTIONS} connections",
        "hardware": f"{cpu_name()}, {available_cpus()} processors",
        "versions": {name: version(name) for name in PACKAGES},
        "n": settings.rounds,
        "under_load_us": loaded,
        "in_one_process_us": pieces,
    }
    write_json(settings.out, content)
    print(json.dumps({"under load": loaded, "in one process": pieces}, indent=1))


def under_load(folder: Path, rounds: int, seconds: int) -> dict[str, float]:
    """Microseconds of all processors a request, by who takes them: medians over the rounds."""
    alone = Alone(folder, "distilled")
    taken: dict[str, list[float]] = {}
    with servers.serving(servers.OURS, folder) as url:
        aim, pid = shot(ROW, url, folder), worker(url)
        load(aim, connections=CONNECTIONS, seconds=1)
        for _ in range(rounds):
            alone_per_s = alone.images_per_s()
            for who, microseconds in shares(aim, pid, seconds).items():
                taken.setdefault(who, []).append(microseconds)
            taken.setdefault("onnxruntime_alone", []).append(
                1e6 * available_cpus() / ((alone_per_s + alone.images_per_s()) / 2)
            )
    return {who: statistics.median(values) for who, values in taken.items()}


def shares(aim: Shot, pid: int, seconds: int) -> dict[str, float]:
    """Microseconds a request of the event loop, of the threads that run the network, of wrk, and of nobody."""
    before, children = thread_seconds(pid), resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    seen = load(aim, connections=CONNECTIONS, seconds=seconds)
    elapsed = time.perf_counter() - start
    after, more = thread_seconds(pid), resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = {tid: after[tid] - before.get(tid, 0.0) for tid in after}
    loop = spent.pop(pid)  # the main thread
    found = {
        "event_loop": loop,
        "network": sum(spent.values()),
        "load_generator": more.ru_utime + more.ru_stime - children.ru_utime - children.ru_stime,
    }
    found["idle_or_others"] = available_cpus() * elapsed - sum(found.values())
    return {who: 1e6 * s / (seen.requests_per_s * elapsed) for who, s in found.items()}


def worker(url: str) -> int:
    """The process that answers."""
    asked = urllib.request.Request(f"{url}/v2/repository/index", b"{}", method="POST")
    with urllib.request.urlopen(asked) as answer:
        (row,) = json.load(answer)
    return int(row["workers"][0]["pid"])


def thread_seconds(pid: int) -> dict[int, float]:
    """What each thread of a process has taken, in user and system time."""
    found = {}
    for path in Path(f"/proc/{pid}/task").iterdir():
        fields = (path / "stat").read_text().rpartition(")")[2].split()
        found[int(path.name)] = (int(fields[11]) + int(fields[12])) * TICK_S
    return found


async def in_one_process(folder: Path) -> dict[str, float]:
    """Microseconds of the event loop's thread: decoding a picture, an answer without BentoML, a whole answer."""
    service, application = in_process.imported(folder)
    from serving.endpoints import Endpoints  # imports BentoML

    manifest = bundle.read(folder).manifest
    spec, data = ImageSpec(**manifest.image), requests.png(manifest)
    answer = np.full((1, len(manifest.classes)), 1 / len(manifest.classes), np.float32)

    def at_once(*arguments: Any, **options: Any) -> list[Any]:
        return [np.repeat(answer, len(arguments[2]["images"]), 0)]

    starlette = application._app
    async with starlette.router.lifespan_context(starlette):
        Predictor.run = at_once  # type: ignore[method-assign]
        Lane.quick = lambda *_: False  # type: ignore[method-assign]  # a thread runs it, as under load
        ours = Endpoints(starlette, service._models)

        async def decode(_: dict[str, Any]) -> None:
            images.fit(images.load(images.header(data), spec), spec)

        return {
            "decoding": await timed(decode),
            "answer_without_bentoml": await timed(lambda scope: ask(ours, scope, data)),
            "whole_answer": await timed(lambda scope: ask(application, scope, data)),
        }


async def timed(work: Callable[[dict[str, Any]], Awaitable[None]]) -> float:
    """The median over turns of the mean processor time of this thread, in microseconds."""
    found = []
    for _ in range(TURNS):
        scopes = [scope() for _ in range(TIMES)]
        start = time.thread_time()
        for one in scopes:
            await work(one)
        found.append(1e6 * (time.thread_time() - start) / TIMES)
    return statistics.median(found)


def scope() -> dict[str, Any]:
    """What uvicorn makes of a request."""
    headers = [(b"host", b"localhost"), (b"content-type", b"image/png")]
    return {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "scheme": "http",
        "http_version": "1.1",
        "server": ("localhost", 80),
        "client": ("localhost", 1),
        "asgi": {"version": "3.0"},
        "x-request-id": "1",
    }


async def ask(application: Any, scope: dict[str, Any], body: bytes) -> None:
    """One request to an ASGI application, which must be answered."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: dict[str, Any]) -> None:
        assert message.get("status", 200) == 200

    await application(scope, receive, send)


if __name__ == "__main__":
    main()
