"""The servers that are measured, ours and others: each a process of its own, started and stopped with all it left."""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from serving import bundle
from serving.settings import ROOT

START_S = 60
OURS = "viewfold"


def flags(about: str, out: Path) -> argparse.ArgumentParser:
    """What a benchmark of servers is told: which bundle, how often, how long, and where its results go."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path, help="of a ResNet-32 at 32 x 32, by sla-sd")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of load in a round")
    parser.add_argument("--out", type=Path, default=out)
    return parser


@contextlib.contextmanager
def serving(server: str, folder: Path) -> Iterator[str]:
    """A server of its own process; yields its address once it answers."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    graph = bundle.read(folder).graph("distilled").absolute()
    with tempfile.TemporaryDirectory() as home:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "BENTOML_HOME": home,
            "BENTOML_DO_NOT_TRACK": "True",
            "CONTENDER_GRAPH": str(graph),
        }
        with (Path(home) / "log").open("wb") as log:
            process = subprocess.Popen(
                command(server, folder, port),
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            wait(url, process, Path(home) / "log")
            yield url
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with contextlib.suppress(ProcessLookupError):  # LitServe leaves its workers behind
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def command(server: str, folder: Path, port: int) -> list[str]:
    """What starts a server on a port."""
    here, python = "benchmarks.contenders", sys.executable
    if server == OURS:
        return [python, "viewfold.py", "serve", str(folder.absolute()), "--port", str(port)]
    if server == "lit":
        return [python, "-m", f"{here}.lit", str(port)]
    if server == "fast":
        options = ["--port", str(port), "--no-access-log", "--log-level", "warning"]
        return [python, "-m", "uvicorn", f"{here}.fast:app", *options]
    options = ["--working-dir", str(ROOT), "--port", str(port), "--host", "127.0.0.1"]
    name = {"usual_bentoml": "Usual", "batching_bentoml": "Batching"}[server]
    return [python, "-m", "bentoml", "serve", f"{here}.{server}:{name}", *options]


def wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> float:
    """Seconds until a server answers anything at all but 503."""
    start = time.perf_counter()
    while time.perf_counter() - start < START_S:
        if process.poll() is not None:
            raise SystemExit(f"a server ended at once: {log.read_text()[-2000:]}")
        try:
            urllib.request.urlopen(f"{url}/readyz", timeout=5).close()
            return time.perf_counter() - start
        except urllib.error.HTTPError as error:
            if error.code != 503:
                return time.perf_counter() - start
        except OSError:
            pass
        time.sleep(0.02)
    raise SystemExit(f"no answer after {START_S} s: {log.read_text()[-2000:]}")


def start_seconds(folder: Path) -> float:
    """From the command to /readyz."""
    start = time.perf_counter()
    with serving(OURS, folder):
        return time.perf_counter() - start


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
