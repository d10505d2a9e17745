"""What is measured of the service."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from benchmarks import (
    hot_path,
    load,
    memory,
    requests,
    servers,
    serving,
)
from serving import bundle
from serving.predictor import Predictor
from tests.bundles import write_auto, write_bundle

WRK = """Running 4s test @ http://127.0.0.1:3100/predict
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    15.17ms    3.12ms  54.08ms   92.31%
    Req/Sec     1.06k    93.14     1.17k    85.00%
  Latency Distribution
     50%   950.00us
     99%   25.00ms
  4240 requests in 4.00s, 2.01MB read
  Socket errors: connect 0, read 6, write 0, timeout 4
  Non-2xx or 3xx responses: 415
Requests/sec:   1060.00
Transfer/sec:    512.00KB
"""


def test_load_is_read_from_what_wrk_prints():
    found = load.read(WRK)
    assert (found.requests_per_s, found.p50_ms) == (1060, pytest.approx(0.95))
    assert found.failed == pytest.approx((415 + 10) / (4240 + 10))
    quiet = "\n".join(line for line in WRK.splitlines() if "rr" not in line and "Non" not in line)
    assert load.read(quiet.replace("950.00us", "1.20s")) == load.Load(1060, 1200, 0)


def test_a_line_has_medians_and_extremes_of_its_turns():
    row = serving.Row("raw body", servers.OURS, "raw")
    turns = [
        {"requests_per_s": r, "images_per_s": r, "alone_per_s": 100.0, "p50_ms": 1.0, "failed": 0.0}
        | {"ratio": r / 100}
        for r in (80.0, 60.0, 90.0)
    ]
    line = serving.line(row, turns)
    assert (line["ratio"], line["ratio_min"], line["ratio_max"]) == (0.8, 0.6, 0.9)
    assert line["requests_per_s"] == 80


def test_onnxruntime_alone_answers_auto_as_the_service_does(tmp_path: Path):
    folder = write_auto(tmp_path / "bundle", threshold=0.5)
    answered = Predictor(bundle.read(folder)).answer(
        np.stack([np.asarray(picture) for picture in requests.pictures(32)]), "auto"
    )
    assert serving.Alone(folder, "auto").passes() == pytest.approx(answered.passes.mean())


def test_pictures_differ(tmp_path: Path):
    about = bundle.read(write_bundle(tmp_path)).manifest
    found = requests.BUILD["pictures"](about)
    assert len({found.body, *found.others}) == requests.PICTURES


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_bodies_are_sent_in_turn():
    seen: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            seen.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        shot = load.Shot(f"http://127.0.0.1:{server.server_port}/", (b"a", b"b\n", b"c"), {})
        found = load.load(shot, connections=1, seconds=1)
        server.shutdown()
    assert found.failed == 0
    assert set(seen[:3]) == {b"a", b"b\n", b"c"}
    assert seen[3:6] == seen[:3]


def test_every_request_of_the_serving_benchmark_can_be_built(tmp_path: Path):
    about = bundle.read(write_bundle(tmp_path)).manifest
    assert {row.request for row in serving.ROWS} <= set(requests.BUILD)
    for build in requests.BUILD.values():
        assert build(about).body


# precision


def test_processor_time_is_told_by_thread():
    found = hot_path.thread_seconds(os.getpid())
    assert threading.get_native_id() in found
    before = found[threading.get_native_id()]
    end = time.thread_time() + 0.1
    while time.thread_time() < end:
        pass
    more = hot_path.thread_seconds(os.getpid())[threading.get_native_id()] - before
    assert 0.05 < more < 0.5


@pytest.mark.slow
def test_loop_is_taken_apart(tmp_path: Path):
    bundle_folder = write_auto(tmp_path / "bundle")
    code = (
        "import asyncio, json; from pathlib import Path; from benchmarks import hot_path; "
        "hot_path.TURNS, hot_path.TIMES = 1, 20; "
        f"print(json.dumps(asyncio.run(hot_path.in_one_process(Path({str(bundle_folder)!r})))))"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    found = json.loads(run.stdout.splitlines()[-1])
    assert found.keys() == {"decoding", "answer_without_bentoml", "whole_answer"}
    assert min(found.values()) > 0


@pytest.mark.slow
def test_what_a_lone_client_waits_for_is_taken_apart(tmp_path: Path):
    bundle_folder = write_auto(tmp_path / "bundle")
    code = f"""
import asyncio, json, urllib.request
from pathlib import Path
from benchmarks import one_connection
from benchmarks.load import Load

def ask(aim, *, connections, seconds):
    for _ in range(20):
        urllib.request.urlopen(urllib.request.Request(aim.url, aim.bodies[0], aim.headers)).close()
    return Load(10.0, 100.0, 0.0)

one_connection.load = ask
print(json.dumps(asyncio.run(one_connection.measure(Path({str(bundle_folder)!r}), 2, 1))))
"""
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    first, second = json.loads(run.stdout.splitlines()[-1])
    assert first["whole"] == 100
    parts = ("before_network", "network", "after_network", "outside", "alone")
    assert min(first[part] for part in parts) > 0
    assert second["on_loop"] > 0.5  # one after the other


def test_memory_is_measured_of_every_mode_and_of_all(tmp_path: Path):
    found = memory.measured(write_auto(tmp_path / "bundle"))
    assert [row["modes"] for row in found["rows"]][-2:] == [
        ["auto"],
        ["distilled", "aggregated", "auto"],
    ]
    for row in found["rows"]:
        assert 0 < row["loaded_mb"] <= row["most_mb"]
