"""How close the service comes to onnxruntime alone, and others beside it: `python -m benchmarks.serving`.

ResNet-32 at 32 x 32. Every contender runs the same graph on the same processors as the load generator (wrk, 16
connections). Contenders take turns; before and after each, onnxruntime alone runs the graph (all threads, batches of
32), and a contender's ratio is its images a second over the mean of these two. What is not installed is left out by
name. Writes benchmarks/results/serving.json.
"""

import contextlib
import json
import shutil
import statistics
import time
import urllib.request
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks import requests
from benchmarks.load import Load, Shot, load
from benchmarks.servers import OURS, flags, serving, start_seconds
from serving import bundle
from serving.images import Pixels
from serving.limits import available_cpus
from serving.manifest import AUTO
from serving.modes import Answered, asked, graphs_of
from training.device import cpu_name
from training.json_files import write_json

RESULTS = Path(__file__).parent / "results"
CONNECTIONS, BATCH = 16, 32


@dataclass(frozen=True)
class Row:
    """A line of the table: what is asked of which server. mode: the one that onnxruntime alone answers in beside it."""

    name: str
    server: str
    request: str
    mode: str = "distilled"
    images: int = 1
    connections: int = CONNECTIONS
    query: str = ""


ROWS = (
    Row("raw body", OURS, "raw"),
    Row("multipart", OURS, "multipart"),
    Row("base64 in JSON", OURS, "json"),
    Row("32 images, multipart", OURS, "multipart32", images=BATCH, connections=4),
    Row("32 images, zip", OURS, "zip32", images=BATCH, connections=4),
    Row("32 images, base64 in JSON", OURS, "json32", images=BATCH, connections=4),
    Row("32 images, OIP tensor", OURS, "oip32", images=BATCH, connections=4),
    Row("single, raw body", OURS, "raw", "single", query="?mode=single"),
    Row("aggregated, raw body", OURS, "raw", "aggregated", query="?mode=aggregated"),
    Row("auto, raw body", OURS, "pictures", AUTO, query="?mode=auto"),
    Row("one connection", OURS, "raw", connections=1),
    Row("BentoML, usual", "usual_bentoml", "multipart"),
    Row("BentoML, adaptive batching", "batching_bentoml", "images"),
    Row("LitServe, batching", "lit", "json"),
    Row("FastAPI", "fast", "raw"),
)
PACKAGES = (
    "bentoml",
    "httptools",
    "numpy",
    "onnxruntime-gpu",
    "pillow",
    "starlette",
    "uvicorn",
    "uvloop",
)
NEEDS = {"lit": "litserve", "fast": "fastapi"}  # what has to be installed for a contender


def main() -> None:
    """Start everything, measure in turns, write."""
    parser = flags(str(__doc__), RESULTS / "serving.json")
    parser.add_argument("--rows", nargs="+", help="only these")
    settings = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed (apt-get install wrk)")
    content = measure(settings.bundle, settings.rounds, settings.seconds, settings.rows)
    write_json(settings.out, content)
    for row in content["rows"]:
        print(
            f"{row['name']:<28} {row['images_per_s']:8,.0f} images/s  {row['ratio']:.2f} of onnxruntime "
            f"[{row['ratio_min']:.2f}, {row['ratio_max']:.2f}]  p50 {row['p50_ms']:.2f} ms  failed {row['failed']:.1%}"
        )
    print(json.dumps(content["one_connection"]), json.dumps(content["start_s"]))


def measure(folder: Path, rounds: int, seconds: int, only: list[str] | None) -> dict[str, Any]:
    """All rows in turns, `rounds` times."""
    missing = [server for server, package in NEEDS.items() if not installed(package)]
    rows = [r for r in ROWS if r.server not in missing and (only is None or r.name in only)]
    alone = {mode: Alone(folder, mode) for mode in {row.mode for row in rows}}
    found: dict[str, list[dict[str, float]]] = {row.name: [] for row in rows}
    start_s = [start_seconds(folder) for _ in range(rounds)]
    with contextlib.ExitStack() as stack:
        servers = {
            name: stack.enter_context(serving(name, folder)) for name in {r.server for r in rows}
        }
        shots = {row.name: shot(row, servers[row.server], folder) for row in rows}
        for _ in range(rounds):
            for row in rows:
                found[row.name].append(turn(row, shots[row.name], alone[row.mode], seconds))
    return {
        "command": "python -m benchmarks.serving BUNDLE",
        "what": f"ResNet-32 at 32 x 32, {CONNECTIONS} connections of wrk on the same processors",
        "n": rounds,
        "seconds": seconds,
        "hardware": f"{cpu_name()}, {available_cpus()} processors",
        "versions": {
            name: version(name) for name in PACKAGES + tuple(NEEDS.values()) if installed(name)
        },
        "left_out": missing,
        "rows": [
            line(row, found[row.name]) | {"forward_passes": alone[row.mode].passes()}
            for row in rows
        ],
        "one_connection": one_connection(found.get("one connection", [])),
        "start_s": {"median": statistics.median(start_s), "max": max(start_s), "n": rounds},
    }


