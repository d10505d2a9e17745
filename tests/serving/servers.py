"""Servers in processes of their own, started and stopped as people do it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx

from serving.settings import ROOT
from serving.start import ServeConfig

START_S = 40  # a busy machine; an idle one needs 3
STOP_S = 20


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launch(
    command: list[str], log: Path, python: str = sys.executable, **environment: str
) -> subprocess.Popen[bytes]:
    """Start something that serves, from another folder than the repository, in its own session."""
    clean = {name: value for name, value in os.environ.items() if "VIEWFOLD" not in name}
    home = {"BENTOML_HOME": str(log.parent / "home"), "PYTHONPATH": str(ROOT)}
    clean.pop("BENTOML_DO_NOT_TRACK", None)
    with log.open("wb") as output:
        return subprocess.Popen(
            [python, *command],
            cwd=log.parent,
            env={**clean, **home, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def start_command(bundle: Path, port: int, **fields: object) -> list[str]:
    config = ServeConfig(bundle, port=port, **fields)  # type: ignore[arg-type]
    return ["-c", f"from pathlib import *; from serving.start import *; run({config!r})"]


@contextmanager
def serving(
    command: list[str], port: int, log: Path, python: str = sys.executable, **environment: str
) -> Iterator[str]:
    process = launch(command, log, python, **environment)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url, process, log)
        yield url
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(STOP_S) == 0, log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert "Traceback" not in log.read_text()


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server with its workers: they have a session of their own, and outlive a first process that is killed."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"no answer after {START_S} s: {log.read_text()}")
