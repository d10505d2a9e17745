"""What a lone client waits for: `python -m benchmarks.one_connection BUNDLE`, on Linux, a minute.

uvicorn and the service in this process, a PNG as the body, one connection of wrk. Of every request it is noted when
the application gets it, when the network begins and ends, and when the answer has been sent; what wrk waits beyond that
is HTTP, sockets and wrk itself. Before and after, onnxruntime alone runs the graph on one image, over and over.
Writes benchmarks/results/one_connection.json.
"""

import asyncio
import json
import statistics
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from benchmarks import in_process, servers
from benchmarks.load import Shot, load
from benchmarks.serving import PACKAGES, RESULTS, ROWS, Alone, shot
from serving.limits import available_cpus
from serving.predictor import Predictor
from training.device import cpu_name
from training.json_files import write_json

ROW = next(row for row in ROWS if row.name == "one connection")


class Moments:
    """When what happened to each request, in seconds; one request at a time."""

    def __init__(self, application: Any) -> None:
        self.seen: list[dict[str, float]] = []
        self._application = application
        self._now: dict[str, float] = {}
        self._loop = threading.get_ident()
        self._run = Predictor.run

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """The application, watched."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        self._now = {"asked": time.perf_counter()}

        async def sent(message: Any) -> None:
            await send(message)
            if message["type"] == "http.response.body":
                self._now["answered"] = time.perf_counter()

        await self._application(scope, receive, sent)
        self.seen.append(self._now)

    def run(self, predictor: Predictor, *arguments: Any, **options: Any) -> Any:
        """The network, watched."""
        self._now["on_loop"] = threading.get_ident() == self._loop
        self._now["begun"] = time.perf_counter()
        found = self._run(predictor, *arguments, **options)
        self._now["done"] = time.perf_counter()
        return found

    def medians(self, p50_ms: float) -> dict[str, float]:
        """What the requests since the last time took, by part, in ms; and how many had their network on the loop."""
        seen = [
            one for one in self.seen if {"done", "answered"} <= one.keys()
        ]  # not what was refused
        self.seen = []
        parts = {
            "before_network": ("asked", "begun"),
            "network": ("begun", "done"),
            "after_network": ("done", "answered"),
        }
        found = {
            part: 1000 * statistics.median(one[end] - one[start] for one in seen)
            for part, (start, end) in parts.items()
        }
        inside = 1000 * statistics.median(one["answered"] - one["asked"] for one in seen)
        on_loop = statistics.mean(one["on_loop"] for one in seen)
        return found | {"outside": p50_ms - inside, "whole": p50_ms, "on_loop": on_loop}


def main() -> None:
    """Measure, print and write."""
    parser = servers.flags(str(__doc__), RESULTS / "one_connection.json")
    settings = parser.parse_args()
    rounds = uvloop.run(measure(settings.bundle, settings.rounds, settings.seconds))
    found = {part: statistics.median(one[part] for one in rounds) for part in rounds[0]}
    content = {
        "command": "python -m benchmarks.one_connection BUNDLE",
        "what": ROW.name,
        "hardware": f"{cpu_name()}, {available_cpus()} processors",
        "versions": {name: version(name) for name in PACKAGES},
        "n": settings.rounds,
        "seconds": settings.seconds,
        "ms": found,
        "more_ms": [one["whole"] - one["alone"] for one in rounds],
    }
    write_json(settings.out, content)
    print(json.dumps(found, indent=1))


async def measure(folder: Path, rounds: int, seconds: int) -> list[dict[str, float]]:
    """What the parts of a request took in each round, in ms, and what onnxruntime alone took before and after it."""
    _, application = in_process.imported(folder)
    moments, alone = Moments(application), Alone(folder, "distilled")
    Predictor.run = lambda *arguments, **options: moments.run(*arguments, **options)  # type: ignore[method-assign]
    port = servers.free_port()
    config = uvicorn.Config(moments, port=port, access_log=False, log_level="warning")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    aim = await asyncio.to_thread(shot, ROW, f"http://127.0.0.1:{port}", folder)
    await asyncio.to_thread(load, aim, connections=1, seconds=1)
    found = [await asyncio.to_thread(a_round, moments, alone, aim, seconds) for _ in range(rounds)]
    server.should_exit = True
    await serving
    return found


def a_round(moments: Moments, alone: Alone, aim: Shot, seconds: int) -> dict[str, float]:
    """One client for some seconds, and onnxruntime alone before and after it."""
    before, moments.seen = alone.one_ms(), []
    seen = load(aim, connections=1, seconds=seconds)
    found = moments.medians(seen.p50_ms)
    return found | {"alone": (before + alone.one_ms()) / 2}


if __name__ == "__main__":
    main()