class Alone:
    """onnxruntime alone: the graphs of a mode in sessions with all threads, on the pictures that are sent."""

    def __init__(self, folder: Path, mode: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = available_cpus()
        read = bundle.read(folder)
        self._manifest, self._mode = read.manifest, mode
        self._sessions = {
            graph: ort.InferenceSession(read.graph(graph), options)
            for graph in graphs_of(read.manifest, mode)
        }
        side = read.manifest.image["height"]
        pixels = np.stack([np.asarray(picture) for picture in requests.pictures(side)])
        self._batches, self._one = np.split(pixels, len(pixels) // BATCH), pixels[:1]

    def passes(self) -> float:
        """How many images go through a network for each, on average."""
        return statistics.mean(float(self._ask(batch).passes.mean()) for batch in self._batches)

    def images_per_s(self, seconds: float = 1.0) -> float:
        """In batches of 32."""
        self._ask(self._batches[0])
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            for batch in self._batches:
                self._ask(batch)
                count += BATCH
        return count / (time.perf_counter() - start)

    def _ask(self, images: Pixels) -> Answered:
        asking = asked(self._manifest, images, self._mode)
        try:
            graph, feeds, outputs = next(asking)
            while True:
                found = self._sessions[graph].run(list(outputs), dict(feeds))
                graph, feeds, outputs = asking.send(found)
        except StopIteration as done:
            answered: Answered = done.value
            return answered

    def one_ms(self, runs: int = 200) -> float:
        """The median of a run of one image."""
        taken = []
        for _ in range(runs):
            start = time.perf_counter()
            self._ask(self._one)
            taken.append(1000 * (time.perf_counter() - start))
        return statistics.median(taken)


def turn(row: Row, shot: Shot, alone: Alone, seconds: int) -> dict[str, float]:
    """One contender for some seconds, and onnxruntime alone before and after it."""
    before = alone.images_per_s()
    one_ms = alone.one_ms() if row.connections == 1 else float("nan")
    seen: Load = load(shot, connections=row.connections, seconds=seconds)
    after = alone.images_per_s()
    good = seen.requests_per_s * row.images * (1 - seen.failed)
    alone_per_s = (before + after) / 2
    return asdict(seen) | {
        "images_per_s": good,
        "alone_per_s": alone_per_s,
        "ratio": good / alone_per_s,
        "one_ms": one_ms,
    }


def line(row: Row, turns: list[dict[str, float]]) -> dict[str, Any]:
    """Medians and extremes of a row."""
    ratios = [entry["ratio"] for entry in turns]
    medians = {
        key: statistics.median(entry[key] for entry in turns)
        for key in ("requests_per_s", "images_per_s", "alone_per_s", "p50_ms", "failed", "ratio")
    }
    return asdict(row) | medians | {"ratio_min": min(ratios), "ratio_max": max(ratios)}


def one_connection(turns: list[dict[str, float]]) -> dict[str, float]:
    """The median latency of one connection over that of one run of onnxruntime, in ms."""
    if not turns:
        return {}
    more = [entry["p50_ms"] - entry["one_ms"] for entry in turns]
    return {
        "p50_ms": statistics.median(entry["p50_ms"] for entry in turns),
        "one_run_ms": statistics.median(entry["one_ms"] for entry in turns),
        "more_ms": statistics.median(more),
        "more_ms_min": min(more),
        "more_ms_max": max(more),
    }


def shot(row: Row, url: str, folder: Path) -> Shot:
    """The request of a row, tried once: it must be answered."""
    manifest = bundle.read(folder).manifest
    built = requests.BUILD[row.request](manifest)
    path = built.path.format(name=manifest.name) if row.server == OURS else "/predict"
    made = Shot(f"{url}{path}{row.query}", (built.body, *built.others), built.headers)
    for body in made.bodies:
        request = urllib.request.Request(made.url, body, made.headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            answer.read()
    return made


def installed(package: str) -> bool:
    """Whether a package is there."""
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


if __name__ == "__main__":
    main()
